package kubetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Files in the server's directory.
const (
	accountKey  = "service-account.key" // signs the tokens of service accounts
	tokens      = "tokens.csv"          // the administrator's
	certificate = "apiserver.crt"       // made by the API server, its CA included
)

// writeSecrets writes what the API server must find, and returns the administrator's token.
func writeSecrets(dir string) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return "", err
	}
	token := rand.Text()
	for name, content := range map[string][]byte{
		accountKey: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		tokens:     fmt.Appendf(nil, "%s,admin,1,system:masters\n", token),
	} {
		if err := os.WriteFile(dir+"/"+name, content, 0o600); err != nil {
			return "", err
		}
	}
	return token, nil
}

// trust makes the API server's certificate the one that clients accept, and writes the administrator's kubeconfig.
// The first time, it fails until the server has made it.
func (s *Server) trust() error {
	if len(s.admin.CAData) > 0 {
		return nil
	}
	pem, err := os.ReadFile(s.path(certificate))
	if err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return errors.New("the API server's certificate is not written yet")
	}
	admin := rest.CopyConfig(s.admin)
	admin.CAData = pem
	if err := writeKubeconfig(s.Kubeconfig(), admin, "default"); err != nil {
		return err
	}
	s.admin = admin
	return nil
}

// KubeconfigFor writes a kubeconfig file for a service account, which must exist, and returns its path. Whoever uses
// it may do what the account may, and no more. Its token lasts for a day, unless the account is deleted: a wipe does
// that.
func (s *Server) KubeconfigFor(namespace, serviceAccount string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := dynamic.NewForConfig(s.Config())
	if err != nil {
		return "", err
	}
	answer, err := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}).Namespace(namespace).
		Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authentication.k8s.io/v1",
			"kind":       "TokenRequest",
			"metadata":   map[string]any{"name": serviceAccount},
			"spec":       map[string]any{"expirationSeconds": int64(24 * time.Hour / time.Second)},
		}}, metav1.CreateOptions{}, "token")
	if err != nil {
		return "", fmt.Errorf("ask for a token of service account %s/%s: %w", namespace, serviceAccount, err)
	}
	token, ok, err := unstructured.NestedString(answer.Object, "status", "token")
	if err != nil || !ok {
		return "", errors.Join(fmt.Errorf("no token for service account %s/%s", namespace, serviceAccount), err)
	}
	config := s.Config()
	config.BearerToken = token
	path := s.path(namespace + "." + serviceAccount + ".kubeconfig")
	if err := writeKubeconfig(path, config, namespace); err != nil {
		return "", err
	}
	return path, nil
}

// writeKubeconfig writes a file that says what config does.
func writeKubeconfig(path string, config *rest.Config, namespace string) error {
	const name = "kubetest"
	err := clientcmd.WriteToFile(api.Config{
		Clusters:       map[string]*api.Cluster{name: {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*api.AuthInfo{name: {Token: config.BearerToken}},
		Contexts:       map[string]*api.Context{name: {Cluster: name, AuthInfo: name, Namespace: namespace}},
		CurrentContext: name,
	}, path)
	if err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	return nil
}

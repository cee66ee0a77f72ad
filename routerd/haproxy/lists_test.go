package haproxy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The lists of what there is are read as HAProxy 2.6 and 3.4 write them.
func TestParseLists(t *testing.T) {
	files := parseCertificateFiles("# transaction\n*certs/a.pem\n# filename\ncerts/a.pem\ncerts/b.pem\nca/c.pem - 1 certificate(s)\n")
	if d := cmp.Diff([]string{"certs/a.pem", "certs/b.pem", "ca/c.pem"}, files); d != "" {
		t.Error(d)
	}
}

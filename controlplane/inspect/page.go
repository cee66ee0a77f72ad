package inspect

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	maxPage      = 1000    // entries of a page
	maxPageBytes = 1 << 20 // of resources in a page: stock clients accept answers of 4 MiB
	maxToken     = 4 << 10 // bytes of a page token; ours are far shorter
)

// token is what a page token holds. Clients hand it back as it is.
type token struct {
	// Question tells questions apart: a token is for the one that it was an answer to.
	Question string `json:"q"`
	// Version is the one that all pages are of; empty where pages are of the present.
	Version string `json:"v,omitempty"`
	// After is the last entry of the page before, as the parts of its key.
	After []string `json:"a"`
}

// question fingerprints what was asked, without the paging.
func question(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:9])
}

func (t token) String() string {
	b, err := json.Marshal(t)
	if err != nil { // three strings marshal
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseToken reads a page token of a question whose entries have keys of so many parts. It returns a zero
// token for the first page.
func parseToken(s, question string, parts int) (token, error) {
	if s == "" {
		return token{}, nil
	}
	bad := status.Error(codes.InvalidArgument, "page_token is none that this service gave: leave it empty for the first page")
	if len(s) > maxToken {
		return token{}, bad
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return token{}, bad
	}
	var t token
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil || d.More() || len(t.After) != parts {
		return token{}, bad
	}
	if t.Question != question {
		return token{}, status.Error(codes.InvalidArgument, "page_token is of a page that other fields were asked for: keep all other fields as they were, or leave it empty for the first page")
	}
	return t, nil
}

// pageSize returns how many entries a page may have.
func pageSize(asked uint32) int {
	if asked == 0 || asked > maxPage {
		return maxPage
	}
	return int(asked)
}

// smallest returns the n smallest of a sequence, in order. It costs the sequence's length, and memory for n.
func smallest[T any](all iter.Seq[T], n int, compare func(T, T) int) []T {
	var kept []T
	full := false
	for v := range all {
		if full && compare(v, kept[n-1]) >= 0 {
			continue
		}
		kept = append(kept, v)
		if len(kept) == 2*n {
			slices.SortFunc(kept, compare)
			kept, full = kept[:n], true
		}
	}
	slices.SortFunc(kept, compare)
	return kept[:min(n, len(kept))]
}

// checkName refuses a filter that no object can match for its form.
func checkName(field, value string) error {
	if len(value) > 253 {
		return status.Errorf(codes.InvalidArgument, "%s is longer than any name, 253 bytes", field)
	}
	for i := range len(value) {
		switch c := value[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return status.Errorf(codes.InvalidArgument, "%s is %.100q: want a name of letters, digits, dots, dashes and underscores, or leave it empty for all", field, value)
		}
	}
	return nil
}

package haproxy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The lists of what there is are read as HAProxy 2.6 and 3.4 write them.
func TestParseLists(t *testing.T) {
	sizes, err := parseMapSizes("# id (file) description\n" +
		"0 (maps/http.map) pattern loaded from file 'maps/http.map' used by map at file 'h.cfg' line 22. curr_ver=0 next_ver=0 entry_cnt=10\n" +
		"-1 (maps/stamp.map) pattern loaded from file 'maps/stamp.map' used by map at file 'h.cfg' line 23, by map at file 'h.cfg' line 24. curr_ver=0 next_ver=0 entry_cnt=1\n")
	if d := cmp.Diff(map[string]int{"maps/http.map": 10, "maps/stamp.map": 1}, sizes); d != "" || err != nil {
		t.Error(err, d)
	}
	if _, err := parseMapSizes("# id (file) description\n"); err == nil {
		t.Error("no map is no error")
	}
	files := parseCertificateFiles("# transaction\n*certs/a.pem\n# filename\ncerts/a.pem\ncerts/b.pem\nca/c.pem - 1 certificate(s)\n")
	if d := cmp.Diff([]string{"certs/a.pem", "certs/b.pem", "ca/c.pem"}, files); d != "" {
		t.Error(d)
	}
}

package manifests

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// A file is what one file says, or said last. It is not changed once it is made.
type file struct {
	path   string // relative to the directory, with slashes
	claims []claim
	faults []cluster.Fault

	info fs.FileInfo // when it was read; nil: it could not be, and is tried again at each look
	read time.Time
	sum  [sha256.Size]byte
	memo map[[sha256.Size]byte]*decoded // chunks by their text
}

// A claim is a file's word on an object.
type claim struct {
	key   cluster.Key
	path  string
	line  int
	obj   metav1.Object
	stale bool // the file does not say so any more, but it is broken, and did
}

// racy is how long after a change another one may leave a file's time as it was, on the coarsest of file
// systems.
const racy = 2 * time.Second

// unchanged tells whether the file need not be opened again.
func (f *file) unchanged(info fs.FileInfo) bool {
	return f != nil && f.info != nil && f.info.Size() == info.Size() && f.info.ModTime().Equal(info.ModTime()) &&
		f.read.Sub(info.ModTime()) > racy && os.SameFile(f.info, info)
}

// failed returns the file as it is when it cannot be read at all: what it said stays.
func (f *file) failed(path, message, remedy string) *file {
	out := &file{path: path}
	if f != nil {
		out.claims, out.memo = stale(f.claims, func(cluster.Key) bool { return true }), f.memo
	}
	out.faults = []cluster.Fault{{Place: path, Message: message + kept(len(out.claims)), Remedy: remedy}}
	return out
}

// kept says what becomes of objects that cannot be told.
func kept(objects int) string {
	if objects == 0 {
		return "; nothing of it is used"
	}
	return "; what it held before stays in force"
}

// stale returns those of the claims that keep says, as the file's former word.
func stale(claims []claim, keep func(cluster.Key) bool) []claim {
	var out []claim
	seen := make(map[cluster.Key]bool, len(claims))
	for _, c := range claims {
		if keep(c.key) && !seen[c.key] {
			seen[c.key], c.stale = true, true
			out = append(out, c)
		}
	}
	return out
}

// A part is a chunk with what it holds.
type part struct {
	line int
	*decoded
}

// parse makes a file of its content. old is what it was before, nil if it was not.
//
// An object that the file held and now does not is deleted, if that can be told: while the file has a
// document of which not even the object's name can be read, every object that it held stays; while it has
// one whose name can be read, that object stays.
func (d *decoder) parse(ctx context.Context, path string, content []byte, old *file) *file {
	if len(bytes.TrimSpace(content)) == 0 && old != nil && len(old.claims) > 0 {
		return old.failed(path, "the file is empty", "write it again, or delete the file to delete its objects")
	}
	f := &file{path: path, memo: map[[sha256.Size]byte]*decoded{}}
	parts := d.parts(ctx, split(content, strings.HasSuffix(path, ".json")), old, f)

	fresh, broken, all := map[cluster.Key]bool{}, map[cluster.Key]bool{}, false
	for _, p := range parts {
		for _, o := range p.objects {
			f.claims = append(f.claims, claim{key: o.key, path: path, line: p.line + o.line - 1, obj: o.obj})
			fresh[o.key] = true
		}
		for _, p := range p.problems {
			if p.broken {
				broken[p.key] = true
				all = all || p.key == cluster.Key{}
			}
		}
	}
	held := map[cluster.Key]bool{}
	if old != nil && len(broken) > 0 {
		before := stale(old.claims, func(k cluster.Key) bool { return !fresh[k] && (all || broken[k]) })
		f.claims = append(f.claims, before...)
		for _, c := range before {
			held[c.key] = true
		}
	}
	for _, p := range parts {
		for _, q := range p.problems {
			fault := cluster.Fault{Place: path, Line: p.line + q.line - 1, Message: q.message, Remedy: q.remedy}
			switch {
			case !q.broken:
			case q.key == cluster.Key{}:
				fault.Message += kept(len(held))
			case held[q.key]:
				fault.Message += "; " + q.key.String() + " stays as it was"
			default:
				fault.Message += "; " + q.key.String() + " is left out"
			}
			f.faults = append(f.faults, fault)
		}
	}
	return f
}

// parts decodes documents, those that the file had before excepted. It uses every core there is.
func (d *decoder) parts(ctx context.Context, docs []document, old, f *file) []part {
	var jobs []chunk
	var sums [][sha256.Size]byte
	for _, doc := range docs {
		for _, c := range doc.chunks() {
			jobs, sums = append(jobs, c), append(sums, c.sum())
		}
	}
	results := make([]*decoded, len(jobs))
	const batch = 16
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := 0; i < len(jobs); i += batch {
		g.Go(func() error {
			for j := i; j < min(i+batch, len(jobs)); j++ {
				if old != nil {
					results[j] = old.memo[sums[j]]
				}
				if results[j] == nil {
					results[j] = d.decode(jobs[j])
				}
			}
			return ctx.Err()
		})
	}
	if g.Wait() != nil {
		return nil // the source is ending, and this read with it
	}
	var out []part
	n := 0
	for _, doc := range docs {
		var these []part
		cut := true
		for _, c := range doc.chunks() {
			these = append(these, part{c.line, results[n]})
			cut = cut && (doc.sure || !results[n].garbled)
			f.memo[sums[n]] = results[n]
			n++
		}
		if len(doc.parts) > 0 && !cut { // perhaps it was cut where it should not have been
			sum := doc.whole.sum()
			whole := f.memo[sum]
			if whole == nil && old != nil {
				whole = old.memo[sum]
			}
			if whole == nil {
				whole = d.decode(doc.whole)
			}
			f.memo[sum] = whole
			if !whole.garbled {
				these = []part{{doc.whole.line, whole}}
			}
		}
		out = append(out, these...)
	}
	return out
}

// chunks returns what is to be parsed of a document.
func (d document) chunks() []chunk {
	if len(d.parts) > 0 {
		return d.parts
	}
	return []chunk{d.whole}
}

// sum identifies all that decode depends on.
func (c chunk) sum() (out [sha256.Size]byte) {
	h := sha256.New()
	h.Write([]byte(c.apiVersion + "\x00" + c.kind + "\x00"))
	if c.problem != nil {
		h.Write([]byte("\x00"))
	}
	h.Write(c.text)
	h.Sum(out[:0])
	return out
}

// compare orders claims to one object: the one in force first.
func (c claim) compare(o claim) int {
	if c.stale != o.stale {
		if c.stale {
			return 1
		}
		return -1
	}
	return cmp.Or(strings.Compare(c.path, o.path), cmp.Compare(c.line, o.line))
}

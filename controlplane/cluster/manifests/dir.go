// Package manifests reads objects from files: a directory that is followed, or files that are read once.
//
// It guarantees that a file harms no other: what cannot be read is a fault at its line, and what the file held before
// stays. A file, a directory and the names in it are bounded. An object is of the kinds of package cluster, with an
// API server's defaults; what else stands in a file is passed over.
//
// Do not assume that an edit is seen at once: a directory is read when it is quiet again. Do not assume that objects
// are valid in an API server's eyes: only their form is looked at.
package manifests

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// DirConfig is what a Dir needs.
type DirConfig struct {
	// Path is the directory. It need not be there yet.
	Path string
	// Log is told of faults that appear and go, by file and line.
	Log *slog.Logger
	// Now is the clock of revisions; nil: time.Now.
	Now func() time.Time
	// Settle is how long the directory must be quiet before it is read again after an edit, so that a burst
	// of writes is one change; it is read after ten times that in any case. Zero: 50 ms.
	Settle time.Duration
	// Poll is how often the directory is looked at without having been told of an edit: not every file
	// system tells. Zero: 5 s.
	Poll time.Duration
}

// Validate returns everything that is wrong with c.
func (c DirConfig) Validate() error {
	var errs []error
	if c.Path == "" {
		errs = append(errs, errors.New("no path of a directory"))
	}
	if c.Log == nil {
		errs = append(errs, errors.New("no logger"))
	}
	if c.Settle < 0 || c.Poll < 0 {
		errs = append(errs, errors.New("a negative duration"))
	}
	return errors.Join(errs...)
}

// Dir is a directory of manifests as a [cluster.Source]: every *.yaml, *.yml and *.json below it, but for hidden files
// and editors' backups. The directory may be a link. Links in it are followed if they are relative and do not lead out
// of it; a file or directory is read once, however many links lead to it, and by its own name if it has one. Bounds are
// 256 MiB for a file, 1 GiB and 100,000 for all, 500,000 names of any kind, and 32 directories one in the other;
// beyond, what was read before stays in force, and what is new is not read. A file may have several documents, and
// Lists; kinds that no source follows are passed over, so what kubectl prints will do.
//
// An object is deleted by deleting its file, or its document from a file that has no broken ones. What a
// broken file held stays: of a document whose object can be named, that object; of another, all that the
// file held and does not any more. It is the same for a file that is empty or cannot be opened. When no
// object at all is left, the directory is taken for lost (a volume that is not mounted), and everything
// stays in force. For the same reason it is not synced before there is a first object. What was held for
// a broken file is lost when the process ends.
//
// Of an object that stands in two places, the first in the order of paths and lines counts.
type Dir struct {
	path, abs, epoch string
	log              *slog.Logger
	now              func() time.Time
	settle, poll     time.Duration
	most             bounds
	started          atomic.Bool

	// Owned by Run.
	decoder *decoder
	files   map[string]*file
	claims  map[cluster.Key][]claim // the first is in force
	doubles map[cluster.Key][]cluster.Fault
	current map[cluster.Key]metav1.Object

	mu       sync.Mutex // guards what follows
	pending  map[cluster.Key]metav1.Object
	taken    map[cluster.Key]metav1.Object
	faults   []cluster.Fault
	revision uint64
	synced   bool
	fresh    bool          // Take has something new
	changed  chan struct{} // closed when fresh
}

var _ cluster.Source = (*Dir)(nil)

// NewDir returns a source that reads nothing before it is run.
func NewDir(c DirConfig) (*Dir, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("directory source: %w", err)
	}
	abs, err := filepath.Abs(c.Path)
	if err != nil {
		return nil, fmt.Errorf("find directory %s: %w", c.Path, err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Settle == 0 {
		c.Settle = 50 * time.Millisecond
	}
	if c.Poll == 0 {
		c.Poll = 5 * time.Second
	}
	sum := sha256.Sum256([]byte(abs))
	return &Dir{
		path: c.Path, abs: abs, epoch: "dir:" + hex.EncodeToString(sum[:8]),
		log: c.Log, now: c.Now, settle: c.Settle, poll: c.Poll,
		most: ordinaryBounds(), decoder: newDecoder(),
		files: map[string]*file{}, claims: map[cluster.Key][]claim{}, doubles: map[cluster.Key][]cluster.Fault{},
		current: map[cluster.Key]metav1.Object{},
		pending: map[cluster.Key]metav1.Object{}, taken: map[cluster.Key]metav1.Object{}, changed: make(chan struct{}),
	}, nil
}

// String implements [cluster.Source].
func (d *Dir) String() string { return "dir:" + d.path }

// Changed implements [cluster.Source].
func (d *Dir) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// Take implements [cluster.Source]. An object that changed, and changed back, since the last Take did not change.
func (d *Dir) Take() (cluster.Batch, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fresh {
		d.fresh, d.changed = false, make(chan struct{})
	}
	b := cluster.Batch{Faults: d.faults, Observed: &tsujiv1.Observed{Epoch: d.epoch}, Revision: d.revision}
	if !d.synced {
		return b, false
	}
	for _, k := range cluster.Kinds() {
		b.Observed.Kinds = append(b.Observed.Kinds, &tsujiv1.ObservedKind{Kind: string(k), Revision: d.revision})
	}
	b.Reached = b.Observed
	for _, key := range slices.SortedFunc(maps.Keys(d.pending), cluster.Key.Compare) {
		obj, had := d.pending[key], d.taken[key]
		if obj == nil && had == nil || obj != nil && had != nil && equality.Semantic.DeepEqual(obj, had) {
			continue
		}
		b.Changes = append(b.Changes, cluster.Change{Key: key, Object: obj})
		if obj == nil {
			delete(d.taken, key)
		} else {
			d.taken[key] = obj
		}
	}
	d.pending = map[cluster.Key]metav1.Object{} // not cleared: that costs as much as it ever held
	return b, true
}

// publish makes changes and faults visible to Take.
func (d *Dir) publish(dirty map[cluster.Key]bool, faults []cluster.Fault, synced bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	news := synced && !d.synced
	d.synced = d.synced || synced
	if len(dirty) > 0 || news {
		d.revision = max(uint64(max(d.now().UnixMilli(), 1)), d.revision+1)
		for key := range dirty {
			d.pending[key] = d.current[key]
		}
		news = true
	}
	for i := range faults {
		faults[i] = faults[i].Printable()
	}
	if !slices.Equal(d.faults, faults) {
		cluster.LogFaults(d.log, d.String(), d.faults, faults)
		d.faults, news = faults, true
	}
	if news && !d.fresh {
		d.fresh = true
		close(d.changed)
	}
}

// Run implements [cluster.Source].
func (d *Dir) Run(ctx context.Context) error {
	if d.started.Swap(true) {
		return fmt.Errorf("directory source %s: run twice", d.path)
	}
	w := newWatch(d.abs, d.log)
	defer w.close()
	for ctx.Err() == nil {
		w.forget()
		ok := d.read(ctx, w.add)
		poll := d.poll
		if !ok { // a volume that is mounted tells nobody
			poll = min(poll, time.Second)
		}
		w.wait(ctx, poll, d.settle)
	}
	return nil
}

// read looks at the directory once, telling visit of each directory in it, and publishes what is new. It
// returns whether there were any objects.
func (d *Dir) read(ctx context.Context, visit func(dir string)) bool {
	w, err := newWalk(ctx, d.abs, d.most, visit)
	if ctx.Err() != nil {
		return true
	}
	if err != nil {
		d.lost(reason(err), nil)
		return false
	}
	defer w.close()
	next, faults := d.look(ctx, w)
	if ctx.Err() != nil {
		return true
	}
	objects := 0
	for _, f := range next {
		objects += len(f.claims)
		faults = append(faults, f.faults...)
	}
	if objects == 0 {
		d.lost("it holds no object", faults)
		return false
	}
	dirty := d.commit(next)
	for _, fs := range d.doubles {
		faults = append(faults, fs...)
	}
	d.publish(dirty, cluster.SortFaults(faults), true)
	d.log.Debug("read the source", "source", d.String(), "files", len(next), "objects", len(d.current),
		"changed", len(dirty), "faults", len(faults))
	return true
}

// lost says that the directory is not there, or has nothing in it, and leaves everything as it was.
func (d *Dir) lost(why string, faults []cluster.Fault) {
	f := cluster.Fault{Place: ".", Message: fmt.Sprintf("the directory %s cannot be used: %s", d.path, why)}
	if len(d.current) == 0 {
		f.Message += "; nothing is served before it can"
		f.Remedy = "is the volume mounted? Put a manifest with an object into it"
	} else {
		f.Message += "; everything that it held stays in force"
		f.Remedy = "is the volume mounted? Put the manifests back; to serve no Route on purpose, leave a Namespace in it"
	}
	d.publish(nil, cluster.SortFaults(append(faults, f)), false)
}

// commit puts the word of every file in force, and returns the keys of the objects that changed.
func (d *Dir) commit(next map[string]*file) map[cluster.Key]bool {
	supersede(next)
	touched := map[cluster.Key]bool{}
	for path, old := range d.files {
		if next[path] == old || next[path] != nil && slices.Equal(next[path].claims, old.claims) {
			continue
		}
		for _, c := range old.claims {
			touched[c.key] = true
			d.claims[c.key] = slices.DeleteFunc(d.claims[c.key], func(o claim) bool { return o.path == path })
		}
	}
	for path, f := range next {
		if old := d.files[path]; old == f || old != nil && slices.Equal(f.claims, old.claims) {
			continue
		}
		for _, c := range f.claims {
			touched[c.key] = true
			d.claims[c.key] = append(d.claims[c.key], c)
		}
	}
	d.files = next
	dirty := map[cluster.Key]bool{}
	for key := range touched {
		if d.resolveKey(key) {
			dirty[key] = true
		}
	}
	return dirty
}

// supersede ends what broken files held of objects that another file has now: they moved.
func supersede(files map[string]*file) {
	held := map[cluster.Key][]string{}
	for path, f := range files {
		for _, c := range f.claims {
			if c.stale {
				held[c.key] = append(held[c.key], path)
			}
		}
	}
	if len(held) == 0 {
		return
	}
	for _, f := range files {
		for _, c := range f.claims {
			if c.stale {
				continue
			}
			for _, path := range held[c.key] {
				was := *files[path]
				was.claims = slices.DeleteFunc(slices.Clone(was.claims), func(o claim) bool { return o.stale && o.key == c.key })
				files[path] = &was
			}
			delete(held, c.key)
		}
	}
}

// resolveKey decides whose word on an object counts, and returns whether the object changed by it.
func (d *Dir) resolveKey(key cluster.Key) bool {
	claims := d.claims[key]
	slices.SortFunc(claims, claim.compare)
	delete(d.doubles, key)
	for _, c := range claims[min(1, len(claims)):] {
		if c.stale {
			break
		}
		d.doubles[key] = append(d.doubles[key], cluster.Fault{
			Place: c.path, Line: c.line,
			Message: fmt.Sprintf("%s stands here again, after %s:%d, which is the one that is used",
				key, claims[0].path, claims[0].line),
			Remedy: "remove one of them, or give it another name",
		})
	}
	if len(claims) == 0 {
		delete(d.claims, key)
		_, had := d.current[key]
		delete(d.current, key)
		return had
	}
	if had, ok := d.current[key]; ok && (had == claims[0].obj || equality.Semantic.DeepEqual(had, claims[0].obj)) {
		return false
	}
	d.current[key] = claims[0].obj
	return true
}

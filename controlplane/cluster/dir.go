package cluster

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

// Dir is a directory of manifests as a [Source]: every *.yaml, *.yml and *.json below it, but for hidden files and
// editors' backups. The directory may be a link. Links in it are followed if they are relative and do not lead out of
// it; a file or directory is read once, however many links lead to it, and by its own name if it has one. Bounds are
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
	claims  map[Key][]claim // the first is in force
	doubles map[Key][]Fault
	current map[Key]metav1.Object

	mu       sync.Mutex // guards what follows
	pending  map[Key]metav1.Object
	taken    map[Key]metav1.Object
	faults   []Fault
	revision uint64
	synced   bool
	fresh    bool          // Take has something new
	changed  chan struct{} // closed when fresh
}

var _ Source = (*Dir)(nil)

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
		files: map[string]*file{}, claims: map[Key][]claim{}, doubles: map[Key][]Fault{}, current: map[Key]metav1.Object{},
		pending: map[Key]metav1.Object{}, taken: map[Key]metav1.Object{}, changed: make(chan struct{}),
	}, nil
}

// String implements [Source].
func (d *Dir) String() string { return "dir:" + d.path }

// Changed implements [Source].
func (d *Dir) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// Take implements [Source]. An object that changed, and changed back, since the last Take did not change.
func (d *Dir) Take() (Batch, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fresh {
		d.fresh, d.changed = false, make(chan struct{})
	}
	b := Batch{Faults: d.faults, Observed: &tsujiv1.Observed{Epoch: d.epoch}, Revision: d.revision}
	if !d.synced {
		return b, false
	}
	for _, k := range Kinds() {
		b.Observed.Kinds = append(b.Observed.Kinds, &tsujiv1.ObservedKind{Kind: string(k), Revision: d.revision})
	}
	b.Reached = b.Observed
	for _, key := range slices.SortedFunc(maps.Keys(d.pending), Key.Compare) {
		obj, had := d.pending[key], d.taken[key]
		if obj == nil && had == nil || obj != nil && had != nil && equality.Semantic.DeepEqual(obj, had) {
			continue
		}
		b.Changes = append(b.Changes, Change{key, obj})
		if obj == nil {
			delete(d.taken, key)
		} else {
			d.taken[key] = obj
		}
	}
	d.pending = map[Key]metav1.Object{} // not cleared: that costs as much as it ever held
	return b, true
}

// publish makes changes and faults visible to Take.
func (d *Dir) publish(dirty map[Key]bool, faults []Fault, synced bool) {
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
		faults[i] = faults[i].printable()
	}
	if !slices.Equal(d.faults, faults) {
		report(d.log, d.String(), d.faults, faults)
		d.faults, news = faults, true
	}
	if news && !d.fresh {
		d.fresh = true
		close(d.changed)
	}
}

// logged is how many faults of one read are logged one by one.
const logged = 100

// report logs the faults that are new, and those that are no more.
func report(log *slog.Logger, source string, before, now []Fault) {
	had, has := map[Fault]bool{}, map[Fault]bool{} // wherever in its file the fault stands
	for _, f := range before {
		f.Line = 0
		had[f] = true
	}
	n := 0
	for _, f := range now {
		key := f
		key.Line = 0
		has[key] = true
		if had[key] {
			continue
		}
		if n++; n <= logged {
			log.Warn("fault in the source", "source", source, "place", f.Place, "line", f.Line, "message", f.Message, "remedy", f.Remedy)
		}
	}
	if n > logged {
		log.Warn("more faults in the source", "source", source, "faults", n-logged)
	}
	n = 0
	for _, f := range before {
		key := f
		key.Line = 0
		if has[key] {
			continue
		}
		if n++; n <= logged {
			log.Info("fault in the source is mended", "source", source, "place", f.Place, "line", f.Line, "message", f.Message)
		}
	}
}

// Run implements [Source].
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
	d.publish(dirty, sorted(faults), true)
	d.log.Debug("read the source", "source", d.String(), "files", len(next), "objects", len(d.current), "changed", len(dirty), "faults", len(faults))
	return true
}

// lost says that the directory is not there, or has nothing in it, and leaves everything as it was.
func (d *Dir) lost(why string, faults []Fault) {
	f := Fault{Place: ".", Message: fmt.Sprintf("the directory %s cannot be used: %s", d.path, why)}
	if len(d.current) == 0 {
		f.Message += "; nothing is served before it can"
		f.Remedy = "is the volume mounted? Put a manifest with an object into it"
	} else {
		f.Message += "; everything that it held stays in force"
		f.Remedy = "is the volume mounted? Put the manifests back; to serve no Route on purpose, leave a Namespace in it"
	}
	d.publish(nil, sorted(append(faults, f)), false)
}

// commit puts the word of every file in force, and returns the keys of the objects that changed.
func (d *Dir) commit(next map[string]*file) map[Key]bool {
	supersede(next)
	touched := map[Key]bool{}
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
	dirty := map[Key]bool{}
	for key := range touched {
		if d.settleKey(key) {
			dirty[key] = true
		}
	}
	return dirty
}

// supersede ends what broken files held of objects that another file has now: they moved.
func supersede(files map[string]*file) {
	held := map[Key][]string{}
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

// settleKey decides whose word on an object counts, and returns whether the object changed by it.
func (d *Dir) settleKey(key Key) bool {
	claims := d.claims[key]
	slices.SortFunc(claims, claim.compare)
	delete(d.doubles, key)
	for _, c := range claims[min(1, len(claims)):] {
		if c.stale {
			break
		}
		d.doubles[key] = append(d.doubles[key], Fault{
			Place: c.path, Line: c.line,
			Message: fmt.Sprintf("%s stands here again, after %s:%d, which is the one that is used", key, claims[0].path, claims[0].line),
			Remedy:  "remove one of them, or give it another name",
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

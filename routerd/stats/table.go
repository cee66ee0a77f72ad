package stats

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// table is what HAProxy's objects count, by the labels that they are exposed with. Several objects may have the
// same labels: a route's backend and its predecessor that still drains.
//
// Of each counter a series shows carried + the sum of its objects. Whenever an object is gone, or is another one of
// the same name (another worker's, or its counter has gone down), what it had counted last is carried. So
// a series does not go down while it has an object; when it has none it is forgotten. What is carried can be kept in a file.
type table struct {
	objects map[string]*object // by kind, proxy and server
	series  [kindCount]map[string]*series
	sorted  [kindCount][]*series // by labels; nil: to be sorted again
	key     []byte               // scratch
	turn    uint64               // of reading; what has another turn was not read in it
	worker  int                  // whose counters the objects hold
	moved   bool                 // something was carried since keep was called last
}

// object is a frontend, backend or server in HAProxy.
type object struct {
	series *series
	kind   kind
	last   [columnCount]uint64 // as of the last commit
	read   [columnCount]uint64 // in this turn
	have   uint32              // of read
	turn   uint64
}

type series struct {
	labels  string
	carried [columnCount]uint64
	now     [columnCount]uint64
	have    uint32
	turn    uint64
}

func newTable() *table {
	t := &table{objects: map[string]*object{}}
	for k := range t.series {
		t.series[k] = map[string]*series{}
	}
	return t
}

// begin begins a turn. What is added counts only if commit follows.
func (t *table) begin() { t.turn++ }

// add takes a row.
func (t *table) add(r *row) {
	t.key = append(t.key[:0], byte(r.kind))
	t.key = append(t.key, r.proxy...)
	if r.kind == server {
		t.key = append(append(t.key, 0), r.server...)
	}
	o := t.objects[string(t.key)]
	if o == nil {
		o = &object{kind: r.kind, series: t.find(r)}
		t.objects[string(t.key)] = o
	}
	o.read, o.have, o.turn = r.values, r.have, t.turn
}

// find returns the series that a row belongs to.
func (t *table) find(r *row) *series {
	labels := string(appendLabels(nil, r.kind, string(r.proxy), string(r.server)))
	s := t.series[r.kind][labels]
	if s == nil {
		s = &series{labels: labels}
		t.series[r.kind][labels] = s
		t.sorted[r.kind] = nil
	}
	return s
}

// drop takes back what was added of a kind in this turn.
func (t *table) drop(k kind) {
	for _, o := range t.objects {
		if o.kind == k && o.turn == t.turn {
			o.turn--
		}
	}
}

// commit makes what was added what there is, as counted by the worker with that pid.
func (t *table) commit(worker int) {
	other := t.worker != worker
	t.worker = worker
	for key, o := range t.objects {
		gone := o.turn != t.turn
		if gone || other || o.reset() {
			o.series.carry(o)
			t.moved = true
		}
		if gone {
			delete(t.objects, key)
			continue
		}
		o.last = o.read
		o.series.take(o, t.turn)
	}
	for k := range t.series {
		for labels, s := range t.series[k] {
			if s.turn != t.turn {
				delete(t.series[k], labels)
				t.sorted[k] = nil
			}
		}
	}
}

// reset tells whether the object has begun to count anew.
func (o *object) reset() bool {
	for c, g := range columnGather {
		if g == counter && o.read[c] < o.last[c] {
			return true
		}
	}
	return false
}

func (s *series) carry(o *object) {
	for c, g := range columnGather {
		if g == counter {
			s.carried[c] += o.last[c]
		}
	}
}

func (s *series) take(o *object, turn uint64) {
	if s.turn != turn {
		s.now, s.have, s.turn = [columnCount]uint64{}, 0, turn
	}
	s.have |= o.have
	for c, g := range columnGather {
		if g == largest {
			s.now[c] = max(s.now[c], o.read[c])
		} else {
			s.now[c] += o.read[c]
		}
	}
}

// list returns the series of a kind, by their labels.
func (t *table) list(k kind) []*series {
	if t.sorted[k] == nil {
		t.sorted[k] = slices.SortedFunc(maps.Values(t.series[k]), func(a, b *series) int { return strings.Compare(a.labels, b.labels) })
	}
	return t.sorted[k]
}

// chunk is how much text is made before it is handed on.
const chunk = 32 << 10

// write hands the text of all series on, in Prometheus' format. What emit is given is valid until it returns.
func (t *table) write(emit func([]byte)) {
	b := make([]byte, 0, chunk+chunk/2)
	for k := range kindCount {
		list := t.list(k)
		for _, m := range metrics[k] {
			name := prefixes[k] + m.name
			begun := m.help == ""
			for _, s := range list {
				if s.have&(1<<m.column) == 0 {
					continue
				}
				if !begun {
					begun = true
					b = append(b, "# HELP "+name+" "+m.help+"\n# TYPE "+name+" gauge\n"...)
				}
				b = s.append(b, name, m)
				if len(b) >= chunk {
					emit(b)
					b = b[:0]
				}
			}
		}
	}
	emit(b)
}

func (s *series) append(b []byte, name string, m metric) []byte {
	b = append(append(append(b, name...), '{'), s.labels...)
	if m.code != "" {
		b = append(append(append(b, `,code="`...), m.code...), '"')
	}
	b = append(b, "} "...)
	b = strconv.AppendUint(b, s.now[m.column]+s.carried[m.column], 10)
	return append(b, '\n')
}

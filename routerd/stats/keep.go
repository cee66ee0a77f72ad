package stats

import (
	"bufio"
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// kept is what of a table outlives this process, in Config.File: what its counters had before the worker that was read
// last, and what they have from it.
type kept struct {
	Worker  workerID
	Whole   bool     // that worker was to be replaced next: it has counted no more than this
	Columns []string // of each row
	Series  [kindCount][]keptSeries
}

type keptSeries struct {
	Labels        string
	Carried, Last []uint64
}

// workerID tells a worker from all others since the machine was started: pids are few in a container, and come again.
type workerID struct {
	Pid   int
	Start string // as the kernel counts; empty: not known
}

// identify returns a worker's identity.
func identify(pid int) workerID {
	id := workerID{Pid: pid}
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		// pid (comm) state …: the start is field 22, and comm may have blanks.
		if f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]); len(f) > 19 {
			id.Start = string(f[19])
		}
	}
	return id
}

// keep returns what is to be kept of a table as of its last commit, whole if the worker is to be replaced next.
func (t *table) keep(w workerID, whole bool) kept {
	t.moved = false
	k := kept{Worker: w, Whole: whole, Columns: columnNames[:]}
	last := map[*series][]uint64{}
	for _, o := range t.objects {
		sums := last[o.series]
		if sums == nil {
			sums = make([]uint64, columnCount)
			last[o.series] = sums
		}
		for c, g := range columnGather {
			if g == counter {
				sums[c] += o.last[c]
			}
		}
	}
	for kind := range t.series {
		for labels, s := range t.series[kind] {
			k.Series[kind] = append(k.Series[kind], keptSeries{labels, s.carried[:], last[s]})
		}
	}
	return k
}

// takeUp makes the series go on from what was kept. All objects of this turn were added, and it is to be committed next. What the worker
// before this one had counted is carried, if that is known; what this one has counted is in its objects already.
func (t *table) takeUp(k kept, w workerID) {
	before := k.Worker != w
	if before && !k.Whole {
		return // a part of it would be worse than to begin anew
	}
	for kind := range k.Series {
		for _, old := range k.Series[kind] {
			s := t.series[kind][old.Labels]
			if s == nil {
				continue // forgotten
			}
			for c := range s.carried {
				s.carried[c] += old.Carried[c]
				if before && old.Last != nil {
					s.carried[c] += old.Last[c]
				}
			}
		}
	}
}

// save writes what is to be kept.
func (k kept) save(path string) error {
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	err = errors.Join(gob.NewEncoder(w).Encode(k), w.Flush(), f.Close())
	if err == nil {
		err = os.Rename(next, path)
	}
	return err
}

// loadKept reads what was kept; nothing if there is no file, or one with other columns.
func loadKept(path string) (kept, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return kept{}, nil
	}
	if err != nil {
		return kept{}, err
	}
	defer f.Close()
	var k kept
	if err := gob.NewDecoder(bufio.NewReader(f)).Decode(&k); err != nil {
		return kept{}, err
	}
	if !slices.Equal(k.Columns, columnNames[:]) {
		return kept{}, nil
	}
	for kind := range k.Series {
		for _, s := range k.Series[kind] {
			if len(s.Carried) != int(columnCount) || s.Last != nil && len(s.Last) != int(columnCount) {
				return kept{}, fmt.Errorf("series %s has %d and %d columns, want %d", s.Labels, len(s.Carried), len(s.Last), columnCount)
			}
		}
	}
	return k, nil
}

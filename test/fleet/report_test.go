package fleet_test

import (
	"fmt"
	"strings"
	"time"
)

// span is how long something took, and what it cost the server.
type span struct{ wall, cpu time.Duration }

func (s span) String() string {
	return fmt.Sprintf("%.2f s, %.2f CPU-s", s.wall.Seconds(), s.cpu.Seconds())
}

// series is changes, and when they had reached the last router.
type series struct {
	changes        int
	cpu            time.Duration   // of the server
	bytes          int             // to all routers
	written, acked []time.Duration // until the last router had read it, and answered; sorted
}

// figures are what is measured of one server.
type figures struct {
	kind    string
	routers int

	firstSync     span
	single        series // one by one
	steadily      series
	odd           series // steadily, while some routers misbehave
	heapPerStream int    // bytes, of an idle one
	resident      uint64 // bytes of the process with all connected
	storm         span   // all connect again
	resent        int    // resources sent by that
	moved         span   // all go to another replica
	movedResent   int
}

// quantile returns a quantile of what is sorted, and not empty.
func quantile(sorted []time.Duration, of float64) time.Duration {
	return sorted[min(int(of*float64(len(sorted))), len(sorted)-1)]
}

// The cells of a table; of what was not measured, a dash.
const none = "–"

func threeOf(sorted []time.Duration) string {
	if len(sorted) == 0 {
		return none
	}
	ms := func(of float64) float64 { return float64(quantile(sorted, of).Microseconds()) / 1000 }
	return fmt.Sprintf("%.1f / %.1f / %.1f ms", ms(.5), ms(.99), ms(1))
}

// each is the CPU time of a change for a router.
func (f figures) each(s series) string {
	if s.changes == 0 {
		return none
	}
	return fmt.Sprintf("%.1f µs", float64(s.cpu.Nanoseconds())/1000/float64(s.changes*f.routers))
}

func (f figures) bytesOf(s series) string {
	if s.changes == 0 {
		return none
	}
	return fmt.Sprintf("%d B", s.bytes/(s.changes*f.routers))
}

func again(s span, resources int) string {
	if s.wall == 0 {
		return none
	}
	return fmt.Sprintf("%s, %d resources", s, resources)
}

// table prints servers beside each other, as docs/scale.md has them.
func table(all ...figures) string {
	var b strings.Builder
	row := func(name string, cell func(figures) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, f := range all {
			fmt.Fprintf(&b, " %s |", cell(f))
		}
		b.WriteByte('\n')
	}
	row("", func(f figures) string { return f.kind })
	row("---", func(figures) string { return "---" })
	for _, part := range []struct {
		name string
		of   func(figures) series
	}{
		{"one by one", func(f figures) series { return f.single }},
		{"steadily", func(f figures) series { return f.steadily }},
		{"steadily, some routers slow, refusing or flapping", func(f figures) series { return f.odd }},
	} {
		row(part.name+": read by the last router, p50 / p99 / max", func(f figures) string { return threeOf(part.of(f).written) })
		row("answered by the last", func(f figures) string { return threeOf(part.of(f).acked) })
		row("CPU for a change and router", func(f figures) string { return f.each(part.of(f)) })
		row("bytes for a change and router", func(f figures) string { return f.bytesOf(part.of(f)) })
	}
	row("first sync of all", func(f figures) string { return f.firstSync.String() })
	row("heap of an idle stream", func(f figures) string { return fmt.Sprintf("%.1f KiB", float64(f.heapPerStream)/1024) })
	row("resident memory, all connected", func(f figures) string { return fmt.Sprintf("%d MiB", f.resident>>20) })
	row("all connect again, unchanged", func(f figures) string { return again(f.storm, f.resent) })
	row("all go to another replica, unchanged", func(f figures) string { return again(f.moved, f.movedResent) })
	return b.String()
}

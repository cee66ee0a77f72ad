package cluster

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Fault is something in the source that a person must mend.
type Fault struct {
	// Place is a file relative to the directory, or "Kind namespace/name".
	Place string
	// Line is the line in the file, from 1; 0: unknown.
	Line int
	// Message says what is wrong, and what is in force meanwhile.
	Message string
	// Remedy says what to do about it.
	Remedy string
}

// String returns the fault in one line: "routes.yaml:12: message (remedy)".
func (f Fault) String() string {
	place := f.Place
	if f.Line > 0 {
		place = fmt.Sprintf("%s:%d", place, f.Line)
	}
	return fmt.Sprintf("%s: %s (%s)", place, f.Message, f.Remedy)
}

// Printable returns the fault with nothing in it that a terminal would obey or a protobuf cannot hold: files may have
// such names.
func (f Fault) Printable() Fault {
	f.Place, f.Message, f.Remedy = printable(f.Place), printable(f.Message), printable(f.Remedy)
	return f
}

func printable(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if unicode.IsPrint(r) && (r != utf8.RuneError || n > 1) {
			b.WriteString(s[:n])
		} else {
			quoted := strconv.Quote(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[n:]
	}
	return b.String()
}

// SortFaults sorts faults, and returns them, by place, line and message.
func SortFaults(faults []Fault) []Fault {
	slices.SortFunc(faults, func(a, b Fault) int {
		return cmp.Or(strings.Compare(a.Place, b.Place), cmp.Compare(a.Line, b.Line), strings.Compare(a.Message, b.Message))
	})
	return faults
}

// logged is how many faults of one read are logged one by one.
const logged = 100

// LogFaults logs the faults that are new, and those that are no more.
func LogFaults(log *slog.Logger, source string, before, now []Fault) {
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
			log.Warn("fault in the source", "source", source, "place", f.Place, "line", f.Line,
				"message", f.Message, "remedy", f.Remedy)
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

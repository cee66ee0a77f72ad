package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"

	"github.com/tsuji-dev/tsuji/snapshot"
)

// format is how an answer is printed; a flag.
type format string

const (
	asTable format = "table" // for people: it may change
	asJSON  format = "json"  // the answer's message, as protobuf's JSON mapping writes it
	asYAML  format = "yaml"  // the same
)

// String, Set and Type make a format a flag.
func (f *format) String() string { return string(*f) }

// Set reads a format.
func (f *format) Set(s string) error {
	switch v := format(s); v {
	case asTable, asJSON, asYAML:
		*f = v
		return nil
	default:
		return fmt.Errorf("want table, json or yaml")
	}
}

// Type is what --help calls a format.
func (f *format) Type() string { return "format" }

func (f *format) flags(flags *pflag.FlagSet, standard format) {
	*f = standard
	flags.VarP(f, "output", "o", "table, json or yaml")
}

// print writes the message as JSON or YAML, or calls table.
func (f format) print(w io.Writer, m proto.Message, table func(*grid)) error {
	if f == asTable {
		g := &grid{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
		table(g)
		return g.w.Flush()
	}
	b, err := encodeJSON(m, protojson.MarshalOptions{EmitDefaultValues: true})
	if err != nil {
		return err
	}
	return f.write(w, b)
}

// printValue does the same with an answer that is no message.
func (f format) printValue(w io.Writer, v any, table func(*grid)) error {
	if f == asTable {
		return f.print(w, nil, table)
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write as JSON: %w", err)
	}
	return f.write(w, append(b, '\n'))
}

// write writes JSON, or what is the same in YAML.
func (f format) write(w io.Writer, b []byte) error {
	if f == asYAML {
		var err error
		if b, err = yaml.JSONToYAML(b); err != nil {
			return fmt.Errorf("write as YAML: %w", err)
		}
	}
	_, err := w.Write(b)
	return err
}

// encodeJSON marshals a message always in the same way, which protojson by itself avoids on purpose.
func encodeJSON(m proto.Message, o protojson.MarshalOptions) ([]byte, error) {
	raw, err := o.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write as JSON: %w", err)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return nil, fmt.Errorf("write as JSON: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// grid is a table in the making, and the text around it.
type grid struct{ w *tabwriter.Writer }

// row adds a row of cells. Cells come from others: what a terminal would act on is escaped.
func (g *grid) row(cells ...string) {
	for i, c := range cells {
		if c = printable(c); c == "" {
			c = "-"
		}
		cells[i] = strings.ReplaceAll(c, "\n", " ")
	}
	fmt.Fprintln(g.w, strings.Join(cells, "\t"))
}

// fact adds a name and a value, as text.
func (g *grid) fact(name, format string, args ...any) {
	fmt.Fprintf(g.w, "%s\t%s\n", name, printable(fmt.Sprintf(format, args...)))
}

// text ends the table and adds a line.
func (g *grid) text(format string, args ...any) {
	g.w.Flush() //nolint:errcheck // print's own Flush reports the same error
	fmt.Fprintf(g.w, "%s\n", printable(fmt.Sprintf(format, args...)))
	g.w.Flush() //nolint:errcheck // as above
}

// printable escapes what is not to be printed: control characters, and what hides or reorders text. Line
// breaks stay.
func printable(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unprintable(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }

// short cuts a version's digests for a table. What is no version stays as it is.
func short(v string) string {
	p, err := snapshot.ParseVersion(v)
	if err != nil {
		return v
	}
	return p.Short()
}

// sameVersion tells whether both are versions of the same content.
func sameVersion(a, b string) bool {
	v, err := snapshot.ParseVersion(a)
	if err != nil || v.IsZero() {
		return false
	}
	w, err := snapshot.ParseVersion(b)
	return err == nil && v.Equal(w)
}

// age tells how long ago t was, in the largest unit that fits.
func age(t *timestamppb.Timestamp, now time.Time) string {
	if !t.IsValid() || t.AsTime().Unix() <= 0 {
		return ""
	}
	switch d := max(now.Sub(t.AsTime()), 0); {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	default:
		return strconv.Itoa(int(d.Hours()/24)) + "d"
	}
}

// yesNo is for people who do not read true and false.
func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// count writes a number with its noun: "1 fault", "2 faults".
func count[N ~int | ~uint32](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

package stats

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strconv"
)

// maxRow bounds a line of an answer. A row has a few hundred bytes, and what a health check said some hundreds more.
const maxRow = 64 << 10

// answers reads what HAProxy answers to "show info" and "show stat" on one connection. It holds one buffer,
// however long the answer is, and allocates nothing for a row.
type answers struct {
	r          io.Reader
	buf        []byte
	start, end int // of what was read and is not used yet
	fields     []int8
	failures   int // rows and values that could not be understood
}

// Columns of the CSV that are for ourselves, beside those that are a column.
const (
	fieldUnused int8 = -1 - iota
	fieldProxy
	fieldServer
	fieldType
	fieldUsable
)

// row is what one row says. Its names are valid until the next is read.
type row struct {
	proxy, server []byte
	kind          kind
	values        [columnCount]uint64
	have          uint32 // bit per column
	usable        uint64 // of a backend: servers that take traffic, or would if the others were down
}

func newAnswers(r io.Reader) *answers { return &answers{r: r, buf: make([]byte, maxRow)} }

// info is what is needed of "show info".
type info struct {
	pid            int
	maxConnections int
}

// info reads the first answer, up to the empty line that ends it.
func (a *answers) info() (info, error) {
	var i info
	for {
		line, err := a.line()
		if err != nil {
			return info{}, fmt.Errorf("show info: %w", err)
		}
		if len(line) == 0 {
			break
		}
		key, value, _ := bytes.Cut(line, []byte(":"))
		n, _ := strconv.Atoi(string(bytes.TrimSpace(value))) // 0 is refused below
		switch string(key) {
		case "Pid":
			i.pid = n
		case "Maxconn":
			i.maxConnections = n
		}
	}
	if i.pid <= 0 {
		return info{}, errors.New("show info: no pid")
	}
	return i, nil
}

// header reads the names of the columns.
func (a *answers) header() error {
	line, err := a.line()
	if err != nil {
		return fmt.Errorf("show stat: %w", err)
	}
	names, ok := bytes.CutPrefix(line, []byte("# "))
	if !ok {
		return fmt.Errorf("show stat: %.100q", line)
	}
	names = bytes.TrimSuffix(names, []byte(",")) // one follows each name and each value
	a.fields = a.fields[:0]
	var need uint8
	for name := range bytes.SplitSeq(names, []byte(",")) {
		f := fieldUnused
		switch string(name) {
		case "pxname":
			f = fieldProxy
		case "svname":
			f = fieldServer
		case "type":
			f = fieldType
		case "act", "bck":
			f = fieldUsable
		default:
			for c, n := range columnNames {
				if string(name) == n {
					f = int8(c)
				}
			}
		}
		if f < fieldUnused && f > fieldUsable {
			need |= 1 << -f
		}
		a.fields = append(a.fields, f)
	}
	if bits.OnesCount8(need) != 3 {
		return errors.New("show stat: want the columns pxname, svname and type")
	}
	return nil
}

// next reads a row. It returns false after the last, which an empty line follows: an answer that just ends is an
// error, and a row that cannot be understood is passed over and counted.
func (a *answers) next(r *row) (bool, error) {
	for {
		line, err := a.line()
		if err != nil {
			return false, fmt.Errorf("show stat: %w", err)
		}
		if len(line) == 0 {
			return false, nil
		}
		if a.row(line, r) {
			return true, nil
		}
		a.failures++
	}
}

// row takes a line apart.
func (a *answers) row(line []byte, r *row) bool {
	*r = row{kind: kindCount}
	for _, f := range a.fields {
		value, rest, ok := cutField(line)
		if !ok {
			return false
		}
		line = rest
		switch {
		case f == fieldUnused || len(value) == 0:
		case f == fieldProxy:
			r.proxy = value
		case f == fieldServer:
			r.server = value
		case f == fieldType:
			if len(value) != 1 || value[0] < '0' || value[0] >= '0'+byte(kindCount) {
				return false
			}
			r.kind = kind(value[0] - '0')
		case f == fieldUsable:
			n, _ := number(value) // it only tells when more is worth asking
			r.usable += min(n, 1<<32)
		case column(f) == status:
			r.have |= 1 << f
			if up(value) {
				r.values[f] = 1
			}
		default:
			n, ok := number(value)
			if !ok {
				a.failures++
				continue
			}
			r.values[f], r.have = n, r.have|1<<f
		}
	}
	return r.kind < kindCount && len(r.proxy) > 0
}

// up tells whether a status means traffic: "UP" with or without how near it is to its end, "OPEN", "no check".
func up(status []byte) bool {
	return bytes.HasPrefix(status, []byte("UP")) || string(status) == "OPEN" || string(status) == "no check"
}

// number reads a number. One that is too large is none.
func number(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// cutField returns the first field of a line, without its quotes. Two quotes within it are left as they are: no name or
// number has them.
func cutField(line []byte) (field, rest []byte, ok bool) {
	if len(line) == 0 {
		return nil, nil, false
	}
	if line[0] != '"' {
		if i := bytes.IndexByte(line, ','); i >= 0 {
			return line[:i], line[i+1:], true
		}
		return line, nil, true
	}
	for i := 1; i < len(line); i++ {
		if line[i] != '"' {
			continue
		}
		if i+1 < len(line) && line[i+1] == '"' {
			i++
			continue
		}
		rest = line[i+1:]
		if len(rest) > 0 && rest[0] != ',' {
			return nil, nil, false
		}
		return line[1:i], bytes.TrimPrefix(rest, []byte(",")), true
	}
	return nil, nil, false
}

// line returns the next line without its end. A line end within quotes does not end it.
func (a *answers) line() ([]byte, error) {
	searched, quotes := a.start, 0
	for {
		i := bytes.IndexByte(a.buf[searched:a.end], '\n')
		if i < 0 {
			quotes += bytes.Count(a.buf[searched:a.end], []byte{'"'})
			searched = a.end - a.start
			if err := a.fill(); err != nil {
				return nil, err
			}
			searched += a.start
			continue
		}
		quotes += bytes.Count(a.buf[searched:searched+i], []byte{'"'})
		searched += i + 1
		if quotes%2 == 0 {
			line := a.buf[a.start : searched-1]
			a.start = searched
			return line, nil
		}
	}
}

// fill reads more. It moves what is not used yet to the front.
func (a *answers) fill() error {
	if a.end == len(a.buf) {
		if a.start == 0 {
			return fmt.Errorf("a line has more than %d bytes", len(a.buf))
		}
		a.end = copy(a.buf, a.buf[a.start:a.end])
		a.start = 0
	}
	n, err := a.r.Read(a.buf[a.end:])
	a.end += n
	switch {
	case n > 0:
		return nil
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case err == nil:
		return io.ErrNoProgress
	default:
		return err
	}
}

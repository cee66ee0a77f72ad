package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"time"

	"github.com/tsuji-dev/tsuji/snapshot"
)

// Both files begin with a header:
//
//	magic 8, format 4, schema epoch 4, CRC-32C of these 4 (bytes; integers are big-endian)
//
// and go on with records:
//
//	length of the payload 4, type 1, payload, CRC-32C of all these 4
//
// The header stays so in every format, that an older routerd can tell that it meets a newer one's file.
const (
	format     = 1
	headerSize = 8 + 4 + 4 + 4
	headSize   = 4 + 1 // of a record, before its payload
	sumSize    = 4

	checkpointMagic = "tsujichk"
	journalMagic    = "tsujijnl"
)

type recordType byte

const (
	recordItems  recordType = 1 // checkpoint: items
	recordEnd    recordType = 2 // checkpoint: the version they make; the last record
	recordChange recordType = 3 // journal: a difference, and the versions at both of its ends
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errDamaged = errors.New("damaged, or cut off")
	errFormat  = errors.New("written by another release of routerd")
)

func header(magic string) []byte {
	b := append(make([]byte, 0, headerSize), magic...)
	b = binary.BigEndian.AppendUint32(b, format)
	b = binary.BigEndian.AppendUint32(b, snapshot.Epoch)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// frame returns a whole record.
func frame(t recordType, payload func([]byte) []byte) []byte {
	b := payload([]byte{0, 0, 0, 0, byte(t)})
	binary.BigEndian.PutUint32(b, uint32(len(b)-headSize))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// records reads a file's records.
type records struct {
	r    *bufio.Reader
	left int64 // bytes of the file that were not read yet
	off  int64 // where the next record begins
	buf  []byte
}

// readHeader reads a header of the kind, and returns the records behind it and the schema epoch.
func readHeader(f io.Reader, size int64, magic string) (*records, uint32, error) {
	r := &records{r: bufio.NewReaderSize(f, 1<<16), left: size - headerSize, off: headerSize}
	var b [headerSize]byte
	if _, err := io.ReadFull(r.r, b[:]); err != nil {
		return nil, 0, damaged("header", err)
	}
	body := b[:headerSize-sumSize]
	if string(b[:len(magic)]) != magic || binary.BigEndian.Uint32(b[len(body):]) != crc32.Checksum(body, castagnoli) {
		return nil, 0, fmt.Errorf("header: %w", errDamaged)
	}
	if got := binary.BigEndian.Uint32(b[8:]); got != format {
		return nil, 0, fmt.Errorf("format %d, this routerd knows %d: %w", got, format, errFormat)
	}
	return r, binary.BigEndian.Uint32(b[12:]), nil
}

// damaged is what reading less than there should be means, unless the disk itself cannot be read.
func damaged(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s: %w", what, errDamaged)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// next returns the next record. The payload is good until the next call. The end of the file is io.EOF, a
// record that is not whole errDamaged.
func (r *records) next() (recordType, []byte, error) {
	if r.left == 0 {
		return 0, nil, io.EOF
	}
	var head [headSize]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, damaged("record", err)
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	whole := headSize + n + sumSize
	if whole > r.left {
		return 0, nil, fmt.Errorf("record: %w", errDamaged)
	}
	if int64(cap(r.buf)) < n+sumSize {
		r.buf = make([]byte, n+sumSize)
	}
	r.buf = r.buf[:n+sumSize]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		return 0, nil, damaged("record", err)
	}
	sum := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, r.buf[:n])
	if sum != binary.BigEndian.Uint32(r.buf[n:]) {
		return 0, nil, fmt.Errorf("record: %w", errDamaged)
	}
	r.left -= whole
	r.off += whole
	return recordType(head[4]), r.buf[:n], nil
}

// change is a record of the journal.
type change struct {
	at       time.Time        // when it was recorded, to the millisecond
	from, to snapshot.Version // from is zero where there was nothing before
	count    int              // of resources in to
	delta    snapshot.Delta
}

func (c change) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(c.at.UnixMilli()))
	b = appendVersion(b, c.from)
	b = appendVersion(b, c.to)
	b = binary.AppendUvarint(b, uint64(c.count))
	b = binary.AppendUvarint(b, uint64(len(c.delta.Put)))
	for _, i := range c.delta.Put {
		b = appendItem(b, i)
	}
	b = binary.AppendUvarint(b, uint64(len(c.delta.Removed)))
	for _, n := range c.delta.Removed {
		b = appendString(b, n)
	}
	return b
}

func parseChange(b []byte) (change, error) {
	p := parser{left: b}
	c := change{at: p.time(), from: p.version(), to: p.version(), count: p.length(math.MaxInt32)}
	for range p.length(len(b)) {
		c.delta.Put = append(c.delta.Put, p.item())
	}
	for range p.length(len(b)) {
		c.delta.Removed = append(c.delta.Removed, string(p.bytes()))
	}
	return c, p.end()
}

// end is the last record of a checkpoint.
type end struct {
	version snapshot.Version
	count   int
}

func (e end) append(b []byte) []byte {
	return binary.AppendUvarint(appendVersion(b, e.version), uint64(e.count))
}

func parseEnd(b []byte) (end, error) {
	p := parser{left: b}
	e := end{version: p.version(), count: p.length(math.MaxInt32)}
	return e, p.end()
}

// parseItems reads the items of a checkpoint's record, up to its end.
func parseItems(b []byte, put func(snapshot.Item)) error {
	p := parser{left: b}
	for len(p.left) > 0 && p.err == nil {
		if i := p.item(); p.err == nil {
			put(i)
		}
	}
	return p.end()
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendItem(b []byte, i snapshot.Item) []byte {
	b = appendString(b, i.Name())
	b = binary.AppendUvarint(b, uint64(len(i.Encoded())))
	return append(b, i.Encoded()...)
}

func appendVersion(b []byte, v snapshot.Version) []byte {
	b = binary.BigEndian.AppendUint64(b, v.Revision)
	b = append(b, v.Config[:]...)
	return append(b, v.Facts[:]...)
}

// parser takes a payload apart. After an error it returns zero values.
type parser struct {
	left []byte
	err  error
}

func (p *parser) take(n int) []byte {
	if p.err != nil || n > len(p.left) {
		p.err = errDamaged
		return nil
	}
	b := p.left[:n]
	p.left = p.left[n:]
	return b
}

func (p *parser) uint64() uint64 {
	if b := p.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (p *parser) time() time.Time { return time.UnixMilli(int64(p.uint64())) }

// length reads a number that is at most limit.
func (p *parser) length(limit int) int {
	n, size := binary.Uvarint(p.left)
	if p.err != nil || size <= 0 || n > uint64(limit) {
		p.err = errDamaged
		return 0
	}
	p.left = p.left[size:]
	return int(n)
}

func (p *parser) bytes() []byte { return p.take(p.length(len(p.left))) }

// item reads an item. Its content is a copy: a record's memory is not kept for one item in it.
func (p *parser) item() snapshot.Item {
	name := string(p.bytes())
	return snapshot.NewItem(name, bytes.Clone(p.bytes()))
}

func (p *parser) version() (v snapshot.Version) {
	v.Revision = p.uint64()
	copy(v.Config[:], p.take(len(v.Config)))
	copy(v.Facts[:], p.take(len(v.Facts)))
	return v
}

func (p *parser) end() error {
	if p.err == nil && len(p.left) > 0 {
		p.err = errDamaged
	}
	return p.err
}

package stats

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// packed is text, compressed once for all who ask for it: text of 25 MB, which 10,000 backends have, is held as about 1 MB. It does
// not change any more.
type packed struct {
	deflated []byte // up to a boundary of bytes; without the last block
	crc      uint32 // of the text
	size     uint32 // of the text, as gzip counts
}

// packer makes packed texts, one after the other.
type packer struct {
	out bytes.Buffer
	w   *flate.Writer
}

// pack compresses what write emits.
func (p *packer) pack(write func(emit func([]byte))) packed {
	p.out.Reset()
	if p.w == nil {
		p.w, _ = flate.NewWriter(&p.out, flate.BestSpeed) // only a level that does not exist is an error
	} else {
		p.w.Reset(&p.out)
	}
	var t packed
	write(func(b []byte) {
		t.crc = crc32.Update(t.crc, crc32.IEEETable, b)
		t.size += uint32(len(b)) // modulo 2^32 is what gzip wants
		_, _ = p.w.Write(b)      // a buffer takes everything
	})
	_ = p.w.Flush()
	t.deflated = bytes.Clone(p.out.Bytes())
	return t
}

// finalBlock is a last block with nothing in it.
const finalBlock = "\x01\x00\x00\xff\xff"

// writeText writes the text and what follows it.
func (t packed) writeText(w io.Writer, rest []byte) error {
	if len(t.deflated) > 0 {
		r := flate.NewReader(io.MultiReader(bytes.NewReader(t.deflated), bytes.NewReader([]byte(finalBlock))))
		if _, err := io.Copy(w, r); err != nil { //nolint:gosec // compressed by ourselves
			return err
		}
	}
	_, err := w.Write(rest)
	return err
}

// writeGzip writes the same as one gzip file. Only the rest is compressed for it.
func (t packed) writeGzip(w io.Writer, rest []byte) error {
	b := bytes.NewBuffer(make([]byte, 0, 4096))
	b.WriteString("\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff")
	if _, err := w.Write(b.Bytes()); err != nil {
		return err
	}
	if _, err := w.Write(t.deflated); err != nil {
		return err
	}
	b.Reset()
	z, err := flate.NewWriter(b, flate.BestSpeed)
	if err != nil {
		return err
	}
	_, _ = z.Write(rest) // a buffer takes everything
	_ = z.Close()
	tail := binary.LittleEndian.AppendUint32(b.Bytes(), crc32.Update(t.crc, crc32.IEEETable, rest))
	_, err = w.Write(binary.LittleEndian.AppendUint32(tail, t.size+uint32(len(rest))))
	return err
}

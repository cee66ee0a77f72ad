package haproxy

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// CrtListLine is a line of a crt-list.
type CrtListLine struct {
	Certificate string // name of its file
	ALPN        string // protocols, with commas; empty: what the bind line says
	Filter      string // a server name; empty: those that are in the certificate
}

// CrtListEntry is a line of a crt-list as HAProxy has it.
type CrtListEntry struct {
	CrtListLine        // several filters stand with blanks between them
	Options     string // what stands in brackets, ALPN included
	Line        int    // its number, for DelCrtList
}

// AddCrtList adds a line to a crt-list, for every bind line that uses the list. HAProxy must have the certificate, with
// content. Lines that are equal may be there several times. Of several lines for one name the oldest counts; but a
// certificate with an ECDSA key goes before one with RSA, for clients that can do both.
//
// The line gets the number after the highest that the list has ever had: that of the last line of its file, comments
// and empty lines included, or of a line that was added. Numbers are not used again.
func AddCrtList(list string, line CrtListLine) Op {
	for _, word := range []string{line.Certificate, line.ALPN, line.Filter} {
		if strings.ContainsFunc(word, func(c rune) bool { return c <= ' ' || c == 0x7f || strings.ContainsRune(`[]"'\\#`, c) }) {
			return Op{Command{err: fmt.Errorf("add ssl crt-list %s: %.80q cannot stand in a crt-list", list, word)}, saying()}
		}
	}
	added := saying("Success!")
	if line.ALPN == "" && line.Filter == "" {
		return Op{Cmd("add", "ssl", "crt-list", list, line.Certificate).about(line.Certificate), added}
	}
	text := line.Certificate
	if line.ALPN != "" {
		text += " [alpn " + line.ALPN + "]"
	}
	if line.Filter != "" {
		text += " " + line.Filter
	}
	if line.Certificate == "" {
		text = "" // refused by With
	}
	return Op{Cmd("add", "ssl", "crt-list", list).With(text).about(line.Certificate), added}
}

// DelCrtList deletes a line of a crt-list. Its number may be 0 when no other line has the certificate.
func DelCrtList(list, certificate string, line int) Op {
	if line != 0 {
		certificate += ":" + strconv.Itoa(line)
	}
	return Op{Cmd("del", "ssl", "crt-list", list, certificate), saying("deleted in crtlist")}
}

// CrtList returns the lines of a crt-list. None looks like a prompt, whoever has added it: each begins with a name
// without blanks, and a number.
func (r *Runtime) CrtList(ctx context.Context, list string) ([]CrtListEntry, error) {
	text, err := r.ask(ctx, Cmd("show", "ssl", "crt-list", "-n", list))
	if err != nil {
		return nil, err
	}
	return parseCrtList(text)
}

// parseCrtList reads the answer of "show ssl crt-list -n X": its name as a comment, then "a.pem:2 [alpn h2 ] a.test".
func parseCrtList(text string) ([]CrtListEntry, error) {
	if !strings.HasPrefix(text, "# ") {
		return nil, fmt.Errorf("show ssl crt-list: %.200q", text)
	}
	var entries []CrtListEntry
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, _ := strings.Cut(line, " ")
		colon := strings.LastIndexByte(name, ':')
		if colon <= 0 {
			return nil, fmt.Errorf("show ssl crt-list: no number in %.100q", line)
		}
		number, err := strconv.Atoi(name[colon+1:])
		if err != nil || number < 0 {
			return nil, fmt.Errorf("show ssl crt-list: no number in %.100q", line)
		}
		e := CrtListEntry{CrtListLine: CrtListLine{Certificate: name[:colon]}, Line: number}
		if options, ok := strings.CutPrefix(rest, "["); ok {
			if options, rest, ok = strings.Cut(options, "]"); !ok {
				return nil, fmt.Errorf("show ssl crt-list: options without end in %.100q", line)
			}
			e.Options = strings.TrimSpace(strings.ReplaceAll(options, "\x00", "")) // 3.4.7 ends ALPN so
			words := strings.Fields(e.Options)
			for i, w := range words[:max(len(words)-1, 0)] {
				if w == "alpn" {
					e.ALPN = words[i+1]
				}
			}
		}
		e.Filter = strings.TrimSpace(rest)
		entries = append(entries, e)
	}
	return entries, nil
}

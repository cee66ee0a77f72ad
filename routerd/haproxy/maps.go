package haproxy

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// AddMap adds an entry to a map, whether or not there is one with this key. The value may not be empty.
func AddMap(file, key, value string) Op {
	return Op{Cmd("add", "map", file, key, value), silent}
}

// SetMap changes the entries of a map that have a key; that there is none is refused. The value may not be empty.
func SetMap(file, key, value string) Op {
	return Op{keyed("set", file, key, value), silent}
}

// DelMap deletes an entry of a map; that there is none is refused. Of several that have the key it is the oldest, and
// before HAProxy 3.4 all.
func DelMap(file, key string) Op {
	return Op{keyed("del", file, key), silent}
}

// DelMapEntry deletes one entry of a map, by its reference, whatever others have its key.
func DelMapEntry(file, ref string) Op {
	if !strings.HasPrefix(ref, "0x") {
		return Op{Command{err: fmt.Errorf("del map %s: %.40q is no reference to an entry", file, ref)}, silent}
	}
	return Op{Cmd("del", "map", file, "#"+ref), silent}
}

// keyed makes a command for entries with a key. HAProxy would take "#" for the beginning of a reference to an entry.
func keyed(verb, file, key string, value ...string) Command {
	if strings.HasPrefix(key, "#") {
		return Command{err: fmt.Errorf(`%s map %s: the key begins with "#"`, verb, file)}
	}
	return Cmd(append([]string{verb, "map", file, key}, value...)...)
}

// ShowMap returns the entries of a map, those of one key in the order in which they came.
func (r *Runtime) ShowMap(ctx context.Context, file string) ([]MapEntry, error) {
	text, err := r.ask(ctx, Cmd("show", "map", file))
	if err != nil {
		return nil, err
	}
	return parseMap(text)
}

// MapKey is a key of a map.
type MapKey struct{ File, Key string }

// MapValue is what a map has for a key.
type MapValue struct {
	Value string
	Found bool
}

// GetMapKeys returns what maps have for exactly these keys, in their order. A key for which a map would answer a
// request with another entry, as the longest prefix, is not found. Of several entries of one key it is the one that
// requests get.
//
// Maps that are searched in order, as those of regular expressions, may have an entry that this does not find,
// because another matches before.
func (r *Runtime) GetMapKeys(ctx context.Context, keys []MapKey) ([]MapValue, error) {
	commands := make([]Command, len(keys))
	for i, k := range keys {
		commands[i] = Cmd("get", "map", k.File, k.Key)
	}
	texts, err := r.askAll(ctx, commands)
	if err != nil {
		return nil, err
	}
	values := make([]MapValue, len(keys))
	for i, text := range texts {
		if values[i], err = parseGetMap(text, keys[i].Key); err != nil {
			return nil, fmt.Errorf("map %s: %w", keys[i].File, err)
		}
	}
	return values, nil
}

// MapEntry is a line of a map.
type MapEntry struct {
	Key, Value string
	Ref        string // of this entry among those of its key, for DelMapEntry
}

// parseMap reads the answer of "show map": a reference, the key, and what follows.
func parseMap(text string) ([]MapEntry, error) {
	var entries []MapEntry
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			continue
		}
		ref, rest, ok := strings.Cut(line, " ")
		if !ok || !strings.HasPrefix(ref, "0x") {
			return nil, fmt.Errorf("show map: %.100q", line)
		}
		key, value, _ := strings.Cut(rest, " ")
		entries = append(entries, MapEntry{key, value, ref})
	}
	return entries, nil
}

var (
	mapLine = regexp.MustCompile(`^type=[a-z]+, case=[a-z]+, found=(yes|no)(?:, idx=[a-z]+, (.*))?$`)
	// mapType ends a line. A value may hold what looks like one.
	mapType = regexp.MustCompile(`", type="[a-z0-9]+"$`)
)

// parseGetMap reads the answer of "get map" for a key: a line for each method by which the map is used.
func parseGetMap(text, key string) (MapValue, error) {
	if text == "" {
		return MapValue{}, errors.New("get map: no answer")
	}
	var got MapValue
	for line := range strings.Lines(text) {
		m := mapLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			return MapValue{}, fmt.Errorf("get map: %.200q", text)
		}
		end := mapType.FindStringIndex(m[2])
		if (m[1] == "yes") != (end != nil) {
			return MapValue{}, fmt.Errorf("get map: %.200q", text)
		}
		if end == nil || got.Found {
			continue
		}
		// A key may hold a quote; but another key that begins in this way would be longer than what was asked for, and
		// would not match it.
		got.Value, got.Found = strings.CutPrefix(m[2][:end[0]], `key="`+key+`", value="`)
		if !got.Found {
			got.Value = ""
		}
	}
	return got, nil
}

package haproxy

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// MapSizes returns how many entries each map has, by its name. That costs the same however many they are.
func (r *Runtime) MapSizes(ctx context.Context) (map[string]int, error) {
	text, err := r.ask(ctx, Cmd("show", "map"))
	if err != nil {
		return nil, err
	}
	return parseMapSizes(text)
}

var mapSize = regexp.MustCompile(`(?m)^-?[0-9]+ \(([^()\n]+)\) .* entry_cnt=([0-9]{1,9})$`)

// parseMapSizes reads the answer of "show map" without a name.
func parseMapSizes(text string) (map[string]int, error) {
	sizes := map[string]int{}
	for _, m := range mapSize.FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			return nil, fmt.Errorf("show map: %w", err)
		}
		sizes[m[1]] = n
	}
	if len(sizes) == 0 {
		return nil, errors.New("show map: no map with its number of entries")
	}
	return sizes, nil
}

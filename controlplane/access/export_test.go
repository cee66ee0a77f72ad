package access

// Bounds that tests reach.
const (
	MostShared   = mostShared
	MostOwn      = mostOwn
	MostUnproven = mostUnproven
	MostCalls    = mostCalls
)

// Prefixes returns the first column of the table.
func Prefixes() []string {
	var all []string
	for _, r := range rights() {
		all = append(all, r.prefix)
	}
	return all
}

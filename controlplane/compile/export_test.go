package compile

// LimitServers makes n the bound of a namespace's servers. Nothing was compiled yet.
func (c *Compiler) LimitServers(n int) { c.servers.most = n }

// InUse is how many Routes use something that is kept.
func (k Kept) InUse() (n int) {
	for _, r := range k.routes {
		if r.certificate.stale || r.destination.stale {
			n++
		}
	}
	return n
}

// KeptBytes is how much is kept of what a namespace's Routes refer to and cannot be used.
func (c *Compiler) KeptBytes(namespace string) int { return c.keeps.bytes[namespace] }

// MaxKept is the bound of that.
const MaxKept = maxKept

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

// JudgeTwice judges a Route, and once more as allot does, and returns the names of what is to be put and removed.
func (c *Compiler) JudgeTwice(namespace, name string) (names []string) {
	k := id{Namespace: namespace, Name: name}
	r := c.objects.routes[k]
	d, out := newDirty(), output{}
	c.judge(r, d, &out)
	c.judgeAgain(map[id]*route{k: r}, d, &out)
	for _, e := range []edit{out.config, out.facts} {
		for _, i := range e.put {
			names = append(names, i.Name())
		}
		names = append(names, e.remove...)
	}
	return names
}

package balancer

// Member is a node as placement sees it. Two members are the same node when their
// names are equal; the position in a list means nothing.
type Member struct {
	// Name of the node, stable over restarts.
	Name string
	// Weight is the node's share relative to the others. It counts in steps of
	// 1/4096 up to 65,536; a node with weight 0 or less gets no new users.
	Weight float64
	// Ramp is the part of its share that a node takes while it starts slowly, from
	// above 0 to 1; 0 and 1 stand for all of it. The node owns its partitions as
	// without a ramp, so that a table is built once and not at each step of the
	// ramp. But its live bound is that of Weight·Ramp, and of the new users it takes
	// only that part, chosen by their hashes; the others go to the next-ranked node,
	// and stay there for as long as they have a session. Users who are taken at one
	// ramp are taken at every higher one.
	Ramp float64
	// Zone is where the node is; see [Options.Zone].
	Zone string
	// Backup nodes are used only when no other can take a session.
	Backup bool
	// Draining nodes get no new users; users who have sessions there join them.
	Draining bool
	// Down nodes get nothing at all.
	Down bool
	// Limit is the most sessions that the node is given, those of other fronts
	// included; 0 means no limit.
	Limit int
}

// ramp is the part of its share that a node takes, in units of 2⁻¹⁶.
type ramp uint64

const fullRamp ramp = 1 << 16

func newRamp(r float64) ramp {
	if !(r > 0 && r < 1) { // NaN too
		return fullRamp
	}
	return max(1, ramp(r*float64(fullRamp)))
}

// of returns the ramp's part of a weight, at least one unit of a weight that is
// not 0.
func (r ramp) of(w weight) weight {
	return max(min(w, 1), w*weight(r)>>16)
}

// admits says whether a user is of the part that is taken. It looks at bits of the
// hash that the partition does not depend on.
func (r ramp) admits(hash uint64) bool {
	return ramp(hash>>48) < r
}

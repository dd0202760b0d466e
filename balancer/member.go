package balancer

// Member is a node as placement sees it. Two members are the same node when their
// names are equal; the position in a list means nothing.
type Member struct {
	// Name of the node, stable over restarts.
	Name string
	// Weight is the node's share relative to the others. It counts in steps of
	// 1/4096 up to 65,536; a node with weight 0 or less gets no new users.
	Weight float64
	// Zone is where the node is; see [Options.Zone].
	Zone string
	// Backup nodes are used only when no other can take a session.
	Backup bool
	// Draining nodes get no new users; users who have sessions there join them.
	Draining bool
	// Down nodes get nothing at all.
	Down bool
	// Limit is the most sessions that the node is given; 0 means no limit.
	Limit int
}

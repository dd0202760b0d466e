package health

// Override is what an operator says of a node. It goes before all else that is known
// of it.
type Override struct {
	// Drain gives the node no new users.
	Drain bool
	// Disabled gives it nothing, as if it were down.
	Disabled bool
	// Weight replaces the node's weight; 0: it keeps its own.
	Weight float64
	// Comment says why; it is shown and logged.
	Comment string
}

// facts are all that the rule of the package documentation looks at.
type facts struct {
	override Override
	panic    bool  // health is ignored
	checks   State // what our own checks found
	refuses  bool  // connections, as a check or a session has found
	critical bool  // what the source says
	marked   bool  // the source says that it drains
	leaving  bool  // it says so itself
	ejected  bool  // sessions fail there
	damped   bool  // it comes and goes

	why, ejection string // causes of checks and ejected
}

// judge is the rule of the package documentation: the first case that holds decides.
func judge(f facts) (s Standing, cause string) {
	switch {
	case f.override.Disabled:
		return Unfit, "an operator has disabled it" + f.override.comment()
	case f.checks == Unknown:
		return Unchecked, f.why
	case !f.panic && f.damped:
		return Draining, "it comes and goes"
	case f.checks == Down && (!f.panic || f.refuses):
		return Unfit, f.why
	case !f.panic && f.critical && !f.leaving:
		return Unfit, "its source calls it critical"
	case !f.panic && f.ejected:
		return Unfit, "ejected: " + f.ejection
	case f.override.Drain:
		return Draining, "an operator drains it" + f.override.comment()
	case f.marked:
		return Draining, "its source says so"
	case f.leaving:
		return Draining, "it says so itself"
	case f.panic && f.checks == Down:
		return Fit, "too few nodes are fit to go by health"
	default:
		return Fit, f.why
	}
}

func (o Override) comment() string {
	if o.Comment == "" {
		return ""
	}
	return ": " + o.Comment
}

// census counts a pool's nodes by what the rule says of them without panic.
type census struct {
	nodes int // all
	asked int // those that neither an operator nor they themselves keep from new users
	fit   int // of these
	hoped int // of these, not checked yet
	out   int // kept out by ejection or damping
}

// add counts a node, or takes it from the count when by is −1.
func (c *census) add(f facts, by int) {
	c.nodes += by
	if f.ejected || f.damped {
		c.out += by
	}
	if f.override.Disabled || f.override.Drain || f.marked || f.leaving {
		return
	}
	c.asked += by
	f.panic = false
	switch s, _ := judge(f); s {
	case Fit:
		c.fit += by
	case Unchecked:
		c.hoped += by
	case Draining, Unfit, Gone:
	}
}

// panics says whether fewer nodes are fit than a share of those that should be. A node
// that is not checked yet may turn out to be: that keeps a panic from beginning, and
// does not end one, for until then nobody can use it.
func (c *census) panics(share float64, already bool) bool {
	fit := c.fit
	if !already {
		fit += c.hoped
	}
	return float64(fit) < share*float64(c.asked)
}

// mayKeepOut says whether one more node may be ejected or damped.
func (c *census) mayKeepOut(share float64) bool {
	return float64(c.out+1) <= share*float64(c.nodes)
}

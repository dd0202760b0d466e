package identify

// A Step is one identifier of a Chain, with the name that logs and metrics know it by.
type Step struct {
	Name string
	Identifier
}

// A Chain asks identifiers in order; the first that finds a user decides, or that finds a breach
// of the protocol. One that is undecided holds back those after it, so the answer never depends
// on how fast a client sends.
type Chain []Step

// Progress is how far a Chain has come on one connection. It is the caller's, and
// zero at first.
type Progress struct {
	step  int     // that is asked next; those before have found nobody, for good
	tried int     // bytes that it has seen
	why   Verdict // of the first step, when it has found nobody
}

// Identify asks the steps about what the client has sent so far. When final, because
// the deadline has come, the client sends no more or the caller has no more room,
// undecided steps count as finding nobody, and the answer is not More.
//
// When nobody was found, By and Verdict are those of the first step, unless there was a breach:
// it is the one that was meant to decide.
func (c Chain) Identify(facts Facts, sent []byte, final bool, p *Progress) Result {
	for p.step < len(c) {
		r := c[p.step].Identify(Input{Facts: facts, Sent: sent, Tried: p.tried})
		r.By = c[p.step].Name
		switch {
		case r.Verdict == Found, r.Breach:
			return r
		case r.Verdict == More && !final:
			p.tried = len(sent)
			return r
		}
		p.pass(r.Verdict)
	}
	if len(c) == 0 {
		return none(Nobody)
	}
	return Result{Verdict: p.why, By: c[0].Name}
}

// pass goes on to the next step after one that has found nobody.
func (p *Progress) pass(why Verdict) {
	if why == More {
		why = Late
	}
	if p.step == 0 {
		p.why = why
	}
	p.step, p.tried = p.step+1, 0
}

package health

import (
	"context"
	"errors"
	"time"
)

// Node is the state of a node at a moment.
type Node struct {
	// Endpoint is as the source has it, except where the node's own answer or an
	// operator says more: weight, capacity, draining.
	Endpoint
	// Standing is what follows for placement, and Cause why.
	Standing Standing
	Cause    string
	// FitSince is since when it stands fit without panic; zero when it does not.
	FitSince time.Time
	// Ramp is the share of its weight that it should have of new users, from a tenth
	// to 1, while it starts slowly.
	Ramp float64
	// Override is what an operator says of it.
	Override Override

	// State is what our own checks found, and Since when.
	State State
	Since time.Time
	// Checked is when the last check ended, and Failing its error.
	Checked time.Time
	Failing error
	// Checks counts them, and ChecksFailed those that failed.
	Checks, ChecksFailed uint64

	// Ejections counts how often sessions have taken it out, and EjectedUntil is when
	// the ejection ends that lasts, if one does.
	Ejections    uint64
	EjectedUntil time.Time
	// Penalty is for coming and going, and SuppressedUntil is when it comes in again
	// if it is kept out for that.
	Penalty         float64
	SuppressedUntil time.Time
	// Transitions counts changes of its standing.
	Transitions uint64

	// Sessions is how many the node says live on it; −1 when it does not say.
	Sessions int
	// Mechanisms are those that it offers to log in with (SASL); nil when it was not
	// asked.
	Mechanisms []string
}

// watched is a node and the goroutine that checks it. It is guarded by the
// monitor's mutex.
type watched struct {
	endpoint Endpoint
	machine  machine
	outlier  outlier
	damper   damper
	answer   *Answer // the last, if any
	at       time.Time
	failing  error     // of the last check
	refused  time.Time // when a session could not connect, unless it is well since
	checks   uint64
	failures uint64

	old         bool      // it was there before the monitor, for all we know
	sound       Standing  // by checks and source alone
	counted     facts     // as the census has it
	fit         time.Time // since when it is fit without panic; zero when it is not
	ramped      time.Time // when its slow start began; zero when there is none
	share       float64
	grows       time.Time // when share grows
	placed      placement
	transitions uint64

	cancel func()
	sooner chan time.Duration // holds after how long the next check should come at last
}

// hasten brings the next check forward.
func (w *watched) hasten(after time.Duration) {
	select {
	case w.sooner <- after:
	default:
	}
}

// leastPause lies between checks however many sessions fail meanwhile: a node in trouble
// is not to be asked without end.
const leastPause = 20 * time.Millisecond

// pause waits for the time of the next check, and says whether it has come: not
// when ctx is done.
func (w *watched) pause(ctx context.Context, wait time.Duration) bool {
	soonest := time.Now().Add(min(wait, leastPause))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case after := <-w.sooner:
			timer.Reset(max(after, time.Until(soonest)))
		case <-ctx.Done():
			return false
		}
	}
}

// checked takes the result of a check.
func (w *watched) checked(now time.Time, answer *Answer, err error) {
	if !lacking(err) {
		w.machine.checked(now, err)
	}
	w.at, w.failing = now, err
	w.checks++
	if err != nil {
		w.failures++
		return
	}
	w.answer = answer
	w.refused = time.Time{}
}

// reported takes what the data path met.
func (w *watched) reported(now time.Time, o Outcome) {
	w.machine.reported(now, o)
	switch o {
	case DialFailed:
		w.refused = now
	case Served:
		w.refused = time.Time{}
	case Lost:
	}
}

// refusedHold is how long it counts that a session could not connect.
const refusedHold = 30 * time.Second

// refuses says whether nobody accepts connections at the session address.
func (w *watched) refuses(now time.Time) bool {
	return errors.Is(w.failing, errNobody) || !w.refused.IsZero() && now.Before(w.refused.Add(refusedHold))
}

// forgets returns when it no longer counts that a session could not connect; zero
// when there is nothing to forget.
func (w *watched) forgets() time.Time {
	if w.refused.IsZero() {
		return w.refused
	}
	return w.refused.Add(refusedHold)
}

// facts gathers what the rule looks at, but for panic.
func (w *watched) facts(now time.Time, o Override, damped bool) facts {
	return facts{
		refuses:  w.refuses(now),
		override: o,
		checks:   w.machine.state,
		critical: !w.endpoint.Healthy,
		marked:   w.endpoint.Draining,
		leaving:  w.answer != nil && w.answer.Draining,
		ejected:  w.outlier.ejected(),
		damped:   damped,
		why:      w.machine.cause,
		ejection: w.outlier.cause,
	}
}

// standing applies the rule to the facts as they were counted.
func (w *watched) standing(panic bool) (s Standing, cause string) {
	f := w.counted
	f.panic = panic
	return judge(f)
}

// ramp follows the slow start. Nodes that were there before the monitor have had
// theirs.
func (w *watched) ramp(now time.Time, window time.Duration) {
	is, _ := w.standing(false)
	switch {
	case is != Fit:
		w.fit = time.Time{}
		w.ramped = time.Time{}
		w.old = w.old && is == Unchecked
	case w.fit.IsZero():
		w.fit = now
		if !w.old {
			w.ramped = now
		}
	}
	w.share, w.grows = ramp(now, w.ramped, window)
}

// out returns until when the node is kept out by ejection or damping; zero when it
// is not.
func (w *watched) out(o Options) time.Time {
	var until time.Time
	if w.damper.suppressed {
		until = w.damper.until(o.Damping)
	}
	if w.outlier.until.After(until) {
		until = w.outlier.until
	}
	return until
}

// due returns when time alone changes something; zero when it does not.
func (w *watched) due(now time.Time, o Options) time.Time {
	due := w.grows
	for _, t := range []time.Time{w.outlier.until, w.suppressedUntil(o), w.forgets()} {
		if t.After(now) && (due.IsZero() || t.Before(due)) {
			due = t
		}
	}
	return due
}

func (w *watched) suppressedUntil(o Options) time.Time {
	if !w.damper.suppressed {
		return time.Time{}
	}
	return w.damper.until(o.Damping)
}

// placement is all of a node that placement can depend on.
type placement struct {
	standing          Standing
	addr, admin, zone string
	weight, share     float64
	capacity          int
}

func (w *watched) placement(panic bool) (p placement, cause string) {
	e := w.described()
	standing, cause := w.standing(panic)
	return placement{standing, e.Addr, e.Admin, e.Zone, e.Weight, w.share, e.Capacity}, cause
}

// described returns the endpoint with the node's own answer and its override
// applied.
func (w *watched) described() Endpoint {
	e := w.endpoint
	if a := w.answer; a != nil {
		e.Draining = e.Draining || a.Draining
		if a.Weight > 0 {
			e.Weight = a.Weight
		}
		if a.Capacity > 0 {
			e.Capacity = a.Capacity
		}
	}
	o := w.counted.override
	e.Draining = e.Draining || o.Drain
	if o.Weight > 0 {
		e.Weight = o.Weight
	}
	return e
}

// node returns the state for a snapshot.
func (w *watched) node(now time.Time, o Options, panic bool) Node {
	standing, cause := w.standing(panic)
	n := Node{
		Endpoint:        w.described(),
		Standing:        standing,
		Cause:           cause,
		FitSince:        w.fit,
		Ramp:            w.share,
		Override:        w.counted.override,
		State:           w.machine.state,
		Since:           w.machine.since,
		Checked:         w.at,
		Failing:         w.failing,
		Checks:          w.checks,
		ChecksFailed:    w.failures,
		Ejections:       w.outlier.total,
		EjectedUntil:    w.outlier.until,
		Penalty:         w.damper.penalty(now, o.Damping),
		SuppressedUntil: w.suppressedUntil(o),
		Transitions:     w.transitions,
		Sessions:        -1,
	}
	if w.answer != nil {
		n.Sessions = w.answer.Sessions
		n.Mechanisms = w.answer.Mechanisms
	}
	return n
}

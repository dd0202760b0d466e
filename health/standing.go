package health

import "fmt"

// Standing is what follows for placement from all that is known of a node.
type Standing uint8

// The values of Standing.
const (
	// Unchecked: new, and not checked yet; it gets nothing.
	Unchecked Standing = iota + 1
	// Fit: it gets sessions.
	Fit
	// Draining: it can serve, but gets no new users.
	Draining
	// Unfit: it gets nothing.
	Unfit
	// Gone: its source names it no more.
	Gone
)

// String returns the word for logs and pages.
func (s Standing) String() string {
	switch s {
	case Unchecked:
		return "unchecked"
	case Fit:
		return "fit"
	case Draining:
		return "draining"
	case Unfit:
		return "unfit"
	case Gone:
		return "gone"
	default:
		return fmt.Sprintf("Standing(%d)", uint8(s))
	}
}

// placement is all of a node that placement can depend on.
type placement struct {
	standing          Standing
	addr, admin, zone string
	weight            float64
	capacity          int
}

// standing applies the rule of the package documentation.
func (w *watched) standing() (s Standing, cause string) {
	switch {
	case w.machine.state == Unknown:
		return Unchecked, w.machine.cause
	case w.machine.state == Down:
		return Unfit, w.machine.cause
	case !w.endpoint.Healthy:
		return Unfit, "its source calls it critical"
	case w.endpoint.Draining:
		return Draining, "its source says so"
	case w.answer != nil && w.answer.Draining:
		return Draining, "it says so itself"
	default:
		return Fit, w.machine.cause
	}
}

func (w *watched) placement() (p placement, cause string) {
	e := w.described()
	standing, cause := w.standing()
	return placement{standing, e.Addr, e.Admin, e.Zone, e.Weight, e.Capacity}, cause
}

// described returns the endpoint with the node's own answer applied.
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
	return e
}

// node returns the state for a snapshot.
func (w *watched) node() Node {
	standing, cause := w.standing()
	n := Node{
		Endpoint: w.described(),
		Standing: standing,
		Cause:    cause,
		State:    w.machine.state,
		Since:    w.machine.since,
		Checked:  w.checked,
		Failing:  w.failing,
		Sessions: -1,
	}
	if w.answer != nil {
		n.Sessions = w.answer.Sessions
	}
	return n
}

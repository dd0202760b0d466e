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

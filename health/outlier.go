package health

import (
	"cmp"
	"fmt"
	"time"
)

// OutlierRules say when sessions that a node does not take, although its checks pass,
// take it out for a time. Those that it has taken and then loses do not count: a client
// can have its own cut off as often as it likes.
type OutlierRules struct {
	// Off is set when sessions have no such say.
	Off bool
	// Consecutive is how many failures in a row eject a node; 5 when 0. Failures that
	// lie further apart than Window are no row.
	Consecutive int
	// Window is the time over which failures are compared with sessions; 30 s when 0.
	Window time.Duration
	// MinSessions is how many sessions a window must have seen before its ratio says
	// something; 20 when 0.
	MinSessions int
	// FailureRatio is the share of failures in a window that ejects a node; 0.5
	// when 0.
	FailureRatio float64
	// Base is how long the first ejection lasts, and by how much each further one is
	// longer; 30 s when 0. One is forgiven for every Base that the node then serves.
	Base time.Duration
	// Max is the longest ejection; 5 minutes when 0.
	Max time.Duration
}

func (r OutlierRules) withDefaults() OutlierRules {
	r.Consecutive = cmp.Or(r.Consecutive, 5)
	r.Window = cmp.Or(r.Window, 30*time.Second)
	r.MinSessions = cmp.Or(r.MinSessions, 20)
	r.FailureRatio = cmp.Or(r.FailureRatio, 0.5)
	r.Base = cmp.Or(r.Base, 30*time.Second)
	r.Max = cmp.Or(r.Max, 5*time.Minute)
	return r
}

// outlier decides whether sessions speak against a node. It is pure: time is an
// argument.
type outlier struct {
	row        int       // failures, the last of them at failed
	failed     time.Time //
	slots      [windowSlots]slot
	times      int // ejections that are not forgiven
	total      uint64
	until      time.Time // end of the ejection; zero when there is none
	readmitted time.Time
	cause      string // of the last ejection
}

// windowSlots is in how many steps a window moves.
const windowSlots = 10

// slot counts the sessions of a part of a window.
type slot struct {
	number       int64 // of the part, since the epoch
	good, failed int
}

// served notes a session that the node took.
func (o *outlier) served(now time.Time, r OutlierRules) {
	if r.Off || o.ejected() {
		return
	}
	o.row = 0
	o.slot(now, r).good++
}

// failure notes a session that failed, and returns why the node should be ejected;
// nothing when it should not.
func (o *outlier) failure(now time.Time, r OutlierRules) string {
	if r.Off || o.ejected() {
		return ""
	}
	if now.Sub(o.failed) > r.Window {
		o.row = 0
	}
	o.row++
	o.failed = now
	o.slot(now, r).failed++
	all, failed := o.window(now, r)
	switch {
	case o.row >= r.Consecutive:
		return fmt.Sprintf("%d sessions in a row failed", o.row)
	case all >= r.MinSessions && float64(failed) >= r.FailureRatio*float64(all):
		return fmt.Sprintf("%d of %d sessions failed in %v", failed, all, r.Window)
	default:
		return ""
	}
}

// slot returns the part of the window that now belongs to.
func (o *outlier) slot(now time.Time, r OutlierRules) *slot {
	number := slotNumber(now, r)
	s := &o.slots[number%windowSlots]
	if s.number != number {
		*s = slot{number: number}
	}
	return s
}

func slotNumber(now time.Time, r OutlierRules) int64 {
	return now.UnixNano() / max(1, int64(r.Window)/windowSlots)
}

// window counts the sessions of the window that ends now.
func (o *outlier) window(now time.Time, r OutlierRules) (all, failed int) {
	oldest := slotNumber(now, r) - windowSlots + 1
	for _, s := range o.slots {
		if s.number >= oldest {
			all += s.good + s.failed
			failed += s.failed
		}
	}
	return all, failed
}

func (o *outlier) ejected() bool { return !o.until.IsZero() }

// eject takes the node out.
func (o *outlier) eject(now time.Time, r OutlierRules, cause string) {
	forgiven := 0
	if !o.readmitted.IsZero() {
		forgiven = int(min(now.Sub(o.readmitted)/r.Base, time.Duration(o.times)))
	}
	o.times += 1 - forgiven
	o.total++
	long := r.Max
	if int64(o.times) <= int64(r.Max/r.Base) {
		long = r.Base * time.Duration(o.times)
	}
	o.until, o.cause = now.Add(long), cause
}

// readmit ends an ejection; what was counted before it is forgotten.
func (o *outlier) readmit(now time.Time) {
	o.until, o.readmitted = time.Time{}, now
	o.row, o.slots = 0, [windowSlots]slot{}
}

// expire ends an ejection whose time is over.
func (o *outlier) expire(now time.Time) {
	if o.ejected() && !now.Before(o.until) {
		o.readmit(now)
	}
}

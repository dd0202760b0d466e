package health

import (
	"cmp"
	"math"
	"time"
)

// DampingRules say when a node that comes and goes stays out until it has calmed
// down, as in route flap damping (RFC 2439). Each time that a fit node becomes unfit or
// vanishes, its penalty grows by one; it halves with every HalfLife.
type DampingRules struct {
	// Off is set when nodes may come and go as they like.
	Off bool
	// Suppress is the penalty above which a node stays out; 3 when 0. It is reached
	// by the fourth loss in a short time.
	Suppress float64
	// Reuse is the penalty below which it is used again; 1 when 0.
	Reuse float64
	// HalfLife is how long a penalty takes to halve; 30 s when 0.
	HalfLife time.Duration
	// Max is the longest that a node stays out after its last loss; 5 minutes
	// when 0.
	Max time.Duration
}

func (r DampingRules) withDefaults() DampingRules {
	r.Suppress = cmp.Or(r.Suppress, 3)
	r.Reuse = min(cmp.Or(r.Reuse, 1), r.Suppress)
	r.HalfLife = cmp.Or(r.HalfLife, 30*time.Second)
	r.Max = cmp.Or(r.Max, 5*time.Minute)
	return r
}

// damper decides whether a node flaps. It is pure: time is an argument.
type damper struct {
	last       float64 // penalty at the time at
	at         time.Time
	suppressed bool
}

// penalty returns what is left of it.
func (d *damper) penalty(now time.Time, r DampingRules) float64 {
	if d.last == 0 {
		return 0
	}
	return d.last * math.Exp2(-float64(now.Sub(d.at))/float64(r.HalfLife))
}

// lost notes that the node was lost.
func (d *damper) lost(now time.Time, r DampingRules) {
	if r.Off {
		return
	}
	ceiling := r.Reuse * math.Exp2(float64(r.Max)/float64(r.HalfLife))
	d.last = min(d.penalty(now, r)+1, ceiling)
	d.at = now
}

// suppress keeps the node out if it was lost too often, and says so when that is
// news.
func (d *damper) suppress(now time.Time, r DampingRules) bool {
	if r.Off || d.suppressed || d.penalty(now, r) <= r.Suppress {
		return false
	}
	d.suppressed = true
	return true
}

// expire lets a node in again that has calmed down.
func (d *damper) expire(now time.Time, r DampingRules) {
	if r.Off || d.suppressed && !now.Before(d.until(r)) {
		d.suppressed = false
	}
}

// until returns when the penalty falls to Reuse.
func (d *damper) until(r DampingRules) time.Time {
	if d.last <= r.Reuse {
		return d.at
	}
	return d.at.Add(time.Duration(math.Ceil(math.Log2(d.last/r.Reuse) * float64(r.HalfLife))))
}

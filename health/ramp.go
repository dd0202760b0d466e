package health

import "time"

// rampSteps is how often a node's share grows during slow start.
const rampSteps = 10

// ramp returns the share of its weight that a node should have which serves since a
// moment, in slow start over window; and when that grows, zero when it does not.
func ramp(now, since time.Time, window time.Duration) (share float64, next time.Time) {
	if window <= 0 || since.IsZero() || now.Sub(since) >= window {
		return 1, time.Time{}
	}
	step := int64(1) // the first begins at once
	if now.After(since) {
		step += int64(float64(now.Sub(since)) / float64(window) * rampSteps)
	}
	if step >= rampSteps {
		return 1, time.Time{}
	}
	// A nanosecond late rather than early: window need not be divisible.
	return float64(step) / rampSteps, since.Add(window/rampSteps*time.Duration(step) + rampSteps)
}

package loop

import "time"

// Age has output wait for that much longer than it does.
func (c *Conn) Age(d time.Duration) {
	c.blocked -= int64(d)
	c.expire()
}

// Unacked returns how much of what the kernel took the peer has not acknowledged.
func (c *Conn) Unacked() int { return c.sock.unacked() }

// TestWheel is a wheel whose timers are numbered.
type TestWheel struct {
	wheel  wheel
	timers []testTimer
	fired  []int
}

type testTimer struct {
	timer
	wheel *TestWheel
	id    int
}

func (t *testTimer) expire() { t.wheel.fired = append(t.wheel.fired, t.id) }

// NewTestWheel returns a wheel with n timers that are not armed.
func NewTestWheel(n int) *TestWheel {
	w := &TestWheel{timers: make([]testTimer, n)}
	for i := range w.timers {
		t := &w.timers[i]
		t.owner, t.bucket, t.wheel, t.id = t, bucketNone, w, i
	}
	return w
}

// Set arms a timer.
func (w *TestWheel) Set(id int, when int64) { w.wheel.set(&w.timers[id].timer, when) }

// Stop disarms it.
func (w *TestWheel) Stop(id int) { w.wheel.stop(&w.timers[id].timer) }

// Wait returns how long to sleep.
func (w *TestWheel) Wait(now int64) int64 { return int64(w.wheel.wait(now)) }

// Fire returns the timers that are due.
func (w *TestWheel) Fire(now int64) []int {
	w.fired = nil
	w.wheel.fire(now)
	return w.fired
}

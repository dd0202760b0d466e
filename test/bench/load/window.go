//go:build linux

package load

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"imlb/backend/chatload"
	"imlb/test/bench/proc"
)

// The phases of a measurement.
const (
	warming int32 = iota
	measuring
	over
)

// window is the time in which a measurement counts. Clients look at it for each
// unit of work that they finish.
type window struct {
	pids  []int
	start time.Time
	phase atomic.Int32

	connecting atomic.Int32  // clients that have not set up what they need
	connected  chan struct{} // closed when none is left

	// after run has returned
	length time.Duration
	cpu    time.Duration // of the proxy, within the window
}

// newWindow returns a window that begins when so many clients have connected.
func newWindow(pids []int, clients int) *window {
	w := &window{pids: pids, start: time.Now(), connected: make(chan struct{})}
	w.connecting.Store(int32(clients)) //nolint:gosec // far below
	return w
}

// connect tells that one more client has set up what it needs.
func (w *window) connect() {
	if w.connecting.Add(-1) == 0 {
		close(w.connected)
	}
}

// now is the time since the window was made.
func (w *window) now() time.Duration { return time.Since(w.start) }

func (w *window) measuring() bool { return w.phase.Load() == measuring }
func (w *window) over() bool      { return w.phase.Load() == over }

// run takes the window through its phases. The warm-up begins when all clients
// have connected.
func (w *window) run(ctx context.Context, warmup, length time.Duration) error {
	defer w.phase.Store(over)
	select {
	case <-w.connected:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := pause(ctx, warmup); err != nil {
		return err
	}
	before, err := proc.CPU(w.pids)
	if err != nil {
		return err
	}
	began := w.now()
	w.phase.Store(measuring)
	if err := pause(ctx, length); err != nil {
		return err
	}
	w.phase.Store(over)
	w.length = w.now() - began
	after, err := proc.CPU(w.pids)
	w.cpu = after - before
	return err
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait: %w", context.Cause(ctx))
	}
}

// tally is what one client counted in a window.
type tally struct {
	units   uint64 // of work
	bytes   uint64
	latency chatload.Histogram
}

func (t *tally) add(o *tally) {
	t.units += o.units
	t.bytes += o.bytes
	t.latency.Add(&o.latency)
}

// result makes the metrics of a window, as far as they apply to the workload.
func (w *window) result(t *tally) (Result, error) {
	if t.units == 0 && t.bytes == 0 {
		return Result{}, errors.New("nothing was done within the window")
	}
	m := map[string]float64{}
	cpu := w.cpu.Seconds()
	if t.bytes > 0 {
		gigabytes := float64(t.bytes) / 1e9
		m["throughput"] = gigabytes / w.length.Seconds()
		m["cpu"] = cpu / gigabytes
	} else {
		m["rate"] = float64(t.units) / w.length.Seconds()
		m["cpu"] = cpu * 1e6 / float64(t.units)
	}
	if len(w.pids) == 0 {
		delete(m, "cpu")
	}
	if t.latency.Count() > 0 {
		m["p50"] = micros(t.latency.Quantile(0.5))
		m["p99"] = micros(t.latency.Quantile(0.99))
		m["p99.9"] = micros(t.latency.Quantile(0.999))
	}
	return Result{Metrics: m}, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

package chatload

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// runMessages is the workload.
func runMessages(ctx context.Context, o Options) (r *Result, err error) {
	e := newExchange(o)
	if err := e.start(ctx, newGate(o), o.sessions()); err != nil {
		return nil, err
	}
	defer e.fleet.close()
	counted, err := e.measure(ctx)
	if err != nil {
		return nil, err
	}
	e.drain(ctx)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	e.fleet.close() // so that both sides of the flows are at rest
	return e.sum(counted), nil
}

// count is what happened while it counted.
type count struct {
	delivered int64
	usage     usage
	length    time.Duration
}

// measure has messages sent for as long as is wanted.
func (e *exchange) measure(ctx context.Context) (c count, err error) {
	driving, stop := context.WithCancel(ctx)
	drove := make(chan error, 1)
	go func() {
		defer close(drove)
		if e.o.Rate > 0 {
			drove <- e.drive(driving)
		}
	}()
	if e.o.Rate == 0 {
		e.fill()
	}
	c, err = e.window(ctx)
	e.left.Store(0)
	stop()
	if failed := <-drove; failed != nil && !errors.Is(failed, context.Canceled) {
		err = errors.Join(err, failed)
	}
	return c, err
}

// window counts.
func (e *exchange) window(ctx context.Context) (c count, err error) {
	if err := pause(ctx, e.o.Warmup); err != nil {
		return c, err
	}
	before, err := readUsage(e.o.PIDs)
	if err != nil {
		return c, err
	}
	delivered, began := e.delivered.Load(), e.now()
	e.begin.Store(began)
	if err := pause(ctx, e.o.Duration); err != nil {
		return c, err
	}
	ended := e.now()
	e.end.Store(ended)
	c.delivered, c.length = e.delivered.Load()-delivered, time.Duration(ended-began)
	after, err := readUsage(e.o.PIDs)
	c.usage = after.since(before)
	return c, err
}

// drain waits until all that was due has arrived and is acknowledged, or nothing happens
// any more. What does not is counted.
func (e *exchange) drain(ctx context.Context) {
	left := func() int64 { return e.sent.Load() - e.delivered.Load() - e.refused.Load() + int64(e.unsent()) }
	_ = settled(ctx, e.o.Timeout, left)
	for _, s := range e.fleet.sessions {
		if s.managed {
			s.push([]byte(smRequest), 0)
		}
	}
	_ = settled(ctx, min(e.o.Timeout, 5*time.Second), e.unacked)
	e.untaken, e.unanswered = e.unsent(), e.unacked()
}

func (e *exchange) unsent() (n int) {
	for _, s := range e.fleet.sessions {
		n += s.waiting()
	}
	return n
}

func (e *exchange) unacked() (n int64) {
	for _, s := range e.fleet.sessions {
		n += int64(s.unacked())
	}
	return n
}

// sum makes the result, after all is over.
func (e *exchange) sum(c count) *Result {
	m := &MessageCounts{
		PerSecond: float64(c.delivered) / c.length.Seconds(), Offered: e.o.Rate,
		Sent: e.sent.Load(), Delivered: e.delivered.Load(), Doubled: e.doubled.Load(), Reordered: e.reordered.Load(),
		Refused: e.refused.Load(), Unsent: e.untaken, Unacked: e.unanswered, Old: e.old.Load(),
	}
	for i := range e.flows {
		m.Lost += e.flows[i].absent()
	}
	m.Lost = max(0, m.Lost-int(m.Refused))
	if n := e.misled.Load(); n > 0 {
		e.fleet.errors.add(fmt.Errorf("%d messages came to somebody else", n))
	}
	r := &Result{
		Workload: e.o.Workload, Sessions: len(e.fleet.sessions), Seconds: c.length.Seconds(), Managed: e.fleet.managed(),
		Mechanism: e.fleet.sessions[0].mechanism, Messages: m, Latency: newLatency(&e.latency), Errors: e.fleet.errors.result(),
		CPU: c.usage.counts(float64(c.delivered)),
	}
	if r.Latency != nil && e.late.Count() > 0 {
		r.Latency.Late, r.Latency.LateMax = micros(e.late.Quantile(.99)), micros(e.late.Max())
	}
	return r
}

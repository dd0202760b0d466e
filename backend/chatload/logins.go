package chatload

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"imlb/backend/xmpp"
)

// logins is users who log in and out again.
type logins struct {
	gate  *gate
	epoch time.Time
	due   chan int64 // logins that are due, when there is a rate

	latency       Histogram
	late          Histogram
	begin, end    atomic.Int64 // of what counts
	next          atomic.Int64
	done, resumed atomic.Int64
	mechanism     atomic.Value // a string
	errors        tally
}

// mostDue is how many logins may wait for others.
const mostDue = 10_000

var errBehind = errors.New("logins come so slowly that too many wait")

func (l *logins) now() int64 { return int64(time.Since(l.epoch)) }

// runLogins is the workload.
func runLogins(ctx context.Context, o Options) (*Result, error) {
	l := &logins{gate: newGate(o), epoch: time.Now(), due: make(chan int64, mostDue)}
	l.begin.Store(1 << 62)
	l.end.Store(1 << 62)
	if err := l.prime(ctx); err != nil {
		return nil, err
	}
	working, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	for range o.Connecting {
		workers.Go(func() { l.work(working) })
	}
	if o.Rate > 0 {
		workers.Go(func() { l.errors.add(l.drive(working)) })
	}
	c, err := l.window(ctx)
	stop()
	workers.Wait()
	if err != nil {
		return nil, err
	}
	return l.sum(c), nil
}

// prime has everybody log in once, so that the client's side of SCRAM has its keys.
func (l *logins) prime(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(l.gate.o.Connecting)
	for n := range l.gate.users {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			s, a, err := l.gate.login(ctx, n, l.gate.tls)
			if err != nil {
				return fmt.Errorf("%s cannot log in: %w", l.gate.users[n].Name, err)
			}
			l.mechanism.Store(a.mechanism)
			return s.leave()
		})
	}
	return group.Wait()
}

// leave ends the stream without waiting for the server's end.
func (s *stream) leave() error {
	_ = s.write([]byte(xmpp.StreamEnd))
	return s.Close()
}

// work logs in again and again until ctx ends.
func (l *logins) work(ctx context.Context) {
	config := l.gate.tls.Clone()
	if l.gate.o.Resume {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	for {
		due := l.now()
		if l.gate.o.Rate > 0 {
			select {
			case due = <-l.due:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return
		}
		l.once(ctx, due, config)
	}
}

// once logs in that was due at a time. What the end of ctx breaks off is no error.
func (l *logins) once(ctx context.Context, due int64, config *tls.Config) {
	n := int(l.next.Add(1) % (1 << 30))
	s, a, err := l.gate.login(ctx, n, config)
	now := l.now()
	if err != nil {
		if ctx.Err() == nil {
			l.errors.add(err)
		}
		return
	}
	if now >= l.begin.Load() && now < l.end.Load() {
		l.done.Add(1)
		l.latency.Record(time.Duration(now - due))
		if a.resumed {
			l.resumed.Add(1)
		}
	}
	_ = s.leave()
}

// drive makes logins due at the rate until ctx ends.
func (l *logins) drive(ctx context.Context) error {
	next, first := 0, l.now()
	err := ticks(ctx, func() {
		now := l.now()
		for at := due(next, l.gate.o.Rate); first+at <= now; at = due(next, l.gate.o.Rate) {
			select {
			case l.due <- first + at:
			default:
				l.errors.add(errBehind)
			}
			l.late.Record(time.Duration(now - first - at))
			next++
		}
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// window counts.
func (l *logins) window(ctx context.Context) (c count, err error) {
	o := l.gate.o
	if err := pause(ctx, o.Warmup); err != nil {
		return c, err
	}
	before, err := readUsage(o.PIDs)
	if err != nil {
		return c, err
	}
	began := l.now()
	l.begin.Store(began)
	if err := pause(ctx, o.Duration); err != nil {
		return c, err
	}
	ended := l.now()
	l.end.Store(ended)
	c.length = time.Duration(ended - began)
	after, err := readUsage(o.PIDs)
	c.usage = after.since(before)
	return c, err
}

func (l *logins) sum(c count) *Result {
	mechanism, _ := l.mechanism.Load().(string)
	done := l.done.Load()
	r := &Result{
		Workload: Logins, Sessions: l.gate.o.Connecting, Seconds: c.length.Seconds(), Mechanism: mechanism,
		Latency: newLatency(&l.latency), Errors: l.errors.result(), CPU: c.usage.counts(float64(done)),
		Logins: &LoginCounts{PerSecond: float64(done) / c.length.Seconds(), Done: done, Resumed: l.resumed.Load()},
	}
	if r.Latency != nil && l.late.Count() > 0 {
		r.Latency.Late, r.Latency.LateMax = micros(l.late.Quantile(.99)), micros(l.late.Max())
	}
	return r
}

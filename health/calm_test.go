package health

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestEjectionsGrowAndAreForgiven(t *testing.T) {
	r := OutlierRules{Base: 10 * time.Second, Max: 35 * time.Second}.withDefaults()
	var o outlier
	now := epoch
	for i, step := range []struct {
		serves time.Duration // before the next ejection
		lasts  time.Duration
	}{
		{0, 10 * time.Second},
		{time.Second, 20 * time.Second},
		{time.Second, 30 * time.Second},
		{time.Second, 35 * time.Second},
		{time.Second, 35 * time.Second},
		{30 * time.Second, 30 * time.Second}, // 5 were not forgiven: three are, and one is added
		{time.Hour, 10 * time.Second},
	} {
		now = now.Add(step.serves)
		o.eject(now, r, "x")
		if got := o.until.Sub(now); got != step.lasts {
			t.Errorf("ejection %d lasts %v, want %v", i+1, got, step.lasts)
		}
		now = o.until
		o.expire(now.Add(-1))
		if !o.ejected() {
			t.Errorf("ejection %d ends early", i+1)
		}
		if o.expire(now); o.ejected() {
			t.Errorf("ejection %d does not end", i+1)
		}
	}
	if o.total != 7 {
		t.Errorf("%d ejections are counted", o.total)
	}
}

func TestFailuresThatAreNoOutlier(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules OutlierRules
		fails func(o *outlier, r OutlierRules) string
	}{
		{"rows with a success between", OutlierRules{}, func(o *outlier, r OutlierRules) (cause string) {
			for i := range 4 {
				cause += o.failure(epoch.Add(time.Duration(i)), r)
			}
			o.served(epoch.Add(5), r)
			return cause + o.failure(epoch.Add(6), r)
		}},
		{"one now and then", OutlierRules{}, func(o *outlier, r OutlierRules) (cause string) {
			for i := range 100 {
				cause += o.failure(epoch.Add(time.Duration(i)*31*time.Second), r)
			}
			return cause
		}},
		{"a bad moment long ago", OutlierRules{Consecutive: 100}, func(o *outlier, r OutlierRules) (cause string) {
			for i := range 19 {
				cause += o.failure(epoch.Add(time.Duration(i)*time.Millisecond), r)
			}
			return cause + o.failure(epoch.Add(time.Minute), r)
		}},
		{"switched off", OutlierRules{Off: true}, func(o *outlier, r OutlierRules) (cause string) {
			for range 100 {
				cause += o.failure(epoch, r)
			}
			return cause
		}},
		{"sessions that were under way when it was ejected", OutlierRules{}, func(o *outlier, r OutlierRules) (cause string) {
			o.eject(epoch, r, "x")
			for range 100 {
				cause += o.failure(epoch, r)
			}
			o.readmit(epoch.Add(time.Second))
			return cause + o.failure(epoch.Add(2*time.Second), r)
		}},
	} {
		if cause := c.fails(&outlier{}, c.rules.withDefaults()); cause != "" {
			t.Errorf("%s: %s", c.name, cause)
		}
	}
}

// TestPenalties follows a penalty: where it stands after losses at these seconds.
func TestPenalties(t *testing.T) {
	r := DampingRules{}.withDefaults()
	for _, c := range []struct {
		name   string
		losses []int // seconds
		out    bool
		until  time.Duration // from the last loss, when out
	}{
		{"three at once", []int{0, 0, 0}, false, 0},
		{"four at once", []int{0, 0, 0, 0}, true, time.Minute},
		{"four in a minute", []int{0, 20, 40, 60}, false, 0},
		{"one a second", []int{0, 1, 2, 3}, true, 59 * time.Second},
		{"for ever", make([]int, 2000), true, 5 * time.Minute},
	} {
		var d damper
		var now time.Time
		for _, s := range c.losses {
			now = epoch.Add(time.Duration(s) * time.Second)
			d.lost(now, r)
			d.suppress(now, r)
		}
		if d.suppressed != c.out {
			t.Errorf("%s: out is %v at penalty %v", c.name, d.suppressed, d.penalty(now, r))
		}
		if !c.out {
			continue
		}
		if got := d.until(r).Sub(now).Round(time.Second); got != c.until {
			t.Errorf("%s: out for %v, want %v", c.name, got, c.until)
		}
		if d.expire(d.until(r).Add(-time.Millisecond), r); !d.suppressed {
			t.Errorf("%s: it comes in early", c.name)
		}
		if d.expire(d.until(r), r); d.suppressed || d.suppress(d.until(r), r) {
			t.Errorf("%s: it does not come in", c.name)
		}
	}
}

func TestRamp(t *testing.T) {
	for _, c := range []struct {
		after, window time.Duration
		share         float64
		next          bool
	}{
		{0, time.Minute, 0.1, true},
		{-time.Second, time.Minute, 0.1, true},
		{6*time.Second - 1, time.Minute, 0.1, true},
		{6 * time.Second, time.Minute, 0.2, true},
		{53 * time.Second, time.Minute, 0.9, true},
		{54 * time.Second, time.Minute, 1, false},
		{time.Hour, time.Minute, 1, false},
		{0, 0, 1, false},
	} {
		share, next := ramp(epoch.Add(c.after), epoch, c.window)
		if share != c.share || next.IsZero() == c.next {
			t.Errorf("after %v of %v: %v, next %v", c.after, c.window, share, next)
		}
	}
	// However odd the window: each next is one step, and there are few.
	for _, window := range []time.Duration{1, 7, 13, 1001, 999_999_937, time.Hour + 7} {
		now, last, steps := epoch, 0.0, 0
		for last < 1 {
			share, next := ramp(now, epoch, window)
			if share <= last {
				t.Fatalf("%v: %v after %v", window, share, last)
			}
			last = share
			if steps++; !next.IsZero() {
				now = next
			}
		}
		if steps > rampSteps {
			t.Errorf("%v: %d steps", window, steps)
		}
	}
}

// chance is a source and a check that a test drives.
type chance struct {
	lists chan []Endpoint

	mu  sync.Mutex
	bad map[string]bool
}

func (c *chance) Run(ctx context.Context, publish func([]Endpoint)) error {
	for {
		select {
		case list := <-c.lists:
			publish(list)
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *chance) Status() SourceStatus { return SourceStatus{} }

func (c *chance) Probe(_ context.Context, e Endpoint) (*Answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bad[e.Name] {
		return nil, errors.New("bad")
	}
	return nil, nil
}

func (c *chance) turn(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bad[name] = !c.bad[name]
}

// TestWhateverHappens lets everything happen in random order, and holds the monitor
// against what can be computed anew at any time.
func TestWhateverHappens(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { mayhem(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func mayhem(t *testing.T, r *rand.Rand) {
	c := &chance{lists: make(chan []Endpoint), bad: make(map[string]bool)}
	o := Options{Source: c, Check: c, Panic: 0.4, SlowStart: 7 * time.Second, MaxEjected: 0.5, Outliers: OutlierRules{Consecutive: 3}}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	name := func() string { return fmt.Sprint("n", r.IntN(12)) }
	for range 300 {
		switch r.IntN(8) {
		case 0:
			var list []Endpoint
			for i := range 12 {
				if r.IntN(5) > 0 {
					list = append(list, Endpoint{Name: fmt.Sprint("n", i), Addr: "x:1", Weight: 1, Healthy: r.IntN(5) > 0, Draining: r.IntN(6) == 0})
				}
			}
			c.lists <- oneOfEach(list)
		case 1, 2:
			c.turn(name())
		case 3, 4:
			for range r.IntN(5) {
				m.Report(name(), Outcome(1+r.IntN(3)))
			}
		case 5:
			n := name()
			for range 4 {
				m.Report(n, DialFailed)
			}
		case 6:
			m.SetOverrides(map[string]Override{name(): {Drain: true}, name(): {Disabled: true}})
		case 7:
			o.Source, o.Panic, o.MaxEjected = nil, float64(r.IntN(5))/5, 0.1+r.Float64()
			if err := m.Configure(o); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Duration(r.IntN(3000))*time.Millisecond + 100) // not at the nanosecond of a step
		synctest.Wait()
		m.audit(t)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// audit computes anew what the monitor keeps.
func (m *Monitor) audit(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var census census
	for name, w := range m.nodes {
		census.add(w.counted, 1)
		if is := w.facts(time.Now(), m.overrides[name], w.damper.suppressed); is != w.counted {
			t.Errorf("%s is counted as %+v, but is %+v", name, w.counted, is)
		}
		if s, _ := w.standing(m.panic); s != w.placed.standing {
			t.Errorf("%s is placed as %s, but stands %s", name, w.placed.standing, s)
		}
		if w.outlier.ejected() && !time.Now().Before(w.outlier.until) {
			t.Errorf("%s is ejected longer than it should be", name)
		}
		if share, _ := ramp(time.Now(), w.ramped, m.options.SlowStart); share != w.placed.share {
			t.Errorf("%s has share %v, not %v", name, w.placed.share, share)
		}
	}
	if census != m.census {
		t.Errorf("counted %+v, but it is %+v", m.census, census)
	}
	if float64(census.out) > m.options.MaxEjected*float64(census.nodes) {
		t.Errorf("%d of %d nodes are out, more than %v", census.out, census.nodes, m.options.MaxEjected)
	}
	if m.panic != census.panics(m.options.Panic, m.panic) {
		t.Errorf("panic is %v at %+v", m.panic, census)
	}
}

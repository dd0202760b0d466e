package limit_test

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"imlb/proxy/limit"
)

// start is when every guard in these tests is made.
func start() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) }

func newGuard(t testing.TB, rules limit.Rules) *limit.Guard {
	t.Helper()
	g, err := limit.New(start(), rules)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// admitted accepts a connection that must be admitted at once.
func admitted(t testing.TB, g *limit.Guard, now time.Time, listener, addr string) *limit.Ticket {
	t.Helper()
	ticket, wait, reason := g.Accept(now, listener, netip.MustParseAddr(addr))
	if wait != 0 || reason != limit.ReasonNone {
		t.Fatalf("%s: waits for %v, refused: %v", addr, wait, reason)
	}
	return &ticket
}

// decided checks a decision.
func decided(t testing.TB, what string, wait time.Duration, reason limit.Reason, wantWait time.Duration, want limit.Reason) {
	t.Helper()
	if wait != wantWait || reason != want {
		t.Errorf("%s: waits for %v, refused: %v; want %v, %v", what, wait, reason, wantWait, want)
	}
}

// A connection above the rate gets the next turn, as long as that is near.
func TestQueue(t *testing.T) {
	t.Parallel()
	rate := limit.Scope{Rate: limit.Rate{PerSecond: 10, Burst: 2, MaxWait: 250 * time.Millisecond}}
	for _, tt := range []struct {
		name  string
		rules limit.Rules
		want  limit.Reason
	}{
		{"source", limit.Rules{Source: rate}, limit.ReasonRateSource},
		{"listener", limit.Rules{Listeners: map[string]limit.Listener{"": {Scope: rate}}}, limit.ReasonRateListener},
		{"global", limit.Rules{Global: rate}, limit.ReasonRateGlobal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGuard(t, tt.rules)
			for i, step := range []struct {
				at, wait time.Duration
				want     limit.Reason
			}{
				{0, 0, limit.ReasonNone},
				{0, 0, limit.ReasonNone},
				{0, 100 * time.Millisecond, limit.ReasonNone},
				{0, 200 * time.Millisecond, limit.ReasonNone},
				{0, 0, tt.want},
				{0, 0, tt.want}, // a refusal takes nothing
				{50 * time.Millisecond, 250 * time.Millisecond, limit.ReasonNone},
				{50 * time.Millisecond, 0, tt.want},
				{time.Hour, 0, limit.ReasonNone}, // no more than a burst is saved
				{time.Hour, 0, limit.ReasonNone},
				{time.Hour, 100 * time.Millisecond, limit.ReasonNone},
			} {
				_, wait, reason := g.Accept(start().Add(step.at), "", netip.MustParseAddr("192.0.2.1"))
				decided(t, fmt.Sprint("step ", i), wait, reason, step.wait, step.want)
			}
			s := g.Snapshot(start().Add(time.Hour), 0)
			if n := s.Sources.Waiting + s.Listeners[""].Waiting + s.Global.Waiting; n != 1 {
				t.Errorf("%d wait", n)
			}
		})
	}
}

// Loops whose clocks differ do not get more out of a bucket together.
func TestTimesOutOfOrder(t *testing.T) {
	t.Parallel()
	rate := limit.Scope{Rate: limit.Rate{PerSecond: 1, Burst: 1}}
	for name, rules := range map[string]limit.Rules{
		"source":   {Source: rate},
		"listener": {Listeners: map[string]limit.Listener{"": {Scope: rate}}},
		"global":   {Global: rate},
	} {
		g, n := newGuard(t, rules), 0
		for i := range 1000 {
			now := start().Add(10 * time.Second).Add(time.Duration(i%2) * -time.Second)
			if _, _, reason := g.Accept(now, "", netip.MustParseAddr("192.0.2.1")); reason == limit.ReasonNone {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s: %d were admitted", name, n)
		}
	}
}

// What one scope refuses the others do not lose.
func TestRefusalTakesNothing(t *testing.T) {
	t.Parallel()
	rate := func(burst int) limit.Scope {
		return limit.Scope{Rate: limit.Rate{PerSecond: 0.001, Burst: burst}}
	}
	g := newGuard(t, limit.Rules{
		Source: rate(2), Global: rate(3),
		Listeners: map[string]limit.Listener{"small": {Scope: rate(1)}, "large": {Scope: rate(2)}},
	})
	admitted(t, g, start(), "small", "192.0.2.1")
	for range 10 {
		_, wait, reason := g.Accept(start(), "small", netip.MustParseAddr("192.0.2.1"))
		decided(t, "small", wait, reason, 0, limit.ReasonRateListener)
	}
	admitted(t, g, start(), "large", "192.0.2.1") // the source's second, the global second
	admitted(t, g, start(), "", "192.0.2.2")
	for range 10 {
		_, wait, reason := g.Accept(start(), "large", netip.MustParseAddr("192.0.2.3"))
		decided(t, "large", wait, reason, 0, limit.ReasonRateGlobal)
	}
	if err := g.Configure(start(), limit.Rules{
		Source:    rate(2),
		Listeners: map[string]limit.Listener{"small": {Scope: rate(1)}, "large": {Scope: rate(2)}},
	}); err != nil {
		t.Fatal(err)
	}
	admitted(t, g, start(), "large", "192.0.2.3")
	if s := g.Snapshot(start(), 0); s.Global.Connections != 4 || s.Listeners["large"].Connections != 2 {
		t.Errorf("counted %+v", s)
	}
}

// What is counted goes on being right under other rules.
func TestConfigure(t *testing.T) {
	t.Parallel()
	scope := limit.Scope{Concurrent: 3, Rate: limit.Rate{PerSecond: 1, Burst: 3}}
	rules := limit.Rules{Source: scope, Global: limit.Scope{Concurrent: 5}, Listeners: map[string]limit.Listener{"one": {Scope: scope}}}
	g := newGuard(t, rules)
	var tickets []*limit.Ticket
	for range 3 {
		tickets = append(tickets, admitted(t, g, start(), "one", "192.0.2.1"))
	}
	rules.Source.Rate.PerSecond, rules.Listeners = 1000, nil
	if err := g.Configure(start(), rules); err != nil {
		t.Fatal(err)
	}
	tickets[0].Done()
	_, _, reason := g.Accept(start(), "one", netip.MustParseAddr("192.0.2.1"))
	decided(t, "a changed rate", 0, reason, 0, limit.ReasonRateSource)
	admitted(t, g, start().Add(time.Millisecond), "one", "192.0.2.1")

	rules.Listeners = map[string]limit.Listener{"one": {Scope: limit.Scope{Concurrent: 2}}}
	if err := g.Configure(start().Add(time.Second), rules); err != nil {
		t.Fatal(err)
	}
	_, _, reason = g.Accept(start().Add(time.Second), "one", netip.MustParseAddr("192.0.2.2"))
	decided(t, "a listener that came back", 0, reason, 0, limit.ReasonConcurrentListener)
	tickets[1].Done()
	tickets[1].Done() // does nothing
	admitted(t, g, start().Add(time.Second), "one", "192.0.2.2")

	rules.Source.Concurrent = -1
	if err := g.Configure(start(), rules); err == nil {
		t.Error("wrong rules were taken")
	}
	_, _, reason = g.Accept(start().Add(time.Second), "one", netip.MustParseAddr("192.0.2.2"))
	decided(t, "the rules that were kept", 0, reason, 0, limit.ReasonConcurrentListener)
}

// A listener that is gone and unused is forgotten.
func TestRemovedListener(t *testing.T) {
	t.Parallel()
	g := newGuard(t, limit.Rules{Listeners: map[string]limit.Listener{"one": {}}})
	admitted(t, g, start(), "one", "192.0.2.1").Done()
	if err := g.Configure(start(), limit.Rules{}); err != nil {
		t.Fatal(err)
	}
	if s := g.Snapshot(start(), 0); len(s.Listeners) != 0 {
		t.Errorf("there are %v", s.Listeners)
	}
}

// Behind a proxy a connection belongs to its true source.
func TestBehind(t *testing.T) {
	t.Parallel()
	g := newGuard(t, limit.Rules{
		Source: limit.Scope{Concurrent: 1},
		Exempt: prefixes("10.0.0.0/8"),
		Access: limit.Access{Deny: prefixes("203.0.113.0/24")},
		Listeners: map[string]limit.Listener{
			"one": {Access: limit.Access{Deny: prefixes("198.51.100.7/32")}},
		},
	})
	behind := func(addr string) (*limit.Ticket, limit.Reason) {
		ticket := admitted(t, g, start(), "one", "10.0.0.1")
		_, reason := ticket.Behind(start(), netip.MustParseAddr(addr))
		return ticket, reason
	}
	first, reason := behind("192.0.2.1")
	decided(t, "first", 0, reason, 0, limit.ReasonNone)
	for addr, want := range map[string]limit.Reason{
		"::ffff:192.0.2.1": limit.ReasonConcurrentSource,
		"203.0.113.9":      limit.ReasonDenied,
		"198.51.100.7":     limit.ReasonDenied,
	} {
		refused, reason := behind(addr)
		decided(t, addr, 0, reason, 0, want)
		refused.Done()
	}
	if top := g.Snapshot(start(), 9).Top; len(top) != 1 || top[0].Source.String() != "192.0.2.1/32" || top[0].Connections != 1 {
		t.Errorf("top sources are %v", top)
	}
	if _, reason := first.Identified(start(), "alice"); reason != limit.ReasonNone {
		t.Fatal(reason)
	}
	first.Done()
	again, reason := behind("192.0.2.1")
	decided(t, "again", 0, reason, 0, limit.ReasonNone)
	again.Done()
	if s := g.Snapshot(start(), 9); s.Global.Connections != 0 || s.Sources.Connected+s.Claims.Connected != 0 {
		t.Errorf("still counted: %+v", s)
	}
}

// A proxy is no client: it is on no list and no source, but takes its turn.
func TestAcceptProxy(t *testing.T) {
	t.Parallel()
	g := newGuard(t, limit.Rules{
		Source: limit.Scope{Concurrent: 1},
		Access: limit.Access{Allow: prefixes("192.0.2.0/24")},
		Global: limit.Scope{Concurrent: 2},
	})
	through := func(addr string, want limit.Reason) *limit.Ticket {
		t.Helper()
		ticket, wait, reason := g.AcceptProxy(start(), "one")
		decided(t, "the proxy", wait, reason, 0, limit.ReasonNone)
		_, reason = ticket.Behind(start(), netip.MustParseAddr(addr))
		decided(t, addr, 0, reason, 0, want)
		return &ticket
	}
	one, refused := through("192.0.2.1", limit.ReasonNone), through("192.0.2.1", limit.ReasonConcurrentSource)
	_, _, reason := g.AcceptProxy(start(), "one")
	decided(t, "one too many", 0, reason, 0, limit.ReasonConcurrentGlobal)
	refused.Done()
	through("10.0.0.1", limit.ReasonDenied).Done()
	one.Done()
	if s := g.Snapshot(start(), 9); s.Global.Connections != 0 || s.Sources.Connected != 0 {
		t.Errorf("still counted: %+v", s)
	}
}

// A claim takes nothing from the user who is named; a login does.
func TestClaims(t *testing.T) {
	t.Parallel()
	g := newGuard(t, limit.Rules{User: limit.Scope{
		Unauthenticated: 2, Concurrent: 2, Rate: limit.Rate{PerSecond: 1, Burst: 3, MaxWait: time.Second},
	}})
	for i := range 100 {
		attacker := admitted(t, g, start(), "", fmt.Sprintf("198.51.100.%d", i/2))
		wait, reason := attacker.Identified(start(), "alice")
		decided(t, "a claim", wait, reason, 0, limit.ReasonNone)
	}
	third := admitted(t, g, start(), "", "198.51.100.1")
	_, reason := third.Identified(start(), "alice")
	decided(t, "a third from one source", 0, reason, 0, limit.ReasonUnauthenticatedUser)
	login := func() (*limit.Ticket, time.Duration, limit.Reason) {
		ticket := admitted(t, g, start(), "", "192.0.2.1")
		wait, reason := ticket.Identified(start(), "alice")
		if reason == limit.ReasonNone {
			reason = ticket.LoggedIn(start())
		}
		return ticket, wait, reason
	}
	first, wait, reason := login()
	decided(t, "first login", wait, reason, 0, limit.ReasonNone)
	late := admitted(t, g, start(), "", "192.0.2.1")
	wait, reason = late.Identified(start(), "alice")
	decided(t, "late claim", wait, reason, 0, limit.ReasonNone)
	_, wait, reason = login()
	decided(t, "second login", wait, reason, 0, limit.ReasonNone)
	_, _, reason = login()
	decided(t, "third login", 0, reason, 0, limit.ReasonConcurrentUser)
	decided(t, "late login", 0, late.LoggedIn(start()), 0, limit.ReasonConcurrentUser)
	decided(t, "late login again", 0, late.LoggedIn(start()), 0, limit.ReasonConcurrentUser)
	late.Done()
	first.Done()
	third2, wait, reason := login()
	decided(t, "after a logout", wait, reason, 0, limit.ReasonNone)
	third2.Done()
	fourth, wait, reason := login()
	decided(t, "above the rate", wait, reason, time.Second, limit.ReasonNone)
	fourth.Done()
	_, _, reason = login()
	decided(t, "far above the rate", 0, reason, 0, limit.ReasonRateUser)
}

// Connections of one source, and of one user from several, share their bytes.
func TestBandwidth(t *testing.T) {
	t.Parallel()
	kilo := limit.Bandwidth{PerSecond: 1000, Burst: 1000}
	g := newGuard(t, limit.Rules{Source: limit.Scope{In: kilo}, User: limit.Scope{Out: kilo}})
	var tickets []*limit.Ticket
	for _, addr := range []string{"2001:db8::1", "2001:db8::2", "2001:db8:0:1::"} {
		ticket := admitted(t, g, start(), "", addr)
		if _, reason := ticket.Identified(start(), "alice"); reason != limit.ReasonNone {
			t.Fatal(reason)
		}
		tickets = append(tickets, ticket)
	}
	for i, step := range []struct {
		ticket int
		dir    limit.Direction
		n      int
		pause  time.Duration
	}{
		{0, limit.In, 1000, 0},
		{1, limit.In, 500, 500 * time.Millisecond},
		{2, limit.In, 1000, 0}, // of another source
		{0, limit.Out, 5000, 0},
		{0, limit.In, 0, 0},
	} {
		if pause := tickets[step.ticket].Took(start(), step.dir, step.n); pause != step.pause {
			t.Errorf("step %d: pauses for %v, want %v", i, pause, step.pause)
		}
	}
	for i, ticket := range tickets {
		if reason := ticket.LoggedIn(start()); reason != limit.ReasonNone {
			t.Fatal(reason)
		}
		if pause, want := ticket.Took(start(), limit.Out, 1000), time.Duration(i)*time.Second; pause != want {
			t.Errorf("connection %d pauses for %v, want %v", i, pause, want)
		}
	}
	later := start().Add(time.Hour)
	if pause := tickets[0].Took(later, limit.In, math.MaxInt); pause < 24*time.Hour {
		t.Errorf("pauses for %v", pause)
	}
	for range 100 {
		if pause := tickets[0].Took(later, limit.In, math.MaxInt); pause <= 0 {
			t.Fatalf("pauses for %v", pause)
		}
	}
}

func TestWrongRules(t *testing.T) {
	t.Parallel()
	rate := func(r limit.Rate) limit.Rules { return limit.Rules{Source: limit.Scope{Rate: r}} }
	bytes := func(b limit.Bandwidth) limit.Rules { return limit.Rules{User: limit.Scope{Out: b}} }
	back := func(b limit.Backoff) limit.Rules { return limit.Rules{Backoff: b} }
	for want, rules := range map[string]limit.Rules{
		"33":                       {IPv4Bits: 33},
		"129":                      {IPv6Bits: 129},
		"-1 or 64 bits":            {IPv4Bits: -1},
		"entries":                  {MaxEntries: -1},
		"source: a rate is":        rate(limit.Rate{PerSecond: math.NaN(), Burst: 1}),
		"a rate is":                rate(limit.Rate{PerSecond: math.Inf(1), Burst: 1}),
		"out of range":             rate(limit.Rate{PerSecond: 1, Burst: 1, MaxWait: -1}),
		"burst of at least 1":      rate(limit.Rate{PerSecond: 1}),
		"years":                    rate(limit.Rate{PerSecond: 1e-300, Burst: 1}),
		"user: a bandwidth is":     bytes(limit.Bandwidth{PerSecond: -1}),
		"at least 1 byte":          bytes(limit.Bandwidth{PerSecond: 1}),
		"takes years":              bytes(limit.Bandwidth{PerSecond: 1, Burst: math.MaxInt64}),
		"global: a number":         {Global: limit.Scope{Unauthenticated: -1}},
		`listener "x": a number`:   {Listeners: map[string]limit.Listener{"x": {Scope: limit.Scope{Concurrent: -1}}}},
		`listener "y": invalid`:    {Listeners: map[string]limit.Listener{"y": {Access: limit.Access{Allow: make([]netip.Prefix, 1)}}}},
		"access: invalid Prefix":   {Access: limit.Access{Deny: make([]netip.Prefix, 1)}},
		"exempt: invalid Prefix":   {Exempt: make([]netip.Prefix, 1)},
		"grow":                     back(limit.Backoff{Pair: limit.Steps{First: 2, Max: 1}, Window: 9}),
		"remembered":               back(limit.Backoff{Source: limit.Steps{First: 1, Max: 10}, Window: 9}),
		"must not get them":        back(limit.Backoff{User: limit.Steps{First: 1, Max: 5}, MaxWait: 4, Window: 9}),
		"a time is out of range":   back(limit.Backoff{Window: math.MaxInt64}),
		"back-off: delays must":    back(limit.Backoff{Pair: limit.Steps{Free: -1}}),
		"limits: back-off: a time": back(limit.Backoff{MaxWait: -1}),
	} {
		if _, err := limit.New(start(), rules); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got %v", want, err)
		}
	}
}

// Names of reasons label metrics: each has one, and none has two.
func TestReasons(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for r := limit.ReasonNone; r.String() != "unknown"; r++ {
		if seen[r.String()] {
			t.Errorf("two reasons are called %s", r)
		}
		seen[r.String()] = true
	}
	if len(seen) != 17 {
		t.Errorf("there are %d reasons", len(seen))
	}
}

// The zero ticket, which refusals come with, can be used without harm.
func TestZeroTicket(t *testing.T) {
	t.Parallel()
	var ticket limit.Ticket
	wait, reason := ticket.Identified(start(), "alice")
	decided(t, "identified", wait, reason, 0, limit.ReasonNone)
	wait, reason = ticket.Behind(start(), netip.Addr{})
	decided(t, "behind", wait, reason, 0, limit.ReasonNone)
	ticket.AuthFailed(start())
	decided(t, "logged in", ticket.Took(start(), limit.In, 1), ticket.LoggedIn(start()), 0, limit.ReasonNone)
	ticket.Done()
}

// No address, as of a connection that broke before it was looked at, is a source
// like others.
func TestNoAddress(t *testing.T) {
	t.Parallel()
	g := newGuard(t, limit.Rules{Source: limit.Scope{Concurrent: 1}, Access: limit.Access{Deny: prefixes("192.0.2.0/24")}})
	if _, _, reason := g.Accept(start(), "", netip.Addr{}); reason != limit.ReasonNone {
		t.Error(reason)
	}
	_, _, reason := g.Accept(start(), "", netip.Addr{})
	decided(t, "second", 0, reason, 0, limit.ReasonConcurrentSource)
}

// Many goroutines and changes of rules at once: limits hold at every moment, and
// all counts return to zero.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	const most = 20
	scope := limit.Scope{Concurrent: most, In: limit.Bandwidth{PerSecond: 1 << 20, Burst: 1 << 16}}
	rules := limit.Rules{
		Source: scope, User: scope, Global: scope, MaxEntries: 600,
		Listeners: map[string]limit.Listener{"one": {Scope: scope}, "two": {Scope: scope}},
		Backoff:   limit.Backoff{Pair: limit.Steps{Free: 1, First: 1, Max: 2}, MaxWait: 3, Window: 1000},
	}
	g := newGuard(t, rules)
	var work sync.WaitGroup
	for worker := range 8 {
		work.Go(func() {
			for i := range 2000 {
				now := start().Add(time.Duration(i) * time.Millisecond)
				live(now, g, worker, i)
			}
		})
	}
	for i := range 100 {
		rules.Source.Rate = limit.Rate{PerSecond: float64(i * 10), Burst: 10}
		rules.IPv6Bits = 48 + i%20
		if err := g.Configure(start(), rules); err != nil {
			t.Error(err)
		}
		s := g.Snapshot(start(), 5)
		if n := s.Global.Connections; n < 0 || n > most || s.Global.Unauthenticated < 0 || s.Global.Unauthenticated > n {
			t.Errorf("counted %+v", s.Global)
		}
		for _, top := range s.Top {
			if top.Connections > most || top.Unauthenticated < 0 || top.Unauthenticated > top.Connections {
				t.Errorf("counted %+v", top)
			}
		}
	}
	work.Wait()
	s := g.Snapshot(start(), 5)
	if s.Global != (limit.GateStatus{}) || s.Listeners["one"] != (limit.GateStatus{}) || len(s.Top) != 0 ||
		s.Sources.Connected+s.Users.Connected+s.Claims.Connected != 0 || s.Sources.Overflowing+s.Users.Overflowing != 0 {
		t.Errorf("at the end: %+v", s)
	}
}

// live is the life of a connection.
func live(now time.Time, g *limit.Guard, worker, i int) {
	addr := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, byte(i % 50), 0, byte(worker)})
	ticket, _, reason := g.Accept(now, []string{"one", "two"}[i%2], addr)
	if reason != limit.ReasonNone {
		return
	}
	defer ticket.Done()
	if _, reason := ticket.Identified(now, fmt.Sprint("user", i%7)); reason != limit.ReasonNone {
		return
	}
	if i%5 == 0 {
		ticket.AuthFailed(now)
		return
	}
	if ticket.LoggedIn(now) != limit.ReasonNone {
		return
	}
	var other sync.WaitGroup
	other.Go(func() { ticket.Took(now, limit.Out, 100) })
	ticket.Took(now, limit.In, 100)
	other.Wait()
}

// Busy is a front that has no place, or no turn, left for one more than are coming.
func TestBusy(t *testing.T) {
	t.Parallel()
	const addr, burst = "192.0.2.1", 3
	for name, scope := range map[string]limit.Scope{
		"rate":            {Rate: limit.Rate{PerSecond: 0.001, Burst: burst, MaxWait: time.Hour}},
		"connections":     {Concurrent: burst},
		"unauthenticated": {Unauthenticated: burst},
	} {
		for what, rules := range map[string]limit.Rules{
			"source":   {Source: scope},
			"listener": {Listeners: map[string]limit.Listener{"a": {Scope: scope}}},
			"global":   {Global: scope},
		} {
			t.Run(name+" of "+what, func(t *testing.T) {
				t.Parallel()
				rules.Exempt = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
				g := newGuard(t, rules)
				for there := range burst + 1 {
					for coming := range burst + 2 {
						want := there+coming >= burst
						if got := g.Busy(start(), "a", netip.MustParseAddr("::ffff:"+addr), coming); got != want {
							t.Errorf("with %d and %d coming: %t, want %t", there, coming, got, want)
						}
						if what == "source" && g.Busy(start(), "a", netip.MustParseAddr("203.0.113.1"), coming) {
							t.Error("an exempt source is busy")
						}
					}
					if s := g.Snapshot(start(), 0); s.Sources.Entries > 1 || s.Global.Connections != there {
						t.Errorf("to ask leaves a trace: %+v", s)
					}
					if there < burst {
						admitted(t, g, start(), "a", addr)
					}
				}
			})
		}
	}
}

// Who stays takes no turn, but has to find a place; of who only asks nothing is kept.
func TestStay(t *testing.T) {
	t.Parallel()
	scope := limit.Scope{Rate: limit.Rate{PerSecond: 0.001, Burst: 1}, Concurrent: 1, Unauthenticated: 1}
	for _, tt := range []struct {
		name  string
		rules limit.Rules
		want  limit.Reason
	}{
		{"source", limit.Rules{Source: scope}, limit.ReasonConcurrentSource},
		{"listener", limit.Rules{Listeners: map[string]limit.Listener{"a": {Scope: scope}}}, limit.ReasonConcurrentListener},
		{"global", limit.Rules{Global: scope}, limit.ReasonConcurrentGlobal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.rules.Access.Deny = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
			g, addr, denied := newGuard(t, tt.rules), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:198.51.100.1")
			if g.Denied("a", addr) || !g.Denied("a", denied) {
				t.Error("the access lists are not asked")
			}
			admitted(t, g, start(), "a", "192.0.2.1").Done()
			for range 3 { // without a turn
				ticket, reason := g.Stay(start(), "a", addr)
				decided(t, "the first", 0, reason, 0, limit.ReasonNone)
				_, reason = g.Stay(start(), "a", addr)
				decided(t, "the second", 0, reason, 0, tt.want)
				if s := g.Snapshot(start(), 1); s.Global.Connections != 1 || s.Global.Unauthenticated != 1 || s.Sources.Connected != 1 {
					t.Errorf("counted are %+v", s)
				}
				ticket.Done()
			}
			_, reason := g.Stay(start(), "a", denied)
			decided(t, "one that is denied", 0, reason, 0, limit.ReasonDenied)
			if s := g.Snapshot(start(), 1); s.Global.Connections != 0 || s.Sources.Connected != 0 {
				t.Errorf("counted are %+v", s)
			}
		})
	}
}

// A connection that rests after its session counts as before, but for no user.
func TestRest(t *testing.T) {
	t.Parallel()
	g := newGuard(t, limit.Rules{User: limit.Scope{Concurrent: 1}})
	login := func(want limit.Reason) *limit.Ticket {
		t.Helper()
		ticket := admitted(t, g, start(), "a", "192.0.2.1")
		if _, reason := ticket.Identified(start(), "alice"); reason != want {
			t.Fatalf("%v, want %v", reason, want)
		}
		if reason := ticket.LoggedIn(start()); want == limit.ReasonNone && reason != want {
			t.Fatalf("%v, want %v", reason, want)
		}
		return ticket
	}
	first := login(limit.ReasonNone)
	second := login(limit.ReasonConcurrentUser)
	second.Done()
	first.Rest()
	first.Rest()
	third := login(limit.ReasonNone)
	if s := g.Snapshot(start(), 1); s.Global.Connections != 2 || s.Global.Unauthenticated != 0 || s.Sources.Connected != 1 {
		t.Errorf("counted are %+v", s)
	}
	first.Done()
	third.Done()
	if s := g.Snapshot(start(), 1); s.Global.Connections != 0 || s.Sources.Connected != 0 {
		t.Errorf("counted are %+v", s)
	}
}

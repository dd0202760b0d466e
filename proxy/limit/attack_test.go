package limit_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"imlb/proxy/limit"
)

// stranger returns an address in the nth /64.
func stranger(n int) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], 0x20010db8_00000000+uint64(n))
	b[15] = 1
	return netip.AddrFrom16(b)
}

// heap returns how many bytes are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A million sources, or a million guesses of 200,000, do not make the tables grow past their cap, whatever they do.
func TestMillionSources(t *testing.T) { //nolint:paralleltest // It measures memory.
	const most, perEntry = strangers / 10, 128
	rules := limit.Rules{Source: limit.Scope{
		Rate: limit.Rate{PerSecond: 1, Burst: 4}, Concurrent: 8, In: limit.Bandwidth{PerSecond: 1000, Burst: 1000},
	}, Backoff: backoff(), MaxEntries: most}
	connect := func(g *limit.Guard, now time.Time, n int, act func(*limit.Ticket)) {
		ticket, _, reason := g.Accept(now, "", stranger(n))
		if reason == limit.ReasonNone {
			act(&ticket)
		}
	}
	for _, tt := range []struct {
		name   string
		act    func(t *limit.Ticket, now time.Time, n int)
		each   int // acts of each source
		tables int // that fill
	}{
		{"come and go", func(t *limit.Ticket, _ time.Time, _ int) { t.Done() }, 1, 1},
		{"use all they have", func(t *limit.Ticket, now time.Time, _ int) { t.Took(now, limit.In, 1000); t.Done() }, 1, 1},
		{"stay", func(*limit.Ticket, time.Time, int) {}, 1, 1},
		{"guess passwords", func(t *limit.Ticket, now time.Time, n int) {
			for range 5 {
				t.Identified(now, fmt.Sprint("user", n))
				t.AuthFailed(now)
			}
			t.Done()
		}, 5, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := heap()
			g := newGuard(t, rules)
			for n := range strangers / tt.each {
				now := start().Add(time.Duration(n) * time.Microsecond)
				connect(g, now, n, func(ticket *limit.Ticket) { tt.act(ticket, now, n) })
			}
			grown := heap() - before
			s := g.Snapshot(start().Add(time.Second), 3)
			for _, table := range []limit.TableStatus{s.Sources, s.Users, s.Claims} {
				if table.Entries > most || table.MaxEntries > most {
					t.Errorf("a table has %d entries of %d", table.Entries, table.MaxEntries)
				}
			}
			entries := s.Sources.Entries + s.Users.Entries + s.Claims.Entries
			t.Logf("%d entries, %d bytes, %.1f bytes/entry, %+v", entries, grown, float64(grown)/float64(entries), s.Sources)
			if grown > int64(tt.tables)*most*perEntry {
				t.Errorf("grown by %d bytes", grown)
			}
			runtime.KeepAlive(g)
		})
	}
}

// small are rules with a table of a single part of 16.
func small() limit.Rules {
	return limit.Rules{
		Source:  limit.Scope{Rate: limit.Rate{PerSecond: 1, Burst: 4}, Concurrent: 4},
		Backoff: backoff(), MaxEntries: 16,
	}
}

// flood makes many sources connect and leave at once.
func flood(g *limit.Guard, now time.Time) {
	for n := range 1000 {
		ticket, _, _ := g.Accept(now, "", stranger(1000+n))
		ticket.Done()
	}
}

// Who comes now and then needs no entry of its own for long.
func TestNothingLost(t *testing.T) {
	t.Parallel()
	g := newGuard(t, small())
	for n := range 1000 {
		admitted(t, g, start().Add(time.Duration(n)*time.Second), "", stranger(n).String()).Done()
	}
	if s := g.Snapshot(start(), 0).Sources; s.Entries > 1 || s.Evicted != 0 || s.Overflowed != 0 {
		t.Errorf("%+v", s)
	}
}

// A flood of strangers does not wash away what is known of others: who has used up
// its burst, who has failed too often, and who has connections.
func TestFlood(t *testing.T) {
	t.Parallel()
	g := newGuard(t, small())
	for range 3 {
		admitted(t, g, start(), "", "192.0.2.1").Done()
	}
	for i := range 25 {
		now := start().Add(time.Duration(i) * time.Second)
		if _, reason := try(t, g, now, "192.0.2.2", fmt.Sprint("user", i)); reason != limit.ReasonNone {
			t.Fatal(reason)
		}
	}
	now := start().Add(24 * time.Second)
	for range 3 {
		admitted(t, g, now, "", "192.0.2.1").Done()
	}
	connected := admitted(t, g, now, "", "192.0.2.3")
	flood(g, now)
	s := g.Snapshot(now, 0).Sources
	if s.Entries != 16 || s.Evicted < 900 || s.Overflowed != 0 {
		t.Errorf("%+v", s)
	}
	admitted(t, g, now, "", "192.0.2.1").Done() // its fourth
	_, _, reason := g.Accept(now, "", netip.MustParseAddr("192.0.2.1"))
	decided(t, "who has used up its burst", 0, reason, 0, limit.ReasonRateSource)
	failed := admitted(t, g, now.Add(5*time.Second), "", "192.0.2.2")
	_, reason = failed.Identified(now.Add(5*time.Second), "alice")
	decided(t, "who has failed too often", 0, reason, 0, limit.ReasonAuthBackoffSource)
	for range 3 {
		defer admitted(t, g, now, "", "192.0.2.3").Done()
	}
	_, _, reason = g.Accept(now.Add(time.Hour), "", netip.MustParseAddr("192.0.2.3"))
	decided(t, "who has connections", 0, reason, 0, limit.ReasonConcurrentSource)
	connected.Done()
}

// Neither does it pay what others have to pay for their bytes.
func TestFloodForgivesNoBytes(t *testing.T) {
	t.Parallel()
	kilo := limit.Bandwidth{PerSecond: 1000, Burst: 1000}
	for dir, scope := range map[limit.Direction]limit.Scope{limit.In: {In: kilo}, limit.Out: {Out: kilo}} {
		g := newGuard(t, limit.Rules{Source: scope, MaxEntries: 16})
		spend := func() time.Duration {
			ticket := admitted(t, g, start(), "", "192.0.2.1")
			defer ticket.Done()
			return ticket.Took(start(), dir, 1000)
		}
		if pause := spend(); pause != 0 {
			t.Errorf("pauses for %v", pause)
		}
		admitted(t, g, start(), "", "192.0.2.2").Done() // the table has room
		if pause := spend(); pause != time.Second {
			t.Errorf("pauses for %v", pause)
		}
		flood(g, start())
		if pause := spend(); pause != 2*time.Second {
			t.Errorf("after a flood, pauses for %v", pause)
		}
	}
}

// When nothing can go newcomers squeeze each other, and nobody else.
func TestOverflow(t *testing.T) {
	t.Parallel()
	g := newGuard(t, small())
	var known []*limit.Ticket
	for n := range 16 {
		known = append(known, admitted(t, g, start(), "", stranger(n).String()))
	}
	var newcomers []*limit.Ticket
	refused := 0
	for n := range 100 {
		ticket, _, reason := g.Accept(start(), "", stranger(100+n))
		switch reason {
		case limit.ReasonNone:
			newcomers = append(newcomers, &ticket)
		case limit.ReasonOverflowSource:
			refused++
		default:
			t.Fatal(reason)
		}
	}
	if s := g.Snapshot(start(), 0).Sources; len(newcomers) != 4 || refused != 96 || s.Overflowing != 4 || s.Overflowed != 100 || s.Connected != 16 {
		t.Errorf("%d newcomers, %d refused, %+v", len(newcomers), refused, s)
	}
	for n := range 16 {
		defer admitted(t, g, start(), "", stranger(n).String()).Done()
	}
	for i, n := range newcomers { // their failures delay, and refuse nobody
		for j := range 25 {
			wait, reason := n.Identified(start(), fmt.Sprint("user", i, j))
			if wait > 2*time.Second || reason != limit.ReasonNone {
				t.Fatalf("waits for %v, refused: %v", wait, reason)
			}
			n.AuthFailed(start())
		}
		n.Done()
	}
	known[0].Done()
	if s := g.Snapshot(start(), 0).Sources; s.Overflowing != 0 || s.Connected != 16 {
		t.Errorf("%+v", s)
	}
	for _, k := range known {
		k.Done()
	}
}

// A user who logs in is in, also when others have filled the table of users.
func TestUsersOverflow(t *testing.T) {
	t.Parallel()
	r := small()
	r.User.Concurrent = 1
	r.Source = limit.Scope{}
	g := newGuard(t, r)
	login := func(user string) (*limit.Ticket, limit.Reason) {
		ticket := admitted(t, g, start(), "", "192.0.2.1")
		if _, reason := ticket.Identified(start(), user); reason != limit.ReasonNone {
			return ticket, reason
		}
		return ticket, ticket.LoggedIn(start())
	}
	for i := range 20 { // 4 find no room
		if _, reason := login(fmt.Sprint("user", i)); reason != limit.ReasonNone {
			t.Fatalf("user %d: %v", i, reason)
		}
	}
	for range 5 {
		ticket, reason := login("user19")
		decided(t, "without room", 0, reason, 0, limit.ReasonNone)
		ticket.Done()
	}
	_, reason := login("user3")
	decided(t, "with room", 0, reason, 0, limit.ReasonConcurrentUser)
}

// A cap that is raised counts at once.
func TestMoreEntries(t *testing.T) {
	t.Parallel()
	r := small()
	g := newGuard(t, r)
	for _, tt := range []struct{ most, want int }{{16, 16}, {64, 64}, {8, 64}} {
		r.MaxEntries = tt.most
		if err := g.Configure(start(), r); err != nil {
			t.Fatal(err)
		}
		for n := range 100 {
			g.Accept(start(), "", stranger(n))
		}
		if s := g.Snapshot(start(), 0).Sources; s.Entries != tt.want || s.MaxEntries != tt.most {
			t.Errorf("of %d: %+v", tt.most, s)
		}
	}
	r = limit.Rules{Global: limit.Scope{Concurrent: 100_000}}
	if s := newGuard(t, r).Snapshot(start(), 0).Users; s.MaxEntries != 200_000 {
		t.Errorf("for 100,000 connections there is room for %d", s.MaxEntries)
	}
}

// The top sources are those with the most connections.
func TestTop(t *testing.T) {
	t.Parallel()
	g := newGuard(t, limit.Rules{IPv6Bits: 56})
	for n := range 100 {
		for range n%50 + 1 {
			ticket := admitted(t, g, start(), "", stranger(n<<8).String())
			if n == 49 {
				ticket.LoggedIn(start())
			}
		}
	}
	top := g.Snapshot(start(), 4).Top
	if len(top) != 4 || top[0].Connections != 50 || top[1].Connections != 50 || top[2].Connections != 49 || top[3].Connections != 49 {
		t.Errorf("top sources: %v", top)
	}
	for _, s := range top {
		if s.Source.Bits() != 56 || s.Source != s.Source.Masked() || (s.Source.Contains(stranger(49<<8)) != (s.Unauthenticated == 0)) {
			t.Errorf("there is %+v", s)
		}
	}
	if top := g.Snapshot(start(), 0).Top; len(top) != 0 {
		t.Errorf("no top sources are %v", top)
	}
}

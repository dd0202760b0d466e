package limit_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"imlb/proxy/limit"
)

// everything are rules with all limits on, and out of reach.
func everything() limit.Rules {
	scope := limit.Scope{
		Rate: limit.Rate{PerSecond: 1e8, Burst: 1e6, MaxWait: time.Second}, Concurrent: 1e6, Unauthenticated: 1e6,
		In: limit.Bandwidth{PerSecond: 1e12, Burst: 1e12}, Out: limit.Bandwidth{PerSecond: 1e12, Burst: 1e12},
	}
	return limit.Rules{
		Source: scope, User: scope, Global: scope, Listeners: map[string]limit.Listener{"one": {Scope: scope}},
		Access:  limit.Access{Deny: prefixes("198.51.100.0/24")},
		Backoff: backoff(), MaxEntries: 200_000,
	}
}

// A connection of somebody who is known costs no allocation, and neither does a
// refusal.
func TestAllocations(t *testing.T) { //nolint:paralleltest // It counts allocations.
	g := newGuard(t, everything())
	addr, stays := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")
	kept, _, _ := g.Accept(start(), "one", stays)
	life := func() {
		ticket, _, _ := g.Accept(start(), "one", addr)
		ticket.Behind(start(), stays)
		ticket.Identified(start(), "alice")
		ticket.AuthFailed(start())
		ticket.Identified(start(), "bob")
		ticket.LoggedIn(start())
		ticket.Took(start(), limit.In, 100)
		ticket.Done()
	}
	refused := func() { g.Accept(start(), "one", netip.MustParseAddr("198.51.100.1")) }
	for name, f := range map[string]func(){"life": life, "refused": refused} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	kept.Done()
}

func BenchmarkAcceptDone(b *testing.B) {
	now := start()
	for _, n := range []int{1, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g := newGuard(b, everything())
			addrs := make([]netip.Addr, n)
			for i := range addrs {
				addrs[i] = stranger(i)
				g.Accept(now, "one", addrs[i]) // stays
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				ticket, _, _ := g.Accept(now, "one", addrs[i])
				ticket.Done()
				if i += 7919; i >= n {
					i %= n
				}
			}
		})
	}
}

// Strangers of whom each is new, to a table that is full.
func BenchmarkAcceptFlood(b *testing.B) {
	now := start()
	g := newGuard(b, everything())
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		ticket, _, _ := g.Accept(now, "one", stranger(n))
		ticket.Done()
	}
}

func BenchmarkLogin(b *testing.B) {
	now := start()
	g := newGuard(b, everything())
	addr := netip.MustParseAddr("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		ticket, _, _ := g.Accept(now, "one", addr)
		ticket.Identified(now, "alice@example.com")
		ticket.LoggedIn(now)
		ticket.Done()
	}
}

func BenchmarkTook(b *testing.B) {
	now := start()
	for name, rules := range map[string]limit.Rules{"unlimited": {}, "source": {Source: everything().Source}, "everywhere": everything()} {
		b.Run(name, func(b *testing.B) {
			g := newGuard(b, rules)
			ticket, _, _ := g.Accept(now, "one", netip.MustParseAddr("192.0.2.1"))
			ticket.Identified(now, "alice")
			ticket.LoggedIn(now)
			b.ReportAllocs()
			for b.Loop() {
				ticket.Took(now, limit.In, 4096)
			}
		})
	}
}

// Lists of 10,000 networks each.
func BenchmarkAccess(b *testing.B) {
	now := start()
	var r limit.Rules
	for i := range 10_000 {
		v4 := netip.AddrFrom4([4]byte{byte(i >> 8), byte(i), 1, 0})
		r.Access.Deny = append(r.Access.Deny, netip.PrefixFrom(v4, 24), netip.PrefixFrom(stranger(2*i), 64))
	}
	for name, addr := range map[string]netip.Addr{
		"IPv4 denied": netip.MustParseAddr("20.7.1.9"), "IPv6 denied": stranger(2 * 5003),
	} {
		b.Run(name, func(b *testing.B) {
			g := newGuard(b, r)
			if _, _, reason := g.Accept(now, "", addr); reason != limit.ReasonDenied {
				b.Fatal(reason)
			}
			b.ReportAllocs()
			for b.Loop() {
				g.Accept(now, "", addr)
			}
		})
	}
}

func BenchmarkConfigure(b *testing.B) {
	now := start()
	g, rules := newGuard(b, everything()), everything()
	for i := range 100_000 {
		g.Accept(now, "one", stranger(i))
	}
	for b.Loop() {
		rules.Source.Rate.Burst++
		if err := g.Configure(now, rules); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSnapshot(b *testing.B) {
	now := start()
	g := newGuard(b, everything())
	for i := range 100_000 {
		g.Accept(now, "one", stranger(i))
	}
	for b.Loop() {
		g.Snapshot(now, 20)
	}
}

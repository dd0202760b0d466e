package limit_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"imlb/proxy/limit"
)

// model is the specification of a [limit.Guard], written for clarity: it remembers
// everybody, and its buckets hold tokens.
type model struct {
	rules   limit.Rules
	now     time.Time
	sources map[netip.Prefix]*counted
	users   map[string]*counted
	claims  map[string]*counted // by user and source
	lists   map[string]*counted // listeners
	global  *counted
}

// counted is what is counted together.
type counted struct {
	live, unauth int
	turns        tokens
	bytes        [2]tokens
	failures     int
	failedAt     time.Time
}

// tokens is a bucket. The zero one is full.
type tokens struct {
	missing float64
	at      time.Time
}

func (k *tokens) left(now time.Time, perSecond, burst float64) float64 {
	k.missing = max(0, k.missing-now.Sub(k.at).Seconds()*perSecond)
	k.at = now
	return burst - k.missing
}

// take takes n tokens, maybe into debt, and returns for how long that lasts.
func (k *tokens) take(now time.Time, perSecond, burst, n float64) time.Duration {
	left := k.left(now, perSecond, burst) - n
	k.missing += n
	return time.Duration(max(0, -left) / perSecond * float64(time.Second))
}

// connection is one ticket, and where the model counts it.
type connection struct {
	ticket    limit.Ticket
	listener  string
	source    netip.Prefix // zero when exempt
	claimed   string       // by the last Identified
	pair      string       // key of claims while it counts there
	user      string       // once logged in
	loggedIn  bool
	abandoned bool // refused by LoggedIn
}

func newModel(r limit.Rules, now time.Time) *model {
	return &model{
		rules: r, now: now, sources: map[netip.Prefix]*counted{}, users: map[string]*counted{},
		claims: map[string]*counted{}, lists: map[string]*counted{}, global: &counted{},
	}
}

// entry returns what is counted under a key.
func entry[K comparable](m map[K]*counted, k K) *counted {
	if m[k] == nil {
		m[k] = &counted{}
	}
	return m[k]
}

// source returns the prefix of an address, or none for an exempt one.
func (m *model) source(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := map[bool]int{true: 32, false: 64}[addr.Is4()]
	if holds(m.rules.Exempt, addr) {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(addr, bits).Masked()
}

func holds(list []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr.Unmap().WithZone("")) })
}

func denied(a limit.Access, addr netip.Addr) bool {
	return holds(a.Deny, addr) || len(a.Allow) > 0 && !holds(a.Allow, addr)
}

// judge returns whether a scope admits one more connection, without counting it.
func (m *model) judge(c *counted, s limit.Scope, name string) (time.Duration, string) {
	probe := *c
	switch {
	case s.Concurrent > 0 && c.live >= s.Concurrent:
		return 0, "concurrent-" + name
	case s.Unauthenticated > 0 && c.unauth >= s.Unauthenticated:
		return 0, "unauthenticated-" + name
	case s.Rate.PerSecond == 0:
		return 0, "none"
	}
	wait := probe.turns.take(m.now, s.Rate.PerSecond, float64(s.Rate.Burst), 1)
	if wait > s.Rate.MaxWait {
		return 0, "rate-" + name
	}
	return wait, "none"
}

func (m *model) accept(listener string, addr netip.Addr) (wait time.Duration, reason string) {
	l, source := m.rules.Listeners[listener], m.source(addr)
	if denied(m.rules.Access, addr) || denied(l.Access, addr) {
		return 0, "denied"
	}
	type scope struct {
		counted *counted
		limits  limit.Scope
		name    string
	}
	scopes := []scope{
		{entry(m.lists, listener), l.Scope, "listener"},
		{m.global, m.rules.Global, "global"},
	}
	if source.IsValid() {
		scopes = slices.Insert(scopes, 0, scope{entry(m.sources, source), m.rules.Source, "source"})
	}
	for _, s := range scopes {
		w, r := m.judge(s.counted, s.limits, s.name)
		if r != "none" {
			return 0, r
		}
		wait = max(wait, w)
	}
	for _, s := range scopes {
		s.counted.live++
		s.counted.unauth++
		if r := s.limits.Rate; r.PerSecond > 0 {
			s.counted.turns.take(m.now, r.PerSecond, float64(r.Burst), 1)
		}
	}
	return wait, "none"
}

// delay returns how long a login must wait for failures.
func (m *model) delay(c *counted, s limit.Steps) time.Duration {
	if !m.failing(c) || c.failures <= s.Free || s.First == 0 {
		return 0
	}
	d := s.First
	for range c.failures - s.Free - 1 {
		d = min(2*d, s.Max)
	}
	return max(0, c.failedAt.Add(d).Sub(m.now))
}

func (m *model) failing(c *counted) bool {
	return c.failures > 0 && m.now.Sub(c.failedAt) < m.rules.Backoff.Window
}

func (m *model) fail(c *counted) {
	if !m.failing(c) {
		c.failures = 0
	}
	c.failures++
	c.failedAt = m.now
}

func (m *model) identified(c *connection, user string) (time.Duration, string) {
	m.withdraw(c)
	c.claimed = ""
	b, of := m.rules.Backoff, entry(m.users, user)
	wait, reason := m.judge(&counted{live: of.live, turns: of.turns}, m.rules.User, "user")
	if reason != "none" {
		return 0, reason
	}
	wait = max(wait, m.delay(of, b.User))
	if c.source.IsValid() {
		source := m.delay(entry(m.sources, c.source), b.Source)
		if source > b.MaxWait {
			return 0, "auth-backoff-source"
		}
		key := fmt.Sprint(user, " ", c.source)
		pair := entry(m.claims, key)
		failed := m.delay(pair, b.Pair)
		switch most := m.rules.User.Unauthenticated; {
		case most > 0 && pair.unauth >= most:
			return 0, "unauthenticated-user"
		case failed > b.MaxWait,
			b.Pair.First > 0 && m.failing(pair) && pair.unauth > 0 && pair.failures+pair.unauth > b.Pair.Free:
			return 0, "auth-backoff"
		}
		wait = max(wait, source, failed)
		pair.unauth++
		c.pair = key
	}
	c.claimed = user
	return wait, "none"
}

func (m *model) withdraw(c *connection) {
	if c.pair != "" {
		m.claims[c.pair].unauth--
		c.pair = ""
	}
}

func (m *model) authFailed(c *connection) {
	if c.claimed == "" {
		return
	}
	m.fail(entry(m.users, c.claimed))
	if c.source.IsValid() {
		m.fail(m.sources[c.source])
		m.fail(m.claims[c.pair])
	}
	m.withdraw(c)
	c.claimed = ""
}

func (m *model) loggedIn(c *connection) string {
	if c.claimed != "" {
		of := entry(m.users, c.claimed)
		of.failures = 0
		if c.pair != "" {
			m.claims[c.pair].failures = 0
		}
		m.withdraw(c)
		if most := m.rules.User.Concurrent; most > 0 && of.live >= most {
			return "concurrent-user"
		}
		if r := m.rules.User.Rate; r.PerSecond > 0 {
			of.turns.take(m.now, r.PerSecond, float64(r.Burst), 1)
		}
		of.live++
		c.user = c.claimed
	}
	c.loggedIn = true
	for _, s := range m.scopes(c) {
		s.unauth--
	}
	return "none"
}

// scopes are where a connection counts, but the user.
func (m *model) scopes(c *connection) []*counted {
	scopes := []*counted{m.lists[c.listener], m.global}
	if c.source.IsValid() {
		scopes = append(scopes, m.sources[c.source])
	}
	return scopes
}

func (m *model) took(c *connection, dir limit.Direction, n int) (pause time.Duration) {
	charge := func(to *counted, s limit.Scope) {
		if b := [2]limit.Bandwidth{s.In, s.Out}[dir]; b.PerSecond > 0 {
			pause = max(pause, to.bytes[dir].take(m.now, float64(b.PerSecond), float64(b.Burst), float64(n)))
		}
	}
	charge(m.global, m.rules.Global)
	charge(m.lists[c.listener], m.rules.Listeners[c.listener].Scope)
	if c.source.IsValid() {
		charge(m.sources[c.source], m.rules.Source)
	}
	if c.user != "" {
		charge(m.users[c.user], m.rules.User)
	}
	return pause
}

func (m *model) done(c *connection) {
	m.withdraw(c)
	for _, s := range m.scopes(c) {
		s.live--
		if !c.loggedIn {
			s.unauth--
		}
	}
	if c.user != "" {
		m.users[c.user].live--
	}
}

// configure changes rates: tokens stay, and only buckets of sources and users that
// are full get what a larger burst has more.
func (m *model) configure(r limit.Rules) {
	old := m.rules
	m.rules = r
	entries := slices.Collect(maps.Values(m.sources))
	for _, c := range entries {
		m.reconfigure(c, old.Source, r.Source, true)
	}
	for _, c := range m.users {
		m.reconfigure(c, old.User, r.User, true)
	}
	for name, c := range m.lists {
		m.reconfigure(c, old.Listeners[name].Scope, r.Listeners[name].Scope, false)
	}
	m.reconfigure(m.global, old.Global, r.Global, false)
}

func (m *model) reconfigure(c *counted, old, s limit.Scope, fresh bool) {
	c.turns.convert(m.now, old.Rate.PerSecond, float64(old.Rate.Burst), s.Rate.PerSecond, float64(s.Rate.Burst), fresh)
	c.bytes[limit.In].convert(m.now, float64(old.In.PerSecond), float64(old.In.Burst), float64(s.In.PerSecond), float64(s.In.Burst), true)
	c.bytes[limit.Out].convert(m.now, float64(old.Out.PerSecond), float64(old.Out.Burst), float64(s.Out.PerSecond), float64(s.Out.Burst), true)
}

func (k *tokens) convert(now time.Time, oldRate, oldBurst, rate, burst float64, fresh bool) {
	left := k.left(now, oldRate, oldBurst)
	switch {
	case oldRate == 0 || rate == 0 || fresh && k.missing == 0:
		k.missing = 0
	default:
		k.missing = max(0, burst-left)
	}
}

// Rates and times are such that both kinds of buckets can be exact.
func genScope() *rapid.Generator[limit.Scope] {
	power := func(most int) *rapid.Generator[int] {
		return rapid.Map(rapid.IntRange(0, most), func(n int) int { return 1 << n })
	}
	return rapid.Custom(func(t *rapid.T) limit.Scope {
		var s limit.Scope
		if rapid.Bool().Draw(t, "rate") {
			s.Rate = limit.Rate{
				PerSecond: float64(power(3).Draw(t, "per second")), Burst: rapid.IntRange(1, 4).Draw(t, "burst"),
				MaxWait: time.Duration(rapid.IntRange(0, 4).Draw(t, "max wait")) * time.Second / 2,
			}
		}
		s.Concurrent = rapid.IntRange(0, 6).Draw(t, "concurrent")
		s.Unauthenticated = rapid.IntRange(0, 4).Draw(t, "unauthenticated")
		if rapid.Bool().Draw(t, "bandwidth") {
			s.In = limit.Bandwidth{PerSecond: int64(1024 * power(3).Draw(t, "in")), Burst: 64 * int64(power(6).Draw(t, "burst in"))}
			s.Out = limit.Bandwidth{PerSecond: int64(1024 * power(3).Draw(t, "out")), Burst: 64 * int64(power(6).Draw(t, "burst out"))}
		}
		return s
	})
}

func genSteps(most time.Duration) *rapid.Generator[limit.Steps] {
	return rapid.Custom(func(t *rapid.T) limit.Steps {
		return limit.Steps{
			Free: rapid.IntRange(0, 3).Draw(t, "free"), First: time.Duration(rapid.IntRange(0, 2).Draw(t, "first")) * time.Second,
			Max: most,
		}
	})
}

func genRules() *rapid.Generator[limit.Rules] {
	access := func() *rapid.Generator[limit.Access] {
		return rapid.SampledFrom([]limit.Access{
			{}, {}, {Deny: prefixes("192.0.2.0/31")}, {Allow: prefixes("192.0.2.0/24", "2001:db8::/48")},
			{Allow: prefixes("::/0", "192.0.2.1/32"), Deny: prefixes("2001:db8:0:1::/64")},
		})
	}
	return rapid.Custom(func(t *rapid.T) limit.Rules {
		return limit.Rules{
			Source: genScope().Draw(t, "source"), User: genScope().Draw(t, "user"), Global: genScope().Draw(t, "global"),
			Listeners: map[string]limit.Listener{
				"one": {Scope: genScope().Draw(t, "one"), Access: access().Draw(t, "access of one")},
				"two": {Scope: genScope().Draw(t, "two"), Access: access().Draw(t, "access of two")},
			},
			Access: access().Draw(t, "access"),
			Exempt: rapid.SampledFrom([][]netip.Prefix{nil, nil, prefixes("192.0.2.2/32")}).Draw(t, "exempt"),
			Backoff: limit.Backoff{
				Pair: genSteps(16*time.Second).Draw(t, "pair"), Source: genSteps(8*time.Second).Draw(t, "source"),
				User: genSteps(2*time.Second).Draw(t, "user"), MaxWait: 3 * time.Second, Window: 20 * time.Second,
			},
			MaxEntries: 400, // in a single part, where what carries nothing is used again
		}
	})
}

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// The guard decides as the model does, whatever comes, and counts nothing when all
// is over.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		start := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		rules := genRules().Draw(t, "rules")
		m := newModel(rules, start)
		g, err := limit.New(start, rules)
		if err != nil {
			t.Fatal(err)
		}
		var open []*connection
		same := func(wait time.Duration, reason limit.Reason, wantWait time.Duration, want string) {
			t.Helper()
			if wait != wantWait || reason.String() != want {
				t.Fatalf("got %v, %v; want %v, %v", wait, reason, wantWait, want)
			}
		}
		pick := func(t *rapid.T) *connection {
			if len(open) == 0 {
				t.Skip("none open")
			}
			return open[rapid.IntRange(0, len(open)-1).Draw(t, "connection")]
		}
		t.Repeat(map[string]func(*rapid.T){
			"accept": func(t *rapid.T) {
				c := &connection{listener: rapid.SampledFrom([]string{"one", "two"}).Draw(t, "listener")}
				addr := netip.MustParseAddr(rapid.SampledFrom([]string{
					"192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fe80::1%eth0",
				}).Draw(t, "address"))
				ticket, wait, reason := g.Accept(m.now, c.listener, addr)
				wantWait, want := m.accept(c.listener, addr)
				same(wait, reason, wantWait, want)
				if want == "none" {
					c.ticket, c.source = ticket, m.source(addr)
					open = append(open, c)
				}
			},
			"identified": func(t *rapid.T) {
				c := pick(t)
				if c.loggedIn || c.abandoned {
					t.Skip("over")
				}
				user := rapid.SampledFrom([]string{"alice", "bob"}).Draw(t, "user")
				wait, reason := c.ticket.Identified(m.now, user)
				wantWait, want := m.identified(c, user)
				same(wait, reason, wantWait, want)
			},
			"auth failed": func(t *rapid.T) {
				if c := pick(t); !c.loggedIn && !c.abandoned {
					c.ticket.AuthFailed(m.now)
					m.authFailed(c)
				}
			},
			"logged in": func(t *rapid.T) {
				if c := pick(t); !c.loggedIn && !c.abandoned {
					reason, want := c.ticket.LoggedIn(m.now), m.loggedIn(c)
					same(0, reason, 0, want)
					c.abandoned = want != "none"
				}
			},
			"took": func(t *rapid.T) {
				c, dir := pick(t), rapid.SampledFrom([]limit.Direction{limit.In, limit.Out}).Draw(t, "direction")
				n := 64 * rapid.IntRange(1, 100).Draw(t, "times 64 bytes")
				same(c.ticket.Took(m.now, dir, n), 0, m.took(c, dir, n), "none")
			},
			"done": func(t *rapid.T) {
				c := pick(t)
				c.ticket.Done()
				m.done(c)
				open = slices.DeleteFunc(open, func(o *connection) bool { return o == c })
			},
			"time": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 256).Draw(t, "64ths")) * time.Second / 64)
			},
			"configure": func(t *rapid.T) {
				r := genRules().Draw(t, "rules")
				if err := g.Configure(m.now, r); err != nil {
					t.Fatal(err)
				}
				m.configure(r)
			},
			"": func(t *rapid.T) { compare(t, g, m) },
		})
		for _, c := range open {
			c.ticket.Done()
			m.done(c)
		}
		compare(t, g, m)
		if s := g.Snapshot(m.now, 10); s.Global.Connections != 0 || s.Global.Unauthenticated != 0 ||
			s.Sources.Connected+s.Users.Connected+s.Claims.Connected != 0 || len(s.Top) != 0 {
			t.Fatalf("after the end of all: %+v", s)
		}
	})
}

// compare compares what is counted.
func compare(t *rapid.T, g *limit.Guard, m *model) {
	s := g.Snapshot(m.now, 100)
	gate := func(name string, got limit.GateStatus, c *counted) {
		if got.Connections != c.live || got.Unauthenticated != c.unauth {
			t.Fatalf("%s counts %+v, want %d, %d", name, got, c.live, c.unauth)
		}
	}
	gate("global", s.Global, m.global)
	for name := range m.rules.Listeners {
		gate(name, s.Listeners[name], entry(m.lists, name))
	}
	got := map[netip.Prefix]counted{}
	for _, source := range s.Top {
		got[source.Source] = counted{live: source.Connections, unauth: source.Unauthenticated}
	}
	want := map[netip.Prefix]counted{}
	for source, c := range m.sources {
		if c.live > 0 {
			want[source] = counted{live: c.live, unauth: c.unauth}
		}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("sources count %v, want %v", got, want)
	}
	if n := connected(m.users); s.Users.Connected != n {
		t.Fatalf("%d users are connected, want %d", s.Users.Connected, n)
	}
	if n := connected(m.claims); s.Claims.Connected != n {
		t.Fatalf("%d claims stand, want %d", s.Claims.Connected, n)
	}
}

func connected[K comparable](m map[K]*counted) (n int) {
	for _, c := range m {
		if c.live+c.unauth > 0 {
			n++
		}
	}
	return n
}

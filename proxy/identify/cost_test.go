package identify_test

import (
	"net/netip"
	"strings"
	"testing"

	"imlb/proxy/identify"
)

// costs are what is asked most, with the allocations that a decision may take.
func costs(t testing.TB) []cost {
	t.Helper()
	hybrid := capture(t, config("chat.example.com", "xmpp-client"))
	split := inRecords(hybrid[5:], 500)
	return []cost{
		{"mqtt", identify.MQTT{}, identify.Input{Sent: []byte(example5[:strings.Index(example5, "alice")+5])}, 1},
		{"sni", identify.SNI{}, identify.Input{Sent: hybrid}, 1},
		{"sni over records", identify.SNI{}, identify.Input{Sent: split}, 2},
		{"hello", clientHelloOnly{}, identify.Input{Sent: hybrid}, 3},
		{"pattern", pattern(t, identify.PatternConfig{Expr: `^LOGIN (\S+)\r?\n`}), identify.Input{Sent: []byte("LOGIN alice\r\n")}, 2},
		{"source", identify.Source{}, identify.Input{Facts: identify.Facts{Source: netip.MustParseAddr("2001:db8::1")}}, 1},
		{"tlv", identify.ByTLV{Type: 5}, identify.Input{Facts: identify.Facts{TLVs: []identify.TLV{{Type: 5, Value: []byte("alice")}}}}, 1},
		{"proxy header", proxyHeaderOnly{}, identify.Input{Sent: []byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")}, 0},
	}
}

type cost struct {
	name   string
	id     identify.Identifier
	in     identify.Input
	allocs float64
}

type clientHelloOnly struct{}

func (clientHelloOnly) Identify(in identify.Input) identify.Result {
	_, need, v := identify.ParseClientHello(in.Sent, 0)
	return identify.Result{Verdict: v, Need: need}
}

type proxyHeaderOnly struct{}

func (proxyHeaderOnly) Identify(in identify.Input) identify.Result {
	n, v := identify.ProxyHeader(in.Sent, 0)
	return identify.Result{Verdict: v, Need: n}
}

func TestAllocations(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts everybody's.
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, c := range costs(t) {
		decided := testing.AllocsPerRun(100, func() {
			if r := c.id.Identify(c.in); r.Verdict != identify.Found {
				t.Fatalf("%s: %+v", c.name, r)
			}
		})
		if decided > c.allocs {
			t.Errorf("%s: %v allocations to decide, want %v", c.name, decided, c.allocs)
		}
		if len(c.in.Sent) == 0 {
			continue
		}
		undecided := testing.AllocsPerRun(1, func() { trickle(t, c) })
		if undecided > 0 {
			t.Errorf("%s: %v allocations before it decides", c.name, undecided)
		}
	}
}

// trickle asks after every byte, up to the decision.
func trickle(t testing.TB, c cost) {
	t.Helper()
	in := c.in
	for n := range len(c.in.Sent) {
		in.Sent = c.in.Sent[:n]
		if r := c.id.Identify(in); r.Verdict != identify.More {
			return
		}
		in.Tried = n
	}
}

func TestAllocationsOfRoute(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts everybody's.
	routes := []identify.Match{{ServerNames: []string{"*.example.com"}, ALPN: []string{"mqtt"}}, {ServerNames: []string{"chat.example.com"}}}
	h := identify.Hello{ServerName: "chat.example.com", ALPN: []string{"xmpp-client"}}
	if n := testing.AllocsPerRun(100, func() { identify.Route(routes, h) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkIdentify(b *testing.B) {
	for _, c := range costs(b) {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.id.Identify(c.in)
			}
		})
	}
}

// BenchmarkTrickle is a client that sends one byte at a time, and names nobody for as long
// as it is allowed to.
func BenchmarkTrickle(b *testing.B) {
	name := make([]byte, identify.DefaultMax)
	for i := range name {
		name[i] = 'x'
	}
	long := append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0x3F, 0xFC}, name...)
	spread := inRecords(append([]byte{1, 0, 0x3F, 0xFC}, name...), 260)
	will := connect{level: 4, will: true, willTopic: string(name[:6000]), willPayload: string(name[:6000]), hasUser: true, user: string(name[:4000])}.bytes()
	lines := make([]byte, 1024)
	for i := range lines {
		lines[i] = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"[i%64]
	}
	irc := pattern(b, identify.PatternConfig{Expr: `(?im)^NICK :?(?P<user>[^\s:]+)`})
	for _, c := range []cost{
		{"mqtt 16 KiB", identify.MQTT{}, identify.Input{Sent: will}, 0},
		{"sni 16 KiB", identify.SNI{}, identify.Input{Sent: long[:16<<10]}, 0},
		{"sni 16 KiB in 63 records", identify.SNI{}, identify.Input{Sent: spread[:16<<10]}, 0},
		{"pattern 1 KiB in 16 lines", irc, identify.Input{Sent: lines}, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				trickle(b, c)
			}
		})
	}
}

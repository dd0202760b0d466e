package configs_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"imlb/configs"
)

// more is a document that has a bit of everything.
const more = `domains: [example.com]
listeners:
  - {protocol: xmpp, address: ":5222", pool: chat}
  - {protocol: xmpps, address: ":5223", pool: chat}
pools:
  chat:
    nodes:
      - {name: node-1, address: "10.0.0.1:5280"}
      - {name: node-2, address: "10.0.0.2:5280"}
  found: {consul: {}}
consul: {}
tls:
  certificates: [{cert_file: a.crt, key_file: a.key}]
`

var diffs = []struct {
	name     string
	from, to string // what is replaced in more
	want     []string
}{
	{"nothing", "", "cluster: imlb\nlimits: {login_attempts: 5}\n", nil},
	{"a default", "", "limits: {login_attempts: 6}\n", []string{"limits.login_attempts: 5 → 6"}},
	{
		"within a pool", "  found: {consul: {}}", "    check: {interval: 2s}\n  found: {consul: {tag: v2}}",
		[]string{"pools.chat.check.interval: 1s → 2s", "pools.found.consul.tag: (none) → v2"},
	},
	{
		"a node less", "\n      - {name: node-1, address: \"10.0.0.1:5280\"}", "",
		[]string{`pools.chat.nodes.node-1: removed {name: node-1, address: "10.0.0.1:5280", weight: 1.0, max_sessions: 0}`},
	},
	{"a listener by its name", `":5223"`, `":5224"`, []string{`listeners.xmpps.address: ":5223" → ":5224"`}},
	{
		"how users are known", `":5223", pool: chat}`, `":5223", pool: chat}
  - {protocol: ws, address: ":80", pool: chat, websocket: {subprotocols: [mqtt]}, identify: {by: [{type: websocket, from: query, name: a}, {type: random}]}}`,
		[]string{`listeners.ws: added {name: ws, protocol: ws, address: ":80", pool: chat, websocket: {path: /xmpp-websocket, subprotocols: [mqtt], compression: false}, identify: {by: [{type: websocket, from: query, name: a}, {type: random}], max_bytes: 16KiB, timeout: 0s}, rate: {per_second: 500.0, burst: 1000, max_wait: 2s}, limits: {connections: 0, unauthenticated: 0, bytes_in: {per_second: "0", burst: "0"}, bytes_out: {per_second: "0", burst: "0"}}}`},
	},
	{"a list of words", "domains: [example.com]", "domains: [example.com, example.org]", []string{"domains: [example.com] → [example.com, example.org]"}},
	{"few of a long list", "", "limits: {deny: [" + networks(0, 24) + "]}\n", []string{"limits.deny: added [" + networks(0, 20) + "] and 4 more"}},
	{"a block that is there", "tls:", "    \ntls:", nil},
	{"a block that comes", "\nconsul: {}", "\nconsul: {tls: {}}", []string{"consul.tls: added {}"}},
	{
		"the order of nodes", `      - {name: node-1, address: "10.0.0.1:5280"}
      - {name: node-2, address: "10.0.0.2:5280"}`, `      - {name: node-2, address: "10.0.0.2:5280"}
      - {name: node-1, address: "10.0.0.1:5280"}`,
		[]string{`pools.chat.nodes: [{name: node-1, address: "10.0.0.1:5280", weight: 1.0, max_sessions: 0}, {name: node-2, address: "10.0.0.2:5280", weight: 1.0, max_sessions: 0}] → [{name: node-2, address: "10.0.0.2:5280", weight: 1.0, max_sessions: 0}, {name: node-1, address: "10.0.0.1:5280", weight: 1.0, max_sessions: 0}]`},
	},
}

// networks lists some.
func networks(from, to int) string {
	list := make([]string, 0, to-from)
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255))
	}
	return strings.Join(list, ", ")
}

// Of long lists only what differs is told.
func TestDiffOfLongLists(t *testing.T) {
	const deny = "limits: {deny: ["
	from := parse(t, more+deny+networks(0, 10000)+"]}\n")
	to := parse(t, more+deny+networks(2, 10001)+"]}\n")
	checkDiff(t, configs.Diff(from, to), []string{"limits.deny: removed [10.0.0.0/24, 10.0.1.0/24]", "limits.deny: added [10.39.16.0/24]"})
	back := parse(t, more+deny+networks(5000, 10000)+", "+networks(0, 5000)+"]}\n")
	checkDiff(t, configs.Diff(from, back), []string{"limits.deny: 10000 in one order → 10000 in another"})
}

func TestDiff(t *testing.T) {
	from := parse(t, more)
	for _, tt := range diffs {
		t.Run(tt.name, func(t *testing.T) {
			to := parse(t, edit(t, more, tt.from, tt.to))
			checkDiff(t, configs.Diff(from, to), tt.want)
			if back := configs.Diff(to, from); len(back) != len(tt.want) {
				t.Errorf("the way back has %d changes: %v", len(back), back)
			}
		})
	}
}

func checkDiff(t *testing.T, changes configs.Changes, want []string) {
	t.Helper()
	var got []string
	for _, c := range changes {
		got = append(got, c.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestChangesUnder(t *testing.T) {
	text := edit(t, more, "  found: {consul: {}}", "    check: {interval: 2s, fall: 3}\n  found.too: {consul: {}}")
	changes := configs.Diff(parse(t, more), parse(t, text))
	if got, want := changes.Names("pools"), []string{"chat", "found", "found.too"}; !slices.Equal(got, want) {
		t.Errorf("the pools %q have changed, want %q", got, want)
	}
	for _, tt := range []struct {
		block []string
		want  int
	}{{nil, 4}, {[]string{"pools"}, 4}, {[]string{"pools", "chat"}, 2}, {[]string{"pools", "found", "consul"}, 1}, {[]string{"listeners"}, 0}} {
		if got := changes.Under(tt.block...); len(got) != tt.want {
			t.Errorf("%d changes under %q, want %d: %v", len(got), tt.block, tt.want, got)
		}
	}
}

func parse(t *testing.T, text string) configs.Proxy {
	t.Helper()
	p, err := configs.ParseProxy("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Identifiers have no names, although one of their keys is called so: their order counts.
func TestDiffOfIdentifiers(t *testing.T) {
	listener := func(by string) configs.Proxy {
		return parse(t, listening(t, "protocol: ws, websocket: {subprotocols: [mqtt]}, identify: {by: ["+by+"]}"))
	}
	from := listener("{type: websocket, from: query, name: a}, {type: source}")
	checkDiff(t, configs.Diff(from, listener("{type: websocket, from: query, name: a}, {type: random}")), []string{
		"listeners.ws.identify.by: [{type: websocket, from: query, name: a}, {type: source, ipv4_prefix: 32, ipv6_prefix: 64}] → [{type: websocket, from: query, name: a}, {type: random}]",
	})
	from = listener("{type: websocket, from: query, name: a}, {type: websocket, from: bearer}")
	checkDiff(t, configs.Diff(from, listener("{type: websocket, from: bearer}, {type: websocket, from: query, name: a}")), []string{
		"listeners.ws.identify.by: [{type: websocket, from: query, name: a}, {type: websocket, from: bearer}] → [{type: websocket, from: bearer}, {type: websocket, from: query, name: a}]",
	})
}

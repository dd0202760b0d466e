package configs_test

import (
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
	{"a list of words", "domains: [example.com]", "domains: [example.com, example.org]", []string{"domains: [example.com] → [example.com, example.org]"}},
	{"a block that is there", "tls:", "    \ntls:", nil},
	{"a block that comes", "\nconsul: {}", "\nconsul: {tls: {}}", []string{"consul.tls: added {}"}},
	{
		"the order of nodes", `      - {name: node-1, address: "10.0.0.1:5280"}
      - {name: node-2, address: "10.0.0.2:5280"}`, `      - {name: node-2, address: "10.0.0.2:5280"}
      - {name: node-1, address: "10.0.0.1:5280"}`,
		[]string{`pools.chat.nodes: [{name: node-1, address: "10.0.0.1:5280", weight: 1.0, max_sessions: 0}, {name: node-2, address: "10.0.0.2:5280", weight: 1.0, max_sessions: 0}] → [{name: node-2, address: "10.0.0.2:5280", weight: 1.0, max_sessions: 0}, {name: node-1, address: "10.0.0.1:5280", weight: 1.0, max_sessions: 0}]`},
	},
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

package configs_test

import (
	"testing"

	"imlb/configs"
)

// What a front knows of itself goes before what its shared document says.
func TestSharedDocument(t *testing.T) {
	agent := configs.Consul{Address: "10.0.0.9:8500", TokenFile: "token"}
	local := configs.Local{Cluster: "c", Agent: &agent, Host: "front-1", Name: "front-1", Zone: "west", CacheDir: "/cache"}
	text := edit(t, front, "    nodes:\n      - {name: node-1, address: \"10.0.0.1:5280\"}", "    consul: {}") +
		"consul: {register: {tags: [x]}}\nplacement: {zone: east}\n"
	p, err := configs.ParseProxyFor("f", []byte(text), local)
	if err != nil {
		t.Fatal(err)
	}
	if p.Cluster != "c" || p.Name != "front-1" || p.Placement.Zone != "west" || p.CacheDir != "/cache" || p.Pools["chat"].Consul.Service != "c-node" {
		t.Errorf("got %+v", p)
	}
	if c := p.Consul; c.Address != agent.Address || c.TokenFile != "token" {
		t.Errorf("got the agent %+v, want %+v", c, agent)
	}
	if r := p.Consul.Register; r.Address != "front-1:5222" || r.Admin != "127.0.0.1:5225" || r.Service != "c-front" {
		t.Errorf("it would register %+v", r)
	}
	if agent.Register != nil {
		t.Error("the caller's agent was changed")
	}
	_, err = configs.ParseProxyFor("f", []byte("cluster: d\n"+front), local)
	compareErrors(t, err, []string{`f:1:1: cluster: is "d", but the document lies among the keys of "c"`})
	_, err = configs.ParseProxyFor("f", []byte("name: all\n"+front), local)
	compareErrors(t, err, []string{"f:1:1: name: would be that of all fronts, because they share this document; leave it out, and start each with its own: imlb proxy --name"})
	local.Host = ""
	_, err = configs.ParseProxyFor("f", []byte(text), local)
	compareErrors(t, err, []string{
		"f:9:10: consul.register.address: is missing; what this process listens on does not name one host and port, so say where others reach it",
	})
}

func TestOverrides(t *testing.T) {
	for text, want := range map[string]string{
		"drain: true":                          "drain",
		`{"weight": 2, "disabled": true}`:      "disabled, weight 2",
		"{}":                                   "none",
		"drain: false\nby: me\ncomment: 'why'": "none",
	} {
		o, err := configs.ParseOverride("k", []byte(text))
		if err != nil || o.String() != want || o.Empty() != (want == "none") {
			t.Errorf("%q: got %v, %v; want %s", text, o, err, want)
		}
	}
	for text, want := range map[string]string{
		"":               "k: the document is empty",
		"drain: yes":     `k:1:8: drain: "yes" is neither true nor false`,
		"wieght: 1":      `k:1:1: wieght: unknown key; did you mean "weight"?`,
		"weight: 0.0001": "k:1:1: weight: 0.0001 is too small; the least is 0.001",
		"weight: 1001":   "k:1:9: weight: 1001 is too large; the most is 1000",
	} {
		_, err := configs.ParseOverride("k", []byte(text))
		compareErrors(t, err, []string{want})
	}
}

func FuzzParseOverride(f *testing.F) {
	f.Add([]byte(`{drain: true, weight: 2, by: me, at: "2026-01-02T03:04:05Z", comment: "a: b"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		checkRoundTrip(t, data, configs.ParseOverride)
	})
}

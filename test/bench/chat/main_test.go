//go:build linux

package main

import (
	"errors"
	"flag"
	"maps"
	"slices"
	"testing"

	"imlb/backend/chatload"
	"imlb/test/bench/chat/servers"
)

func TestParse(t *testing.T) {
	t.Parallel()
	o, format, err := parse([]string{"--servers", "imlb*", "--rounds", "5", "--format", "json", "--preload", "1000000", "--idle", "7"})
	if err != nil || format != "json" || o.Servers != "imlb*" || o.Rounds != 5 || o.Preload != 1_000_000 || o.accounts() != 100 {
		t.Errorf("%+v, %q, %v", o, format, err)
	}
	if o, _, err := parse([]string{"--fill", "1000"}); err != nil || o.FillTotal != 2000 {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range [][]string{{"paced"}, {"--fill", "1000", "--fill-total", "1999"}, {"--fill-total", "10"}, {"--fill", "-1"}, {"--rounds", "0"}, {"--sessions", "3"}, {"--users", "0"}, {"--duration", "0s"}} {
		if _, _, err := parse(args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
	if _, _, err := parse([]string{"--help"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("help: %v", err)
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		patterns, name string
		want           bool
	}{{"", "imlb", true}, {"imlb", "imlb", true}, {"imlb", "imlb-3-postgres", false}, {"prosody,imlb*", "imlb-3-postgres", true}, {"x*", "imlb", false}} {
		if got, err := matches(tt.patterns, tt.name); got != tt.want || err != nil {
			t.Errorf("%q, %q: %t, %v", tt.patterns, tt.name, got, err)
		}
	}
	if _, err := matches("[", "imlb"); err == nil {
		t.Error("a pattern that is none is no error")
	}
}

// TestPlans: each workload has the figures that its table asks for.
func TestPlans(t *testing.T) {
	t.Parallel()
	o, _, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	filled := o
	filled.Fill, filled.FillTotal = 10, 20
	for o, want := range map[options]bool{o: false, filled: true} {
		all := plans(o)
		if got := all[len(all)-1]; got.filled != want || slices.Contains(got.args(rates{}), "3000") == want {
			t.Errorf("with --fill %d: %+v, %q", o.Fill, got.Workload, got.args(rates{}))
		}
	}
	result := &chatload.Result{
		Latency: &chatload.Latency{P50: 1000, P99: 2000, P999: 3000}, Messages: &chatload.MessageCounts{PerSecond: 5},
		Logins: &chatload.LoginCounts{PerSecond: 5, Done: 10, Resumed: 5}, Memory: &chatload.MemoryCounts{Anonymous: 2048},
		CPU: &chatload.CPUCounts{Server: 1, PerSecond: 500},
	}
	seen := make(map[string]bool)
	for _, p := range plans(o) {
		if seen[p.Name] || p.What == "" || len(p.args(rates{half: 10, same: 5})) == 0 {
			t.Errorf("%+v", p.Workload)
		}
		seen[p.Name] = true
		var asked []string
		for _, m := range p.Metrics {
			asked = append(asked, m.Key)
		}
		slices.Sort(asked)
		if got := slices.Sorted(maps.Keys(p.metrics(result))); !slices.Equal(got, asked) {
			t.Errorf("%s: the figures are %v, the table asks for %v", p.Name, got, asked)
		}
	}
	if got := loginPlan(o, "", "PLAIN", true).metrics(result); got["cpu"] != 2 || got["resumed"] != 50 || got["p99"] != 2 {
		t.Errorf("%v", got)
	}
	if got := idlePlan(o).metrics(result); got["anonymous"] != 2 {
		t.Errorf("%v", got)
	}
}

// TestRates: all servers get half of what the slowest can, each half of what it can
// itself, and ours half of what the fastest of the others can.
func TestRates(t *testing.T) {
	t.Parallel()
	ours := servers.Server{Name: "a", Family: servers.Ours}
	b, c := servers.Server{Name: "b", Family: "b"}, servers.Server{Name: "c", Family: "c"}
	cmp := &comparison{servers: []servers.Server{ours, b, c}, most: map[string]float64{"a": 1000, "b": 300, "c": 400}}
	for _, tt := range []struct {
		server servers.Server
		rate   int
		want   rates
	}{
		{ours, 0, rates{half: 500, theirs: 200, same: 150}},
		{b, 0, rates{half: 150, theirs: 150, same: 150}},
		{c, 70, rates{half: 200, theirs: 200, same: 70}},
	} {
		cmp.Rate = tt.rate
		if got := cmp.rates(tt.server); got != tt.want {
			t.Errorf("%s: %+v", tt.server.Name, got)
		}
	}
	cmp.Rate, cmp.more = 0, map[string]float64{"a": 900, "c": 600}
	if got := cmp.rates(ours); got != (rates{half: 500, theirs: 300, same: 150}) {
		t.Errorf("after a round: %+v", got)
	}
	alone := &comparison{servers: []servers.Server{ours}, most: map[string]float64{"a": 1000}}
	if got := alone.rates(ours); got != (rates{half: 500, theirs: 500, same: 500}) {
		t.Errorf("alone: %+v", got)
	}
}

// TestUseful: what has no figures is a failure and no zero.
func TestUseful(t *testing.T) {
	t.Parallel()
	cpu := &chatload.CPUCounts{Server: 1, PerSecond: 3}
	for _, tt := range []struct {
		name string
		r    chatload.Result
		good bool
	}{
		{"nothing", chatload.Result{Workload: chatload.Messages}, false},
		{"no message", chatload.Result{Workload: chatload.Messages, Messages: &chatload.MessageCounts{}, CPU: &chatload.CPUCounts{Server: 1}}, false},
		{"no latency at a rate", chatload.Result{Workload: chatload.Messages, Messages: &chatload.MessageCounts{Offered: 5}, CPU: cpu}, false},
		{"as fast as it goes", chatload.Result{Workload: chatload.Messages, Messages: &chatload.MessageCounts{}, CPU: cpu}, true},
		{"no login", chatload.Result{Workload: chatload.Logins, CPU: cpu}, false},
		{"logins", chatload.Result{Workload: chatload.Logins, CPU: cpu, Latency: new(chatload.Latency)}, true},
		{"no memory", chatload.Result{Workload: chatload.Idle, CPU: cpu}, false},
		{"memory", chatload.Result{Workload: chatload.Idle, CPU: cpu, Memory: new(chatload.MemoryCounts)}, true},
	} {
		if err := useful(&tt.r); (err == nil) != tt.good {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestCompare measures one of our own servers, shortly, as the command does.
func TestCompare(t *testing.T) {
	t.Parallel()
	o, _, err := parse([]string{"--servers", "imlb", "--workloads", "idle,messages,messages-same,archive", "--rounds", "1", "--warmup", "50ms", "--duration", "300ms",
		"--settle", "50ms", "--sessions", "4", "--idle", "10", "--users", "4", "--preload", "60", "--queries", "5", "--rate", "50"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := compare(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Failures()) > 0 || len(r.Samples) != 4 || len(r.Peers) != 1 {
		t.Errorf("%+v", r)
	}
}

// TestCompareFilled measures a server whose archives are filled in its database.
func TestCompareFilled(t *testing.T) {
	t.Parallel()
	o, _, err := parse([]string{"--servers", "imlb", "--workloads", "archive", "--rounds", "1", "--sessions", "4", "--idle", "10", "--users", "4",
		"--fill", "500", "--fill-total", "3000", "--queries", "5"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := compare(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Failures()) > 0 || len(r.Samples) != 1 {
		t.Errorf("%+v", r)
	}
}

// TestNotNewest: a page that has not the newest messages in order fails the measurement.
func TestNotNewest(t *testing.T) {
	t.Parallel()
	newest := []string{"1", "2", "3"}
	if err := isNewest(&chatload.ArchiveCounts{Newest: newest}, newest); err != nil {
		t.Error(err)
	}
	for _, a := range []chatload.ArchiveCounts{{Newest: []string{"1", "3", "2"}}, {Newest: newest[:2]}, {Newest: newest, Changed: 1}} {
		if isNewest(&a, newest) == nil {
			t.Errorf("%+v: no error", a)
		}
	}
}

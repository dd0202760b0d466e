//go:build linux

package rounds_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"imlb/test/bench/report"
	"imlb/test/bench/rounds"
	"imlb/test/need"
)

// The other roles are played by this very program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		os.Exit(play())
	}
	// Under the race detector a process otherwise waits for a second at its end.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

func play() (status int) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ok, err := rounds.Play(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if !ok || err != nil {
		return 1
	}
	return 0
}

func options(t *testing.T) rounds.Options {
	t.Helper()
	o := rounds.DefaultOptions()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Self, o.Progress = self, io.Discard
	o.Rounds, o.Warmup, o.Window, o.Settle = 2, 20*time.Millisecond, 50*time.Millisecond, 10*time.Millisecond
	o.Conns, o.PacedConns, o.Sessions = 4, 4, 50
	o.Peers = "go-copy,direct"
	return o
}

// run measures, in longer windows each time until the machine was quick enough to get
// something done in every one.
func run(t *testing.T, o rounds.Options) *report.Report {
	t.Helper()
	for {
		r, err := rounds.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		slow := func(s report.Sample) bool { return strings.Contains(s.Error, "nothing was done within the window") }
		if !slices.ContainsFunc(r.Failures(), slow) || o.Window > 10*time.Second {
			return r
		}
		o.Window *= 2
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Workloads = "round-trips, bulk-*,idle, tls-round-trips, ws-*"
	r := run(t, o)
	if failed := r.Failures(); len(failed) > 0 {
		t.Errorf("%+v", failed)
	}
	if want := 2 * (4*2 + 2); len(r.Samples) != want {
		t.Errorf("%d samples; want %d", len(r.Samples), want)
	}
	first := map[string]string{}
	for _, s := range r.Samples {
		key := s.Workload + string(rune('0'+s.Round))
		if first[key] == "" {
			first[key] = s.Peer
		}
	}
	if first["round-trips0"] == first["round-trips1"] {
		t.Errorf("%s is first in both rounds", first["round-trips0"])
	}
	for _, p := range r.Peers {
		if p.Name != "go-copy" && p.Name != "direct" {
			t.Errorf("peer %+v", p)
		}
	}
}

// WebSockets come to a backend that speaks it through those who do not end them.
func TestRunTunnels(t *testing.T) {
	t.Parallel()
	for _, peer := range []string{"haproxy", "nginx"} {
		t.Run(peer, func(t *testing.T) {
			t.Parallel()
			need.Command(t, peer)
			o := options(t)
			o.Workloads, o.Peers, o.Rounds = "ws-*", peer, 1
			r := run(t, o)
			if failed := r.Failures(); len(failed) > 0 || len(r.Samples) != 2 {
				t.Errorf("%+v of %d samples", failed, len(r.Samples))
			}
		})
	}
}

// A peer that does not start is a failure of that peer alone.
func TestRunGoesOn(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Workloads, o.Peers, o.Rounds = "round-trips", "imlb,go-copy", 1
	o.IMLB = script(t)
	r := run(t, o)
	failed := r.Failures()
	if len(failed) != 1 || failed[0].Peer != "imlb" || !strings.Contains(failed[0].Error, "no proxy today") || len(r.Samples) != 2 {
		t.Errorf("%+v of %d samples", failed, len(r.Samples))
	}
}

func script(t *testing.T) string {
	t.Helper()
	path := t.TempDir() + "/imlb"
	text := "#!/bin/sh\nif [ \"$1\" = version ]; then echo imlb 0, go; else echo no proxy today >&2; exit 1; fi\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRunIsBrokenOff(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Workloads, o.Window = "round-trips", time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	r, err := rounds.Run(ctx, o)
	if err == nil || r == nil || len(r.Samples) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*rounds.Options){
		"no rounds":      func(o *rounds.Options) { o.Rounds = 0 },
		"no window":      func(o *rounds.Options) { o.Window = 0 },
		"no connections": func(o *rounds.Options) { o.Conns = 0 },
		"too many":       func(o *rounds.Options) { o.Sessions = 20000 },
		"short message":  func(o *rounds.Options) { o.Size = 8 },
		"short stanza":   func(o *rounds.Options) { o.StanzaSize = 64 },
		"too fast":       func(o *rounds.Options) { o.Rate = 2e6 },
		"no such load":   func(o *rounds.Options) { o.Workloads = "round-trips,chess" },
		"no such peer":   func(o *rounds.Options) { o.Peers = "netcat" },
		"no pattern":     func(o *rounds.Options) { o.Workloads = "[" },
	} {
		o := options(t)
		change(&o)
		if _, err := rounds.Run(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

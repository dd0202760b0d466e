//go:build linux

// Package rounds runs a comparison: in each round every workload is put on every
// peer, one after the other, so that what changes on the machine meets all alike.
//
// For each measurement a backend, a proxy and a client are started as processes of
// their own and ended again. What counts as the proxy's cost is what its processes
// alone have had.
package rounds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"imlb/test/bench/load"
	"imlb/test/bench/peers"
	"imlb/test/bench/report"
)

// Options say what is compared. The zero value of a number is not a default.
type Options struct {
	Workloads string // patterns with commas between; empty: all
	Peers     string // the same
	Rounds    int
	Warmup    time.Duration
	Window    time.Duration // that is measured
	Settle    time.Duration // between the opening of idle sessions and the look at memory

	Conns       int // of round trips
	PacedConns  int
	Connecting  int // connections at a time
	Handshaking int
	BulkConns   int
	Sessions    int // that are idle
	TLSSessions int
	Size        int // bytes of a message
	StanzaSize  int
	Rate        int // messages/s

	Congestion   string    // control of TCP, in a network namespace; empty: what the machine has, in its own
	IMLB         string    // the program; empty: it is built
	NewerHAProxy string    // another haproxy program, besides the installed one
	Self         string    // this program, to be started in its other roles
	Command      string    // for the report
	Progress     io.Writer // what is being done
}

// DefaultOptions end in about a quarter of an hour on two cores.
func DefaultOptions() Options {
	return Options{
		Rounds: 3, Warmup: 300 * time.Millisecond, Window: time.Second, Settle: 5 * time.Second,
		Conns: 64, PacedConns: 512, Connecting: 32, Handshaking: 16, BulkConns: 4, Sessions: 9000, TLSSessions: 3000,
		Size: 64, StanzaSize: 256, Rate: 10000, Congestion: "cubic",
	}
}

// check tells what cannot be.
func (o Options) check() error {
	const most = 9600 // sessions for which a proxy has descriptors
	switch {
	case o.Rounds < 1 || o.Window <= 0 || o.Warmup <= 0 || o.Settle < 0:
		return errors.New("rounds, warm-up and window have to be more than nothing")
	case min(o.Conns, o.PacedConns, o.Connecting, o.Handshaking, o.BulkConns, o.Sessions, o.TLSSessions, o.Rate) < 1:
		return errors.New("every number of connections, sessions and messages has to be at least 1")
	case max(o.Conns, o.PacedConns, o.Connecting, o.Handshaking, o.BulkConns, o.Sessions, o.TLSSessions) > most:
		return fmt.Errorf("no number of connections or sessions may be above %d", most)
	case o.Size < 32 || o.Size > 64<<10:
		return errors.New("a message has 32 bytes to 64 KiB")
	case o.StanzaSize < 128 || o.StanzaSize > 64<<10:
		return errors.New("a stanza has 128 bytes to 64 KiB")
	case o.Rate > 1e6:
		return errors.New("no more than a million messages/s can be paced")
	}
	return nil
}

// Run makes the comparison. The report is good as far as it goes when there is an
// error; failed measurements are in the report and are no error.
func Run(ctx context.Context, o Options) (*report.Report, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	chosen, err := choosePlans(plans(o), o.Workloads)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "imlb-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	r := &runner{Options: o, dir: dir, plans: chosen}
	if r.certs, err = peers.MakeCerts(dir); err != nil {
		return nil, err
	}
	if err := r.gather(ctx); err != nil {
		return nil, err
	}
	r.report.Date, r.report.Machine = time.Now().Format(time.DateOnly), ThisMachine()
	watch := StartWatch()
	err = r.run(ctx)
	r.report.Machine.Others = watch.Others()
	return r.report, err
}

// runner is a comparison that runs.
type runner struct {
	Options
	dir    string
	certs  peers.Certs
	plans  []plan
	peers  []peers.Peer
	report *report.Report
	done   int // measurements
}

// run runs the rounds. Nobody is always first.
func (r *runner) run(ctx context.Context) error {
	for round := range r.Rounds {
		for i, p := range r.plans {
			order := r.takers(p)
			first := (round + i) % max(1, len(order))
			for _, peer := range slices.Concat(order[first:], order[:first]) {
				r.add(ctx, round, p, peer)
				if ctx.Err() != nil {
					return fmt.Errorf("after %d measurements: %w", r.done, context.Cause(ctx))
				}
			}
		}
	}
	return nil
}

// takers are the peers that take part in a workload.
func (r *runner) takers(p plan) (takers []peers.Peer) {
	for _, peer := range r.peers {
		if peer.Takes(p.Name, p.protocol) {
			takers = append(takers, peer)
		}
	}
	return takers
}

// add makes one measurement and adds it to the report.
func (r *runner) add(ctx context.Context, round int, p plan, peer peers.Peer) {
	s := report.Sample{Round: round, Workload: p.Name, Peer: peer.Name}
	result, err := r.measure(ctx, p, peer)
	if ctx.Err() != nil {
		return // it was broken off, and is nobody's failure
	}
	s.Metrics = result.Metrics
	if err != nil {
		s.Error = err.Error()
	}
	r.report.Samples = append(r.report.Samples, s)
	r.done++
	fmt.Fprintf(r.Progress, "round %d/%d  %-16s %-18s %s\n", round+1, r.Rounds, p.Name, peer.Name, summary(p, s))
}

func summary(p plan, s report.Sample) string {
	if s.Error != "" {
		return "FAILED: " + s.Error
	}
	text := ""
	for _, m := range p.Metrics {
		if v, ok := s.Metrics[m.Key]; ok {
			text += fmt.Sprintf("%.4g %s  ", v, m.Title)
		}
	}
	return text
}

// measure starts all that one measurement needs, makes it, and ends all again.
func (r *runner) measure(ctx context.Context, p plan, peer peers.Peer) (result load.Result, err error) {
	dir, err := os.MkdirTemp(r.dir, peer.Name+"-")
	if err != nil {
		return result, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, r.limit(p))
	defer cancel()
	b, err := startBackend(ctx, r.Self, r.certs)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	spec := r.spec(p, peer)
	if peer.Start == nil {
		spec.Addr = p.direct(b.addrs)
		return runClient(ctx, r.Self, spec)
	}
	task := peers.Task{Protocol: p.protocol, Backend: p.behind(peer)(b.addrs), Sessions: sessions(p, spec), Certs: r.certs, Dir: dir}
	proxy, err := peer.Start(ctx, task)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, proxy.Stop()) }()
	spec.Addr, spec.PIDs = proxy.Addr, proxy.PIDs
	return runClient(ctx, r.Self, spec)
}

// limit is what one measurement may take at most.
func (r *runner) limit(p plan) time.Duration {
	limit := r.Warmup + r.Window + 40*time.Second
	if p.idle {
		limit += r.Settle + 40*time.Second
	}
	return limit
}

func (r *runner) spec(p plan, peer peers.Peer) load.Spec {
	s := load.Spec{
		Workload: p.Name, Roots: r.certs.Cert, Warmup: r.Warmup, Window: r.Window,
		Conns: p.conns, Size: r.Size, Rate: r.Rate, Settle: r.Settle,
	}
	if p.size > 0 {
		s.Size = p.size
	}
	switch {
	case p.idle && p.protocol == peers.TLS:
		s.Sessions = min(r.TLSSessions, peer.MostSessions())
	case p.idle:
		s.Sessions = min(r.Sessions, peer.MostSessions())
	}
	return s
}

// sessions is how many there are at a time at most.
func sessions(p plan, s load.Spec) int { return max(p.conns, s.Sessions) }

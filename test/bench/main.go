//go:build linux

// Command bench compares imlb with other proxies: it puts the same loads on each, in
// turns, and prints medians, ranges and ratios.
//
//	go run ./test/bench --help
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"imlb/test/bench/report"
	"imlb/test/bench/rounds"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:forbidigo // the root
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	var inner *exec.ExitError
	switch {
	case errors.As(err, &inner): // who has said why
		os.Exit(inner.ExitCode()) //nolint:forbidigo // main
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:forbidigo // main
	}
}

func run(ctx context.Context, args []string) error {
	if ok, err := rounds.Play(ctx, args, os.Stdout, os.Stderr); ok {
		return err
	}
	o, format, err := parse(args)
	if err != nil {
		return err
	}
	switch {
	case o.Congestion == "":
	case !inside():
		return apart(ctx, args, o)
	default:
		o.IMLB = os.Getenv(insideVar)
		if err := settle(o.Congestion, os.Stderr); err != nil {
			return err
		}
	}
	r, err := rounds.Run(ctx, o)
	if r != nil {
		err = errors.Join(err, r.Write(os.Stdout, format), failures(r))
	}
	return err
}

// failures makes an error of measurements that failed.
func failures(r *report.Report) error {
	failed := r.Failures()
	if len(failed) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d measurements failed", len(failed), len(r.Samples))
}

const about = `Puts the same loads on imlb, HAProxy, nginx, a plain Go proxy and nobody, in turns,
and prints medians, ranges and ratios. What is not installed is left out by name;
IMLB_BENCH_HAPROXY may name another haproxy program to be measured as well. Every byte
is checked; the status is 1 when one was wrong or a proxy failed, and never because
of a figure.
`

func parse(args []string) (o rounds.Options, format string, err error) {
	o = rounds.DefaultOptions()
	o.Progress, o.NewerHAProxy = os.Stderr, os.Getenv("IMLB_BENCH_HAPROXY")
	o.Command = strings.Join(append([]string{"go run ./test/bench"}, args...), " ")
	if o.Self, err = os.Executable(); err != nil {
		return o, "", err
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), "usage: bench [flags]\n\n", about, "\n")
		f.PrintDefaults()
	}
	f.StringVar(&format, "format", "markdown", "of what is printed: markdown, text or json")
	f.StringVar(&o.Workloads, "workloads", o.Workloads, "only these, with commas between; tls-* is several (default all)")
	f.StringVar(&o.Peers, "peers", o.Peers, "only these, in the same way (default all)")
	f.StringVar(&o.IMLB, "imlb", o.IMLB, "the imlb program (default: it is built from this tree)")
	f.StringVar(&o.Congestion, "congestion", o.Congestion, "TCP congestion control, in a network namespace of its own; '' for neither")
	f.IntVar(&o.Rounds, "rounds", o.Rounds, "how often all is measured")
	f.DurationVar(&o.Window, "window", o.Window, "how long each measurement counts")
	f.DurationVar(&o.Warmup, "warmup", o.Warmup, "how long each runs before it counts")
	f.DurationVar(&o.Settle, "settle", o.Settle, "how long idle connections are let alone before memory is read")
	numbers(f, &o)
	if err := f.Parse(args); err != nil {
		return o, "", err
	}
	if f.NArg() > 0 {
		return o, "", fmt.Errorf("what is %q? see --help", f.Arg(0))
	}
	return o, format, nil
}

func numbers(f *flag.FlagSet, o *rounds.Options) {
	f.IntVar(&o.Conns, "conns", o.Conns, "connections of round trips")
	f.IntVar(&o.PacedConns, "paced-conns", o.PacedConns, "connections of paced round trips")
	f.IntVar(&o.Rate, "rate", o.Rate, "messages per second of paced round trips")
	f.IntVar(&o.Connecting, "connecting", o.Connecting, "connections at a time of connect")
	f.IntVar(&o.Handshaking, "handshaking", o.Handshaking, "connections at a time of TLS handshakes")
	f.IntVar(&o.BulkConns, "bulk-conns", o.BulkConns, "connections of bulk")
	f.IntVar(&o.Sessions, "sessions", o.Sessions, "idle connections")
	f.IntVar(&o.TLSSessions, "tls-sessions", o.TLSSessions, "idle connections in TLS")
	f.IntVar(&o.Size, "size", o.Size, "bytes of a message")
	f.IntVar(&o.StanzaSize, "stanza-size", o.StanzaSize, "bytes of an XMPP message")
}

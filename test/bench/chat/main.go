//go:build linux

// Command chat compares imlb with other chat servers: it puts the same loads on each, in
// turns, with `imlb bench chat`, and prints medians, ranges and ratios.
//
//	go run ./test/bench/chat --help
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"imlb/test/bench/chat/servers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:forbidigo // the root
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench chat:", err)
		os.Exit(1) //nolint:forbidigo // main
	}
}

func run(ctx context.Context, args []string) error {
	o, format, err := parse(args)
	if err != nil {
		return err
	}
	r, err := compare(ctx, o)
	if r == nil {
		return err
	}
	err = errors.Join(err, r.Write(os.Stdout, format))
	if failed := r.Failures(); len(failed) > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d measurements failed", len(failed), len(r.Samples)))
	}
	return err
}

const about = `Puts the same loads on imlb (a front and a node on SQLite; a front and three nodes on
PostgreSQL), ejabberd and Prosody, in turns, and prints medians, ranges and ratios. What is
not installed is left out by name. Every message is checked; the status is 1 when one was
lost, doubled or out of order or a server failed, and never because of a figure.
`

// options say what is compared.
type options struct {
	IMLB      string // the program; empty: it is built
	Servers   string // patterns with commas between; empty: all
	Workloads string // likewise
	Rounds    int
	Warmup    time.Duration
	Duration  time.Duration // of what counts
	Settle    time.Duration // before memory is read

	Sessions   int // that write to each other
	Window     int // messages of each on their way, as fast as it goes
	Size       int // bytes of a body
	Rate       int // messages/s of paced-same; 0: half of what the slowest server can
	Users      int // who log in
	Connecting int // logins at a time
	Idle       int // sessions
	Preload    int // messages in the archive
	Queries    int // of the archive
	Fill       int // entries of the archive that is read, put into the database
	FillTotal  int // entries of all archives then

	Command string // for the report
}

func parse(args []string) (o options, format string, err error) {
	f := flag.NewFlagSet("chat", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), "usage: chat [flags]\n\n", about, "\n")
		f.PrintDefaults()
	}
	f.StringVar(&format, "format", "markdown", "of what is printed: markdown, text or json")
	f.StringVar(&o.Servers, "servers", "", "only these, with commas between; imlb* is several (default all)")
	f.StringVar(&o.Workloads, "workloads", "", "only these, in the same way (default all)")
	f.StringVar(&o.IMLB, "imlb", "", "the imlb program (default: it is built from this tree)")
	f.IntVar(&o.Rounds, "rounds", 3, "how often all is measured")
	f.DurationVar(&o.Warmup, "warmup", 2*time.Second, "how long each runs before it counts")
	f.DurationVar(&o.Duration, "duration", 5*time.Second, "how long each measurement counts")
	f.DurationVar(&o.Settle, "settle", 5*time.Second, "how long idle sessions are let alone before memory is read")
	f.IntVar(&o.Sessions, "sessions", 100, "sessions that write to each other, in pairs")
	f.IntVar(&o.Window, "window", 4, "messages of each session on their way, as fast as it goes")
	f.IntVar(&o.Size, "size", 256, "bytes of a message's body")
	f.IntVar(&o.Rate, "rate", 0, "messages per second that all servers get alike (default: half of what the slowest can)")
	f.IntVar(&o.Users, "users", 50, "users who log in, in turns")
	f.IntVar(&o.Connecting, "connecting", 8, "logins at a time")
	f.IntVar(&o.Idle, "idle", 4000, "idle sessions")
	f.IntVar(&o.Preload, "preload", 3000, "messages that a user's archive is filled with; try 1000000")
	f.IntVar(&o.Fill, "fill", 0, "entries of that archive, which then are put into the database of those servers that have it in SQLite, instead of --preload; try 1000000")
	f.IntVar(&o.FillTotal, "fill-total", 0, "entries of all users' archives then; try 10000000 (default: twice as many as --fill)")
	f.IntVar(&o.Queries, "queries", 200, "pages of the archive to read")
	if err := f.Parse(args); err != nil {
		return o, "", err
	}
	if o.FillTotal == 0 {
		o.FillTotal = 2 * o.Fill
	}
	o.Command = strings.Join(append([]string{"go run ./test/bench/chat"}, args...), " ")
	if f.NArg() > 0 {
		return o, "", fmt.Errorf("what is %q? see --help", f.Arg(0))
	}
	return o, format, o.check()
}

func (o options) check() error {
	switch {
	case o.Rounds < 1 || o.Duration <= 0 || o.Warmup < 0 || o.Settle < 0:
		return errors.New("rounds and duration have to be more than nothing")
	case min(o.Sessions, o.Window, o.Users, o.Connecting, o.Idle, o.Queries) < 1 || o.Rate < 0 || o.Preload < 0:
		return errors.New("every number of sessions, users and queries has to be at least 1")
	case o.Sessions%2 != 0:
		return errors.New("sessions write to each other in pairs: an even number is needed")
	case o.Fill != 0 || o.FillTotal != 0:
		return o.fill().Check(o.accounts())
	}
	return nil
}

func (o options) fill() servers.Fill { return servers.Fill{User: o.Fill, Total: o.FillTotal} }

// accounts is how many users a server needs.
func (o options) accounts() int { return max(o.Sessions, o.Users, o.Idle, 10) }

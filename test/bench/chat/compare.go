//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"imlb/backend/chatload"
	"imlb/test/bench/chat/servers"
	"imlb/test/bench/peers"
	"imlb/test/bench/report"
	"imlb/test/bench/rounds"
)

// comparison is one that runs.
type comparison struct {
	options
	dir     string
	certs   peers.Certs
	plans   []plan
	servers []servers.Server
	most    map[string]float64 // messages/s by server, from before the rounds
	more    map[string]float64 // the same, where a round has shown that it can more
	report  *report.Report
}

// compare makes the comparison. The report is good as far as it goes when there is an
// error; failed measurements are in the report and are no error.
func compare(ctx context.Context, o options) (*report.Report, error) {
	dir, err := os.MkdirTemp("", "imlb-bench-chat-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c := &comparison{options: o, dir: dir, most: make(map[string]float64), more: make(map[string]float64), report: &report.Report{Command: o.Command, Rivals: []string{servers.Ejabberd, servers.Prosody}}}
	if c.certs, err = servers.MakeCerts(dir); err != nil {
		return nil, err
	}
	if err := c.gather(ctx); err != nil {
		return nil, err
	}
	c.report.Date, c.report.Machine = time.Now().Format(time.DateOnly), rounds.ThisMachine()
	watch := rounds.StartWatch()
	err = c.run(ctx)
	c.report.Machine.Others = watch.Others()
	return c.report, err
}

// gather finds the servers and plans that are wanted, and builds our own program if it is
// to be.
func (c *comparison) gather(ctx context.Context) error {
	if c.IMLB == "" {
		c.IMLB = filepath.Join(c.dir, "imlb")
		if err := rounds.Build(ctx, c.IMLB); err != nil {
			return err
		}
	}
	all, err := c.find(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		ok, err := matches(c.Servers, s.Name)
		if err != nil {
			return err
		}
		if ok {
			c.servers = append(c.servers, s)
			c.report.Peers = append(c.report.Peers, report.Peer{Name: s.Name, Family: s.Family, Version: s.Version, Settings: s.Settings})
		}
	}
	for _, p := range plans(c.options) {
		ok, err := matches(c.Workloads, p.Name)
		if err != nil {
			return err
		}
		if ok {
			c.plans = append(c.plans, p)
			c.report.Workloads = append(c.report.Workloads, p.Workload)
		}
	}
	if len(c.servers) == 0 || len(c.plans) == 0 {
		return errors.New("no server or no workload of these names")
	}
	return nil
}

// find returns the servers that are installed, and notes what is missing.
func (c *comparison) find(ctx context.Context) ([]servers.Server, error) {
	own := servers.IMLB(c.IMLB)
	if servers.PostgresMissing() {
		own = own[:1]
		c.report.Missing = append(c.report.Missing, "postgresql")
	}
	out, err := exec.CommandContext(ctx, c.IMLB, "version").Output() //nolint:gosec // our own
	if err != nil {
		return nil, fmt.Errorf("%s version: %w", c.IMLB, err)
	}
	for i := range own {
		own[i].Version, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "imlb "), ",")
	}
	all := own
	for name, find := range map[string]func(context.Context) ([]servers.Server, []string, error){"ejabberd": servers.Ejabberds, "prosody": servers.Prosodies} {
		found, missing, err := find(ctx)
		if errors.Is(err, servers.ErrMissing) {
			missing, err = []string{name}, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, found...)
		c.report.Missing = append(c.report.Missing, missing...)
	}
	slices.SortStableFunc(all[len(own):], func(a, b servers.Server) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// run finds out what each server can, and then runs the rounds. Nobody is always first.
func (c *comparison) run(ctx context.Context) error {
	if slices.ContainsFunc(c.plans, func(p plan) bool { return p.paced }) {
		for _, s := range c.servers {
			c.calibrate(ctx, s)
		}
	}
	for round := range c.Rounds {
		first := round % len(c.servers)
		for _, s := range slices.Concat(c.servers[first:], c.servers[:first]) {
			c.serve(ctx, round, s)
			if ctx.Err() != nil {
				return fmt.Errorf("after %d measurements: %w", len(c.report.Samples), context.Cause(ctx))
			}
		}
	}
	return nil
}

// calibrate finds out how many messages a server can.
func (c *comparison) calibrate(ctx context.Context, s servers.Server) {
	r, err := c.start(ctx, s)
	if err == nil {
		p := maximumPlan(c.options)
		var result *chatload.Result
		if result, err = c.load(ctx, p, r, rates{}); err == nil {
			c.most[s.Name] = result.Messages.PerSecond
		}
		err = errors.Join(err, r.Stop())
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "before      %-18s FAILED: %v\n", s.Name, err)
		return
	}
	fmt.Fprintf(os.Stderr, "before      %-18s %.0f messages/s\n", s.Name, c.most[s.Name])
}

// rates returns at which rates a server is measured, by what it could at best so far; the
// one rate for all stays what it was before the rounds. The slowest is no reason to let all
// be idle, so the one rate is not below 50.
func (c *comparison) rates(s servers.Server) rates {
	slowest, theirs := math.Inf(1), 0.0
	for name, v := range c.most {
		slowest = min(slowest, v)
		if c.family(name) != servers.Ours {
			theirs = max(theirs, v, c.more[name])
		}
	}
	half := int(max(c.most[s.Name], c.more[s.Name]) / 2)
	r := rates{half: half, theirs: half, same: c.Rate}
	if s.Family == servers.Ours && theirs > 0 {
		r.theirs = int(theirs / 2)
	}
	if c.Rate == 0 && len(c.most) > 0 {
		r.same = max(50, int(slowest/2))
	}
	return r
}

func (c *comparison) family(name string) string {
	for _, s := range c.servers {
		if s.Name == name {
			return s.Family
		}
	}
	return ""
}

// serve makes a round's measurements of one server: those that need a fresh one first,
// each with a start of its own.
func (c *comparison) serve(ctx context.Context, round int, s servers.Server) {
	var others []plan
	for _, p := range c.plans {
		switch {
		case p.filled && s.Fill == nil: // there is no way to
		case p.filled:
			c.filled(ctx, round, s, p)
		case p.fresh:
			c.together(ctx, round, s, []plan{p})
		default:
			others = append(others, p)
		}
	}
	if len(others) > 0 {
		c.together(ctx, round, s, others)
	}
}

// together makes measurements with one start of a server.
func (c *comparison) together(ctx context.Context, round int, s servers.Server, plans []plan) {
	r, err := c.start(ctx, s)
	for _, p := range plans {
		var result *chatload.Result
		failed := err
		if err == nil {
			result, failed = c.load(ctx, p, r, c.rates(s))
		}
		if failed == nil && p.maximum {
			c.more[s.Name] = max(c.more[s.Name], result.Messages.PerSecond)
		}
		c.note(ctx, round, s, p, result, failed)
	}
	c.stop(ctx, round, s, r)
}

// filled makes a measurement of a server whose archives are filled. They are large, so
// they are deleted at once.
func (c *comparison) filled(ctx context.Context, round int, s servers.Server, p plan) {
	task, err := c.task(s)
	defer os.RemoveAll(task.Dir)
	var newest []string
	if err == nil {
		newest, err = c.fillArchives(ctx, s, task)
	}
	var r *servers.Running
	if err == nil {
		r, err = s.Start(ctx, task)
	}
	var result *chatload.Result
	if err == nil {
		result, err = c.load(ctx, p, r, rates{})
	}
	if err == nil {
		err = isNewest(result.Archive, newest)
	}
	c.note(ctx, round, s, p, result, err)
	c.stop(ctx, round, s, r)
}

// fillArchives has the server store some messages by itself, and then fills its archives
// while it is stopped. It returns what is then on the last page.
func (c *comparison) fillArchives(ctx context.Context, s servers.Server, task servers.Task) ([]string, error) {
	r, err := s.Start(ctx, task)
	if err != nil {
		return nil, err
	}
	_, err = c.load(ctx, samplePlan(c.options), r, rates{})
	if err := errors.Join(err, r.Stop()); err != nil {
		return nil, fmt.Errorf("before the archives are filled: %w", err)
	}
	began := time.Now()
	newest, err := s.Fill(ctx, task, c.fill())
	if err == nil {
		fmt.Fprintf(os.Stderr, "filled      %-18s %d entries in %.0f s\n", s.Name, c.FillTotal, time.Since(began).Seconds())
	}
	return newest, err
}

// isNewest tells when pages had anything but the newest messages, in order.
func isNewest(a *chatload.ArchiveCounts, newest []string) error {
	if a.Changed > 0 {
		return fmt.Errorf("%d pages were not like the one before", a.Changed)
	}
	if !slices.Equal(a.Newest, newest) {
		return fmt.Errorf("the last page has messages %q instead of %q", a.Newest, newest)
	}
	return nil
}

// note puts a measurement into the report.
func (c *comparison) note(ctx context.Context, round int, s servers.Server, p plan, result *chatload.Result, failed error) {
	if ctx.Err() != nil {
		return // it was broken off, and is nobody's failure
	}
	sample := report.Sample{Round: round, Workload: p.Name, Peer: s.Name}
	if failed == nil {
		sample.Metrics = p.metrics(result)
	} else {
		sample.Error = failed.Error()
	}
	c.report.Samples = append(c.report.Samples, sample)
	fmt.Fprintf(os.Stderr, "round %d/%d   %-18s %-22s %s\n", round+1, c.Rounds, s.Name, p.Name, summary(p, sample))
}

// stop stops a server, if it was started, which has to have run until now.
func (c *comparison) stop(ctx context.Context, round int, s servers.Server, r *servers.Running) {
	if r == nil {
		return
	}
	if err := r.Stop(); err != nil && ctx.Err() == nil {
		c.report.Samples = append(c.report.Samples, report.Sample{Round: round, Workload: "stop", Peer: s.Name, Error: err.Error()})
	}
}

// summary tells what a measurement gave.
func summary(p plan, s report.Sample) string {
	if s.Error != "" {
		return "FAILED: " + s.Error
	}
	text := ""
	for _, m := range p.Metrics {
		text += fmt.Sprintf("%.4g %s  ", s.Metrics[m.Key], m.Title)
	}
	return text
}

// start starts a server in a new directory.
func (c *comparison) start(ctx context.Context, s servers.Server) (*servers.Running, error) {
	task, err := c.task(s)
	if err != nil {
		return nil, err
	}
	return s.Start(ctx, task)
}

// task is what a server is started for in a new directory.
func (c *comparison) task(s servers.Server) (servers.Task, error) {
	dir, err := os.MkdirTemp(c.dir, s.Name+"-")
	return servers.Task{Dir: dir, Users: c.accounts(), Certs: c.certs}, err
}

// load puts one load on a server.
func (c *comparison) load(ctx context.Context, p plan, r *servers.Running, at rates) (*chatload.Result, error) {
	pids := make([]string, len(r.PIDs))
	for i, pid := range r.PIDs {
		pids[i] = strconv.Itoa(pid)
	}
	args := []string{
		"bench", "chat", "--server", r.Addr, "--domain", r.Domain(p.login), "--ca", c.certs.Cert,
		"--user-format", servers.UserFormat, "--password-format", servers.Password, "--pid", strings.Join(pids, ","), "--format", "json",
		"--warmup", c.Warmup.String(), "--settle", c.Settle.String(), "--timeout", "60s",
	}
	if p.paced && at.half == 0 {
		return nil, errors.New("it is not known what the server can")
	}
	extra := p.args(at)
	if !slices.Contains(extra, "--duration") {
		extra = append(extra, "--duration", c.Duration.String())
	}
	cmd := exec.CommandContext(ctx, c.IMLB, append(args, extra...)...) //nolint:gosec // our own
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	failed := cmd.Run()
	result := new(chatload.Result)
	switch err := json.Unmarshal(out.Bytes(), result); {
	case failed != nil && err != nil:
		return nil, fmt.Errorf("%w: %s", failed, bytes.TrimSpace(said.Bytes()))
	case failed != nil:
		return nil, fmt.Errorf("%s: errors %v, messages %+v", bytes.TrimSpace(said.Bytes()), result.Errors, result.Messages)
	case err != nil:
		return nil, err
	}
	return result, useful(result)
}

// useful tells whether there are figures at all.
func useful(r *chatload.Result) error {
	switch {
	case r.CPU == nil:
		return errors.New("no processor time was read")
	case r.Workload == chatload.Messages && r.Messages.Offered == 0 && r.CPU.PerSecond > 0:
		return nil
	case r.Workload != chatload.Idle && (r.Latency == nil || r.CPU.PerSecond == 0):
		return errors.New("nothing was done while it counted")
	case r.Workload == chatload.Idle && r.Memory == nil:
		return errors.New("no memory was read")
	}
	return nil
}

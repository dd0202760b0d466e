package health_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"imlb/health"
)

// TestIncidents plays the reports in testdata/*.incident against a monitor. A line is
//
//	TIME EVENT | PLACEMENT; CHANGES
//
// with the number of changes of standing since the line before. The first
// line sets options. Nodes in capitals are critical to the source; those in
// parentheses drain. See (*incident).happen for the events.
func TestIncidents(t *testing.T) {
	files, err := filepath.Glob("testdata/*.incident")
	if err != nil || len(files) == 0 {
		t.Fatalf("no incidents: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".incident"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := playIncident(t, string(text))
			if flag.Lookup("update").Value.String() == "true" {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got != string(text) {
				t.Errorf("it went:\n%swant:\n%s", got, text)
			}
		})
	}
}

// incident is a monitor and what surrounds it.
type incident struct {
	*health.Monitor
	t         *testing.T
	options   health.Options
	source    script
	checks    *fakes
	overrides map[string]health.Override
	changes   uint64 // of standing, before this step
	start     time.Time
}

// playIncident returns the report with what really happens.
func playIncident(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	synctest.Test(t, func(t *testing.T) {
		in := &incident{t: t, source: make(script), checks: &fakes{}, start: time.Now(), overrides: make(map[string]health.Override)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		for line := range strings.Lines(text) {
			event, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "|")
			event = strings.TrimSpace(event)
			at, what, _ := strings.Cut(event, " ")
			switch {
			case event == "" || at == "#":
				out.WriteString(line)
			case at == "options":
				in.begin(what)
				go func() { done <- in.Run(ctx) }()
				out.WriteString(line)
			default:
				fmt.Fprintf(&out, "%-38s | %s\n", event, in.step(at, strings.TrimSpace(what)))
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return out.String()
}

// begin makes the monitor.
func (in *incident) begin(text string) {
	in.t.Helper()
	in.options = health.Options{
		Source: in.source, Check: in.checks, Rules: health.Rules{Jitter: -1},
	}
	in.set(text)
	var err error
	if in.Monitor, err = health.New(in.options); err != nil {
		in.t.Fatal(err)
	}
}

// set changes the options.
func (in *incident) set(text string) {
	in.t.Helper()
	for field := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(field, "=")
		d, _ := time.ParseDuration(value)
		n, _ := strconv.ParseFloat(value, 64)
		switch key {
		case "interval":
			in.options.Rules.Interval = d
		case "fall":
			in.options.Rules.Fall = int(n)
		case "panic":
			in.options.Panic = n
		case "slow-start":
			in.options.SlowStart = d
		case "max-ejected":
			in.options.MaxEjected = n
		case "half-life":
			in.options.Damping.HalfLife = d
		case "no-damping":
			in.options.Damping.Off = true
		default:
			in.t.Fatalf("unknown option %q", field)
		}
	}
}

// step lets an event happen at its time, and returns what is known then.
func (in *incident) step(at, event string) string {
	in.t.Helper()
	d, err := time.ParseDuration(at)
	if err != nil {
		in.t.Fatal(err)
	}
	if wait := time.Until(in.start.Add(d)); wait > 0 {
		pass(wait)
	}
	in.happen(event)
	synctest.Wait()
	return in.placement()
}

// happen makes an event real.
func (in *incident) happen(event string) {
	in.t.Helper()
	text, why, _ := strings.Cut(event, ": ")
	words := strings.Fields(text)
	has := func(pattern string) bool {
		p := strings.Fields(pattern)
		return len(p) == len(words) && !slices.ContainsFunc(p, func(w string) bool {
			return w != "_" && w != words[slices.Index(p, w)]
		})
	}
	operator := func(o health.Override, node string) {
		o.Comment = why
		in.overrides[node] = o
		in.SetOverrides(maps.Clone(in.overrides))
	}
	switch {
	case event == "nothing":
	case words[0] == "listed":
		in.list(words[1:])
	case has("checks of _ fail"):
		in.checks.fail(words[2]+":5222", errors.New(why))
	case has("checks of _ pass"):
		in.checks.fail(words[2]+":5222", nil)
	case has("_ says that it drains"):
		in.checks.answer(words[0]+":5222", health.Answer{Draining: true})
	case has("_ says that it is ready"):
		in.checks.answer(words[0]+":5222", health.Answer{Ready: true})
	case has("dial of _ fails"):
		in.Report(words[2], health.DialFailed)
	case has("_ sessions at _ fail"):
		in.sessions(words[0], words[3], health.DialFailed)
	case has("_ sessions at _ are lost"):
		in.sessions(words[0], words[3], health.Lost)
	case has("_ sessions at _ go well"):
		in.sessions(words[0], words[3], health.Served)
	case has("operator drains _"):
		operator(health.Override{Drain: true}, words[2])
	case has("operator disables _"):
		operator(health.Override{Disabled: true}, words[2])
	case has("operator gives _ weight _"):
		weight, _ := strconv.ParseFloat(words[4], 64)
		operator(health.Override{Weight: weight}, words[2])
	case has("operator lets _ be"):
		operator(health.Override{}, words[2])
	case has("_ flaps every _ for _"):
		in.flap(words[0], words[3], words[5])
	case words[0] == "configured":
		in.set(strings.Join(words[1:], " "))
		o := in.options
		o.Source = nil
		if err := in.Configure(o); err != nil {
			in.t.Fatal(err)
		}
	default:
		in.t.Fatalf("unknown event %q", event)
	}
}

func (in *incident) list(names []string) {
	list := []health.Endpoint{}
	for _, name := range names {
		e := node(strings.ToLower(strings.Trim(name, "()")))
		e.Draining = strings.HasPrefix(name, "(")
		e.Healthy = name == strings.ToLower(name)
		list = append(list, e)
	}
	in.source <- list
}

func (in *incident) sessions(count, name string, o health.Outcome) {
	n, err := strconv.Atoi(count)
	if err != nil {
		in.t.Fatal(err)
	}
	for range n {
		in.Report(name, o)
	}
}

// flap makes a node's checks fail and pass in turn.
func (in *incident) flap(name, every, long string) {
	period, _ := time.ParseDuration(every)
	d, _ := time.ParseDuration(long)
	end := time.Now().Add(d)
	for failing := true; time.Now().Before(end); failing = !failing {
		var err error
		if failing {
			err = errors.New("refused")
		}
		in.checks.fail(name+":5222", err)
		in.Report(name, health.DialFailed)
		pass(period)
	}
	in.checks.fail(name+":5222", nil)
}

// placement says how the nodes stand, and how often that has changed.
func (in *incident) placement() string {
	s := in.Snapshot()
	var words []string
	if s.Panic {
		words = append(words, "PANIC")
	}
	for _, n := range s.Nodes {
		text := n.Name + " " + n.Standing.String()
		if n.Standing == health.Fit && n.Ramp < 1 {
			text += fmt.Sprintf(" at %.1f", n.Ramp)
		}
		if n.Weight != 1 {
			text += fmt.Sprintf(" with weight %v", n.Weight)
		}
		if n.Standing != health.Fit {
			text += " (" + n.Cause + ")"
		}
		words = append(words, text)
	}
	changes := s.Totals.Transitions - in.changes
	in.changes += changes
	return strings.Join(append(words, fmt.Sprintf("%d changes", changes)), "; ")
}

package health

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var updating = flag.Bool("update", false, "write what the scenarios lead to")

// TestScenarios plays the incident reports in testdata. A line of one is
//
//	TIME EVENT | what the machine says then
//
// with the events "check passes", "check fails: WHY", "dial fails", "session lost"
// and "session served", after a first line of rules.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.scenario")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".scenario"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *updating {
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

// play returns the scenario with what the machine really says.
func play(t *testing.T, text string) string {
	t.Helper()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := machine{rules: Rules{}.withDefaults()}
	var out strings.Builder
	for line := range strings.Lines(text) {
		event, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "|")
		event = strings.TrimSpace(event)
		at, what, _ := strings.Cut(event, " ")
		what = strings.TrimSpace(what)
		switch {
		case event == "" || at == "#":
			out.WriteString(line)
			continue
		case at == "rules":
			m.rules = parseRules(t, what)
			out.WriteString(line)
			continue
		}
		d, err := time.ParseDuration(at)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		happen(t, &m, start.Add(d), what)
		row := ""
		if m.row > 0 {
			row = fmt.Sprintf(", %d against it", m.row)
		}
		if m.lost > 0 {
			row += fmt.Sprintf(", %d lost", m.lost)
		}
		fmt.Fprintf(&out, "%-32s | %s since %s (%s)%s; next check in %s\n", event, m.state, m.since.Sub(start), m.cause, row, m.wait())
	}
	return out.String()
}

func happen(t *testing.T, m *machine, now time.Time, event string) {
	t.Helper()
	kind, why, _ := strings.Cut(event, ": ")
	switch kind {
	case "check passes":
		m.checked(now, nil)
	case "check fails":
		m.checked(now, errors.New(why))
	case "dial fails":
		m.reported(now, DialFailed)
	case "session lost":
		m.reported(now, Lost)
	case "session served":
		m.reported(now, Served)
	default:
		t.Fatalf("unknown event %q", event)
	}
}

func parseRules(t *testing.T, text string) Rules {
	t.Helper()
	var r Rules
	for field := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(field, "=")
		var err error
		switch key {
		case "rise":
			r.Rise, err = strconv.Atoi(value)
		case "fall":
			r.Fall, err = strconv.Atoi(value)
		case "interval":
			r.Interval, err = time.ParseDuration(value)
		case "fast":
			r.Fast, err = time.ParseDuration(value)
		default:
			t.Fatalf("unknown rule %q", field)
		}
		if err != nil {
			t.Fatalf("%q: %v", field, err)
		}
	}
	return r.withDefaults()
}

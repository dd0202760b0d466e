package health

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestMemory tells what happens around a Consul agent, step by step: what it
// answered, and what is believed then. Nodes in capitals are critical; "!" is a
// failed query, "-" only passes time, "~" is an answer after the index went back.
func TestMemory(t *testing.T) {
	const hold = 60
	type step struct {
		second   int
		answer   string
		believed string
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"a node comes and is deregistered", []step{
			{0, "a b", "a b"}, {10, "a b c", "a b c"}, {20, "a c", "a c"},
		}},
		{"a node turns critical", []step{
			{0, "a b", "a b"}, {10, "a B", "a B"}, {20, "a b", "a b"},
		}},
		{"a node comes up", []step{
			{0, "A", "A"}, {10, "a", "a"},
		}},
		{"the agent restarts and nodes register again", []step{
			{0, "a b c", "a b c"}, {10, "!", "a b c"}, {11, "!", "a b c"}, {12, "", "a b c"},
			{13, "A", "a b c"}, {14, "a B", "a b c"}, {15, "a b C", "a b c"}, {16, "a b c", "a b c"}, {17, "a b", "a b"},
		}},
		{"a node does not come back after the restart", []step{
			{0, "a b", "a b"}, {10, "!", "a b"}, {20, "a", "a b"}, {69, "-", "a b"}, {70, "-", "a"},
		}},
		{"a node stays critical after the restart", []step{
			{0, "a b", "a b"}, {10, "!", "a b"}, {20, "a B", "a b"}, {69, "-", "a b"}, {70, "-", "a B"},
		}},
		{"the agent stays away", []step{
			{0, "a b", "a b"}, {10, "!", "a b"}, {50, "!", "a b"}, {100, "!", "a b"}, {159, "!", "a b"}, {160, "a b", "a b"},
		}},
		{"all nodes are deregistered", []step{
			{0, "a b", "a b"}, {10, "", "a b"}, {40, "", "a b"}, {69, "", "a b"}, {70, "", ""}, {80, "", ""}, {90, "a", "a"},
		}},
		{"the servers lose their state", []step{
			{0, "a b", "a b"}, {10, "~ a", "a b"}, {11, "a b", "a b"}, {12, "b", "b"},
		}},
		{"there was nothing before", []step{
			{0, "!", ""}, {10, "", ""}, {20, "A", "A"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemory(hold * time.Second)
			start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			for _, s := range c.steps {
				hear(m, start.Add(time.Duration(s.second)*time.Second), s.answer)
				if got := spell(m.endpoints()); got != s.believed {
					t.Fatalf("after %d s and %q: %q is believed, want %q", s.second, s.answer, got, s.believed)
				}
			}
		})
	}
}

func hear(m *memory, now time.Time, text string) {
	switch text, restarted := strings.CutPrefix(text, "~ "); {
	case text == "!":
		m.distrust(now)
	case text == "-":
		m.expire(now)
	default:
		if restarted {
			m.distrust(now)
		}
		var answer []Endpoint
		for name := range strings.FieldsSeq(text) {
			answer = append(answer, Endpoint{Name: strings.ToLower(name), Healthy: name == strings.ToLower(name)})
		}
		m.learn(now, answer)
	}
}

func spell(endpoints []Endpoint) string {
	var names []string
	for _, e := range endpoints {
		if !e.Healthy {
			e.Name = strings.ToUpper(e.Name)
		}
		names = append(names, e.Name)
	}
	return strings.Join(names, " ")
}

// TestMemoryKnowsWhenToExpire: the time that next returns is the earliest at which
// expire changes something.
func TestMemoryKnowsWhenToExpire(t *testing.T) {
	m := newMemory(time.Minute)
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hear(m, start, "a b")
	if next := m.next(); !next.IsZero() {
		t.Errorf("nothing is in doubt, but next is %v", next)
	}
	hear(m, start.Add(time.Second), "!")
	hear(m, start.Add(2*time.Second), "a")
	if got := fmt.Sprint(m.next().Sub(start)); got != "1m1s" {
		t.Errorf("next is after %s", got)
	}
}

func TestBackoffGrowsWithinBounds(t *testing.T) {
	b := backoff{first: 100 * time.Millisecond, most: time.Second}
	for _, most := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
		most *= time.Millisecond
		if d := b.delay(); d < most/2 || d > most {
			t.Errorf("waits %v, want between %v and %v", d, most/2, most)
		}
	}
	b.reset()
	if d := b.delay(); d > 100*time.Millisecond {
		t.Errorf("waits %v after a success", d)
	}
}

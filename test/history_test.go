package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// history is one direction of a conversation, as the two clients saw it: the
// bodies that the sender sent, in order; those of them that it was told are safe
// (XEP-0198); and what the receiver received, over all of its logins, in order.
type history struct {
	sent, acked, received []string
}

// violations lists every promise that a history breaks: an acknowledged message
// arrives; nothing arrives twice; what arrives, arrives in the order in which it
// was sent; nothing arrives that was not sent. A message that was not
// acknowledged may be lost, since its sender knows that it may be.
func (h history) violations() []string {
	var found []string
	place := make(map[string]int, len(h.sent))
	for i, body := range h.sent {
		place[body] = i
	}
	count := make(map[string]int, len(h.received))
	last := -1
	for _, body := range h.received {
		at, known := place[body]
		count[body]++
		switch {
		case !known:
			found = append(found, fmt.Sprintf("received %q, which nobody sent", body))
		case count[body] > 1:
			found = append(found, fmt.Sprintf("received %q for the %d. time", body, count[body]))
		case at < last:
			found = append(found, fmt.Sprintf("received %q after %q", body, h.sent[last]))
		default:
			last = at
		}
	}
	for _, body := range h.acked {
		if count[body] == 0 {
			found = append(found, fmt.Sprintf("lost %q, which had been acknowledged", body))
		}
	}
	return found
}

// check fails the test for each violation, up to a number that can be read.
func (h history) check(t *testing.T, what string) {
	t.Helper()
	found := h.violations()
	for i, v := range found {
		if i == 20 {
			t.Errorf("%s: … and %d more", what, len(found)-i)
			return
		}
		t.Errorf("%s: %s", what, v)
	}
	t.Logf("%s: %d sent, %d acknowledged, %d received", what, len(h.sent), len(h.acked), len(h.received))
}

// conversation is what a client sent to another, by the logs of both.
func conversation(from, to *client, prefix string) history {
	ours := func(all []event) []string {
		return slices.DeleteFunc(bodies(all), func(b string) bool { return !strings.HasPrefix(b, prefix+"-") })
	}
	return history{
		sent:     ours(from.history("sent")),
		acked:    ours(from.history("acked")),
		received: ours(to.history("message")),
	}
}

// The checker has to find what it is there to find.
func TestHistory(t *testing.T) {
	t.Parallel()
	four := []string{"a-1", "a-2", "a-3", "a-4"}
	tests := []struct {
		name string
		h    history
		want []string
	}{
		{"all arrive", history{four, four, four}, nil},
		{"an unacknowledged one is lost", history{four, []string{"a-1", "a-3", "a-4"}, []string{"a-1", "a-3", "a-4"}}, nil},
		{"an unacknowledged one arrives", history{four, []string{"a-1"}, []string{"a-1", "a-2"}}, nil},
		{"an acknowledged one is lost", history{four, four, []string{"a-1", "a-2", "a-4"}}, []string{`lost "a-3", which had been acknowledged`}},
		{"the last one is lost", history{four, four, four[:3]}, []string{`lost "a-4", which had been acknowledged`}},
		{"one comes twice", history{four, nil, []string{"a-1", "a-2", "a-2", "a-3"}}, []string{`received "a-2" for the 2. time`}},
		{"an old one comes twice", history{four, nil, []string{"a-1", "a-2", "a-3", "a-1"}}, []string{`received "a-1" for the 2. time`}},
		{"two change places", history{four, nil, []string{"a-1", "a-3", "a-2", "a-4"}}, []string{`received "a-2" after "a-3"`}},
		{"one out of nothing", history{four, nil, []string{"b-1"}}, []string{`received "b-1", which nobody sent`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := tt.h.violations(); !slices.Equal(got, tt.want) {
				t.Errorf("violations = %q, want %q", got, tt.want)
			}
		})
	}
}

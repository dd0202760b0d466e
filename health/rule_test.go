package health

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// ruleLine is a line of the table in the package documentation.
type ruleLine struct {
	cells    []string
	standing string
	decides  int
}

// readRule reads the table out of doc.go.
func readRule(t *testing.T) []*ruleLine {
	t.Helper()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var lines []*ruleLine
	for line := range strings.Lines(string(text)) {
		cells, standing, ok := strings.Cut(strings.TrimPrefix(line, "//"), "|")
		if !ok || strings.Contains(line, "operator") {
			continue
		}
		lines = append(lines, &ruleLine{cells: strings.Fields(cells), standing: strings.TrimSpace(standing)})
	}
	return lines
}

func (l *ruleLine) fits(values []string) bool {
	for i, cell := range l.cells {
		if cell != "·" && cell != values[i] {
			return false
		}
	}
	return true
}

// TestRule holds the rule against its table in the package documentation, for every
// combination of facts.
func TestRule(t *testing.T) {
	lines := readRule(t)
	cases := 0
	for f, values := range combinations() {
		cases++
		for _, l := range lines {
			if !l.fits(values) {
				continue
			}
			l.decides++
			if got, cause := judge(f); got.String() != l.standing || cause == "" {
				t.Errorf("%q: %s (%s), but the rule says %s", values, got, cause, l.standing)
			}
			break
		}
	}
	if want := 3 * 2 * 3 * 2 * 2 * 2 * 2 * 2 * 2; cases != want {
		t.Errorf("%d combinations, want %d", cases, want)
	}
	for _, l := range lines {
		if l.decides == 0 {
			t.Errorf("%q decides nothing", l.cells)
		}
	}
}

// combinations yields all facts, and the words for them in the table.
func combinations() func(yield func(facts, []string) bool) {
	operators := map[string]Override{"none": {Weight: 2}, "drain": {Drain: true}, "disabled": {Disabled: true, Drain: true, Comment: "x"}}
	sources := map[bool]string{true: "critical", false: "healthy"}
	words := map[bool]string{true: "yes", false: "no"}
	return func(yield func(facts, []string) bool) {
		for operator, o := range operators {
			for _, state := range []State{Unknown, Up, Down} {
				for bits := range 1 << 7 {
					is := func(i int) bool { return bits>>i&1 == 1 }
					f := facts{
						override: o, panic: is(0), checks: state, critical: is(1), marked: is(2), leaving: is(3),
						ejected: is(4), damped: is(5), refuses: is(6), why: "why", ejection: "ejection",
					}
					values := []string{
						operator, words[is(0)], state.String(), words[is(6)], sources[is(1)], words[is(2)], words[is(3)], words[is(4)], words[is(5)],
					}
					if !yield(f, values) {
						return
					}
				}
			}
		}
	}
}

func TestCausesNameTheOperatorsReason(t *testing.T) {
	for _, o := range []Override{{Disabled: true, Comment: "disk swap"}, {Drain: true, Comment: "disk swap"}} {
		if _, cause := judge(facts{override: o, checks: Up}); !strings.HasSuffix(cause, ": disk swap") {
			t.Errorf("%+v: %q", o, cause)
		}
	}
}

// TestCensus counts a pool as panic sees it.
func TestCensus(t *testing.T) {
	fit := facts{checks: Up}
	for _, c := range []struct {
		name   string
		pool   []facts
		panics bool // below one half
		more   bool // one more may be kept out, of one half
	}{
		{"nobody", nil, false, false},
		{"one that is fit", []facts{fit}, false, false},
		{"one that is down", []facts{{checks: Down}}, true, false},
		{"half are fit", []facts{fit, {checks: Down}}, false, true},
		{"fewer than half are fit", []facts{fit, {checks: Down}, {checks: Down}}, true, true},
		{"critical counts like down", []facts{fit, {checks: Up, critical: true}, {checks: Up, critical: true}}, true, true},
		{"what was not checked counts as fit", []facts{fit, {}, {checks: Down}, {checks: Down}}, false, true},
		{"who drains does not count", []facts{fit, {checks: Up, leaving: true}, {checks: Down, leaving: true}, {checks: Up, marked: true}}, false, true},
		{"what operators do does not count", []facts{
			fit, {checks: Up, override: Override{Disabled: true}}, {checks: Up, override: Override{Drain: true}},
		}, false, true},
		{"ejected and damped nodes are not fit", []facts{fit, {checks: Up, ejected: true}, {checks: Up, damped: true}}, true, false},
	} {
		var got census
		for _, f := range c.pool {
			got.add(f, 1)
		}
		if got.panics(0.5, false) != c.panics || got.mayKeepOut(0.5) != c.more {
			t.Errorf("%s: %+v panics: %v, more: %v", c.name, got, got.panics(0.5, false), got.mayKeepOut(0.5))
		}
		if strict := got.fit*2 < got.asked; got.panics(0.5, true) != strict {
			t.Errorf("%s: %+v: a panic goes on: %v, want %v", c.name, got, !strict, strict)
		}
		for _, f := range c.pool {
			got.add(f, -1)
		}
		if got != (census{}) {
			t.Errorf("%s: %+v is left", c.name, got)
		}
	}
}

func ExampleStanding() {
	fmt.Println(Fit, Draining, Unfit)
	// Output: fit draining unfit
}

package identify_test

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"imlb/proxy/identify"
)

func pattern(t testing.TB, c identify.PatternConfig) *identify.Pattern {
	t.Helper()
	p, err := identify.NewPattern(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mqttThenLoginThenSource(t testing.TB) identify.Chain {
	t.Helper()
	return identify.Chain{
		{Name: "mqtt", Identifier: identify.MQTT{}},
		{Name: "login", Identifier: pattern(t, identify.PatternConfig{Expr: `^LOGIN (\S+)\r?\n`})},
		{Name: "source", Identifier: identify.Source{}},
	}
}

var here = identify.Facts{Source: netip.MustParseAddr("203.0.113.7")} //nolint:gochecknoglobals // A constant.

func TestChain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, sent string
		final      bool
		want       identify.Result
	}{
		{"nothing yet", "", false, identify.Result{By: "mqtt", Need: 1}},
		{"nothing at all", "", true, identify.Result{Verdict: identify.Found, Key: "203.0.113.7/32", By: "source"}},
		{"first", string(connect{level: 4, clientID: "c", user: "alice", hasUser: true}.bytes()), false, identify.Result{Verdict: identify.Found, Key: "alice", By: "mqtt"}},
		{"second", "LOGIN bob\r\n", false, identify.Result{Verdict: identify.Found, Key: "bob", By: "login"}},
		{"second undecided holds back the third", "LOGIN bob", false, identify.Result{By: "login", Need: 10}},
		{"second undecided at last", "LOGIN bob", true, identify.Result{Verdict: identify.Found, Key: "203.0.113.7/32", By: "source"}},
		{"third", "HELLO", false, identify.Result{Verdict: identify.Found, Key: "203.0.113.7/32", By: "source"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var p identify.Progress
			if got := mqttThenLoginThenSource(t).Identify(here, []byte(c.sent), c.final, &p); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// A breach of what was agreed on ends the search, whatever else would find somebody.
func TestChainBreach(t *testing.T) {
	t.Parallel()
	chain, agreed := mqttThenLoginThenSource(t), here
	agreed.Agreed = "mqtt"
	for sent, want := range map[string]identify.Result{
		"LOGIN bob\r\n":                   {Verdict: identify.Foreign, By: "mqtt", Breach: true},
		string(connect{level: 4}.bytes()): {Verdict: identify.Found, Key: "203.0.113.7/32", By: "source"},
	} {
		var p identify.Progress
		for range 2 {
			if got := chain.Identify(agreed, []byte(sent), true, &p); got != want {
				t.Errorf("%q: got %+v, want %+v", sent, got, want)
			}
		}
	}
}

func TestChainFindsNobody(t *testing.T) {
	t.Parallel()
	chain := mqttThenLoginThenSource(t)[:2]
	for _, c := range []struct {
		sent string
		want identify.Verdict
	}{
		{"HELLO", identify.Foreign},
		{"", identify.Late},
		{"\x10\xff\xff\xff\xff", identify.Malformed},
	} {
		var p identify.Progress
		got := chain.Identify(here, []byte(c.sent), true, &p)
		if got != (identify.Result{Verdict: c.want, By: "mqtt"}) {
			t.Errorf("%q: got %+v, want %v by the first step", c.sent, got, c.want)
		}
		if again := chain.Identify(here, []byte(c.sent+"LOGIN x\n"), false, &p); again != got {
			t.Errorf("%q: got %+v, then %+v", c.sent, got, again)
		}
	}
	var p identify.Progress
	if got := (identify.Chain{}).Identify(here, nil, false, &p); got.Verdict != identify.Nobody {
		t.Errorf("an empty chain: %+v", got)
	}
}

// A step that is first asked late is not told that it has seen anything.
func TestChainStepsSeeEverything(t *testing.T) {
	t.Parallel()
	chain := identify.Chain{
		{Name: "a", Identifier: pattern(t, identify.PatternConfig{Expr: `(?m)^A (\S+)$`, Tries: 3})},
		{Name: "b", Identifier: pattern(t, identify.PatternConfig{Expr: `^B (\S+)\n$`})},
	}
	input := "B bob\nx\ny\n"
	var p identify.Progress
	for n := range len(input) {
		if r := chain.Identify(here, []byte(input[:n]), false, &p); r.Verdict != identify.More || r.By != "a" {
			t.Fatalf("%q: %+v", input[:n], r)
		}
	}
	r := chain.Identify(here, []byte(input), false, &p)
	if r != (identify.Result{Verdict: identify.Found, Key: "bob", By: "b"}) {
		t.Errorf("got %+v", r)
	}
}

// tells is an identifier that tells what it was asked.
type tells func(in identify.Input) identify.Result

func (f tells) Identify(in identify.Input) identify.Result { return f(in) }

func TestChainTellsWhatWasTried(t *testing.T) {
	t.Parallel()
	var tried []int
	chain := identify.Chain{{Name: "tells", Identifier: tells(func(in identify.Input) identify.Result {
		tried = append(tried, in.Tried)
		return identify.Result{Need: len(in.Sent) + 1}
	})}}
	var p identify.Progress
	for _, n := range []int{1, 1, 7, 9} {
		chain.Identify(here, make([]byte, n), false, &p)
	}
	if !slices.Equal(tried, []int{0, 1, 1, 7}) {
		t.Errorf("told %v", tried)
	}
}

// TestChainChunks: however the bytes are cut, the chain finds the same.
func TestChainChunks(t *testing.T) {
	t.Parallel()
	chain := mqttThenLoginThenSource(t)
	rapid.Check(t, func(t *rapid.T) {
		input := drawInput(t)
		var once identify.Progress
		whole := chain.Identify(here, input, false, &once)
		var p identify.Progress
		var got identify.Result
		for n := 0; ; n = min(n+rapid.IntRange(1, 40).Draw(t, "chunk"), len(input)) {
			if got = chain.Identify(here, input[:n], false, &p); n == len(input) || got.Verdict != identify.More {
				break
			}
		}
		if got != whole {
			t.Fatalf("%q: %+v at once, %+v in chunks", input, whole, got)
		}
	})
}

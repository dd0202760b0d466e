package identify_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"imlb/proxy/identify"
)

// reporter is what *testing.T, *testing.F and *rapid.T have in common.
type reporter interface {
	Helper()
	Fatalf(format string, args ...any)
}

// identifyAtOnce asks about bytes that came at once, and takes the memory away.
func identifyAtOnce(id identify.Identifier, sent []byte) identify.Result {
	mine := bytes.Clone(sent)
	r := id.Identify(identify.Input{Sent: mine})
	for i := range mine {
		mine[i] = '?'
	}
	return r
}

// checkSteps checks what every identifier promises of bytes that come one at a time. It
// returns the verdict on all of them.
//
//   - The answer is the same as for the same bytes at once.
//   - A verdict other than More never changes.
//   - Nothing is decided before the length that was said to be needed.
func checkSteps(t reporter, id identify.Identifier, input []byte) identify.Result {
	t.Helper()
	var last identify.Result
	tried, need := 0, 0
	for n := range len(input) + 1 {
		if last.Verdict != identify.More && n > tried+64 && n < len(input) {
			continue // seen often enough
		}
		r := identifyAtOnce(id, input[:n])
		if last.Verdict != identify.More && r != last {
			t.Fatalf("%d bytes of %q: %+v, but %+v before", n, input, r, last)
		}
		if r.Verdict != identify.More && n < need {
			t.Fatalf("%d bytes of %q: %+v, but %d bytes were said to be needed", n, input, r, need)
		}
		if step := id.Identify(identify.Input{Sent: input[:n], Tried: tried}); step != r {
			t.Fatalf("%d bytes of %q: %+v at once, %+v after %d", n, input, r, step, tried)
		}
		if r.Verdict == identify.More {
			if r.Need <= n {
				t.Fatalf("%d bytes of %q: %d needed", n, input, r.Need)
			}
			tried, need = n, r.Need
		}
		last = r
	}
	return last
}

// want checks a verdict and a key.
func want(t *testing.T, got identify.Result, v identify.Verdict, key string) {
	t.Helper()
	if got.Verdict != v || got.Key != key {
		t.Errorf("got %v %q, want %v %q", got.Verdict, got.Key, v, key)
	}
}

func TestVerdictNames(t *testing.T) {
	t.Parallel()
	var names []string
	for v := identify.More; v <= identify.Late; v++ {
		if names = append(names, v.String()); v.None() != (v != identify.More && v != identify.Found) {
			t.Errorf("%v: None is %t", v, v.None())
		}
	}
	if u := identify.Verdict(99).String(); u != "unknown" || slices.Contains(names, u) {
		t.Errorf("an unknown verdict is %q", u)
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != int(identify.Late)+1 {
		t.Errorf("names are not distinct: %q", names)
	}
}

// shortened is the key of a name.
func shortened(name string) string {
	if len(name) <= identify.MaxKey {
		return name
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(name)))
}

// Every key passes the same check, seen here through a TLV.
func TestKeys(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, key string
		want      identify.Verdict
	}{
		{"plain", "alice", identify.Found},
		{"empty", "", identify.Nobody},
		{"any script", "алиса 爱丽丝 👩‍🚀", identify.Found},
		{"longest", strings.Repeat("a", identify.MaxKey), identify.Found},
		{"too long", strings.Repeat("a", identify.MaxKey+1), identify.Found},
		{"too long and not UTF-8", strings.Repeat("a", identify.MaxKey) + "\xff", identify.BadKey},
		{"NUL", "a\x00b", identify.BadKey},
		{"line feed", "alice\n", identify.BadKey},
		{"escape", "\x1b[2J", identify.BadKey},
		{"C1 control", "a\u0085b", identify.BadKey},
		{"line separator", "a\u2028b", identify.BadKey},
		{"not UTF-8", "a\xff", identify.BadKey},
		{"surrogate", "a\xed\xa0\x80", identify.BadKey},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tlv := identify.Facts{TLVs: []identify.TLV{{Type: 0xE1, Value: []byte(c.key)}}}
			key := shortened(c.key)
			if c.want != identify.Found {
				key = ""
			}
			want(t, identify.ByTLV{Type: 0xE1}.Identify(identify.Input{Facts: tlv}), c.want, key)
		})
	}
}

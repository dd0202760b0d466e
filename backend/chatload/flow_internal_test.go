package chatload

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"imlb/backend/xmpp"
)

// TestFlow: whatever becomes of messages on the way, the flow knows what a list of all
// that came knows.
func TestFlow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sent := rapid.IntRange(0, 40).Draw(t, "sent")
		came := rapid.SliceOfN(rapid.IntRange(0, max(0, sent-1)), 0, 60).Draw(t, "came")
		if sent == 0 {
			came = nil
		}
		f := flow{sent: uint32(sent)} //nolint:gosec // small
		var seen []int
		for _, n := range came {
			want := inOrder
			switch {
			case slices.Contains(seen, n):
				want = doubled
			case slices.ContainsFunc(seen, func(other int) bool { return other > n }):
				want = reordered
			}
			if got := f.received(uint32(n)); got != want { //nolint:gosec // small
				t.Fatalf("%d after %v: verdict %d, want %d", n, seen, got, want)
			}
			if want != doubled {
				seen = append(seen, n)
			}
		}
		if f.absent() != sent-len(seen) {
			t.Fatalf("%d are absent of %d, but %d came", f.absent(), sent, len(seen))
		}
	})
}

// A gap of any size costs bounded memory, and is not forgotten.
func TestFlowGap(t *testing.T) {
	t.Parallel()
	f := flow{sent: 1 << 30}
	if f.received(0) != inOrder || f.received(1<<30-1) != inOrder || len(f.missing) > mostMissing {
		t.Errorf("%d are kept", len(f.missing))
	}
	if f.absent() != 1<<30-2 {
		t.Errorf("%d are absent", f.absent())
	}
}

func TestMessage(t *testing.T) {
	t.Parallel()
	const run = "0123abcd"
	for _, size := range []int{minSize, minSize + 1, 100, 256, 5000} {
		f := flow{head: messageHead(run, 7, "o'neil@example.com/r"), sent: 41}
		raw := f.appendMessage(nil, run, 7, int64(3*time.Second), size)
		e, err := xmpp.ParseElement(raw)
		if err != nil {
			t.Fatal(err)
		}
		to, _ := e.Attr("to")
		id, _ := e.Attr("id")
		body, _ := e.Child("", "body")
		if to != "o'neil@example.com/r" || id != run+"-7-41" || len(body.Text()) != size || f.sent != 42 {
			t.Errorf("%s", raw)
		}
		scanner := xmpp.NewFrameScanner(xmpp.Limits{})
		if _, _, err := scanner.Next(raw); err != nil {
			t.Errorf("%v: %s", err, raw)
		}
		want := stamp{flow: 7, n: 41, due: int64(3 * time.Second)}
		for _, sent := range [][]byte{raw, bytes.Replace(raw, []byte("<body>"), []byte("<body xml:lang='en'>"), 1)} {
			if got, ok := readStamp(sent, run); !ok || got != want {
				t.Errorf("read %+v, %t of %s", got, ok, sent)
			}
			if _, ok := readStamp(sent, "ffffffff"); ok {
				t.Error("another run's message is taken for ours")
			}
		}
	}
}

// minSize is enough for the longest stamp.
func TestMinSize(t *testing.T) {
	t.Parallel()
	f := flow{head: []byte("<message id='"), sent: 1<<32 - 1}
	raw := f.appendMessage(nil, "0123abcd", mostSessions*randomPeers, int64(longest), minSize)
	if body := bodyOf(raw); len(body) != minSize+len(bodyEnd) {
		t.Errorf("%d bytes: %s", len(body)-len(bodyEnd), body)
	}
}

func FuzzReadStamp(f *testing.F) {
	const run = "0123abcd"
	f.Add([]byte("<message><body>imlb-bench 0123abcd 7 41 3000 The quick</body></message>"))
	f.Add([]byte("<message><x:body xmlns:x='y'>imlb-bench 0123abcd 7 41 3000</x:body></message>"))
	f.Add([]byte("<message><body>imlb-bench 0123abcd 99999999999999999999 1 1</body></message>"))
	f.Add([]byte("<message/>"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, ok := readStamp(raw, run)
		if !ok {
			return
		}
		if s.due < 0 {
			t.Fatalf("due at %d", s.due)
		}
		again := (&flow{sent: s.n, head: []byte("<message id='")}).appendMessage(nil, run, int(s.flow), s.due, minSize)
		if back, ok := readStamp(again, run); !ok || back != s {
			t.Fatalf("%+v was written as %s and read as %+v", s, again, back)
		}
	})
}

// TestAckWrap: XEP-0198's counts go on at 0 after 2^32 - 1.
func TestAckWrap(t *testing.T) {
	t.Parallel()
	s := newSession(nil, attempt{managed: true}, 0, quiet{})
	s.out.Store(3)
	s.acked.Store(1<<32 - 2)
	if n := s.unacked(); n != 5 {
		t.Errorf("%d are not acknowledged", n)
	}
	for _, tt := range []struct {
		h    string
		good bool
		left uint32
	}{{"4294967295", true, 4}, {"4294967294", false, 4}, {"2", true, 1}, {"4", false, 1}, {"", false, 1}, {"-1", false, 1}, {"3", true, 0}} {
		err := s.takeAck([]byte("<a xmlns='urn:xmpp:sm:3' h='" + tt.h + "'/>"))
		if (err == nil) != tt.good || s.unacked() != tt.left {
			t.Errorf("h=%q: %v, %d left", tt.h, err, s.unacked())
		}
	}
}

// TestDue: the messages of a second are spread over its ticks.
func TestDue(t *testing.T) {
	t.Parallel()
	for _, rate := range []int{1, 7, 1000, 2500, mostRate} {
		for n := range min(rate, 5000) {
			at, next := due(n, rate), due(n+1, rate)
			ideal := int64(time.Duration(n) * time.Second / time.Duration(rate))
			if at > next || at > ideal || ideal-at >= int64(tickLength) {
				t.Fatalf("%d of %d/s is due at %d, the next at %d", n, rate, at, next)
			}
		}
		if due(rate, rate) != int64(time.Second) {
			t.Errorf("%d/s: a second ends at %d", rate, due(rate, rate))
		}
	}
}

package chatload_test

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imlb/backend/chatload"
	"imlb/backend/xmpp"
)

func TestMessages(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		tune func(*chatload.Options)
	}{
		{"Window", func(*chatload.Options) {}},
		{"Rate", func(o *chatload.Options) { o.Rate = 500 }},
		{"Random", func(o *chatload.Options) { o.Peers = chatload.Random }},
		{"Sessions", func(o *chatload.Options) { o.Sessions = 10 }},
		{"STARTTLS", func(o *chatload.Options) { o.TLS = chatload.StartTLS }},
		{"Long", func(o *chatload.Options) { o.Size = 20_000 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := newFake(t, nil).options(4)
			tt.tune(&o)
			r := runUntil(t, o, func(r *chatload.Result) bool { return r.Latency != nil && r.Messages.PerSecond > 0 })
			m := r.Messages
			if !r.OK() || m.Sent == 0 || m.Delivered != m.Sent || m.PerSecond <= 0 || !r.Managed {
				t.Errorf("%+v, messages %+v", r, m)
			}
			if l := r.Latency; l == nil || l.Count == 0 || l.P50 <= 0 || l.P50 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max {
				t.Errorf("latency %+v", l)
			}
			if most := float64(o.Rate) * (r.Seconds + 1); o.Rate > 0 && (m.Sent < 20 || float64(m.Sent) > most) { // on a busy machine, too
				t.Errorf("%d messages were sent at %d/s in %.1f s", m.Sent, o.Rate, r.Seconds)
			}
		})
	}
}

// nth calls harm for the n-th message of the first sender, and delivers the others.
func nth(n int, harm func(f *fake, from, to, raw string)) func(*fake, string, string, string) {
	var mu sync.Mutex
	count := 0
	return func(f *fake, from, to, raw string) {
		mine := false
		if strings.HasPrefix(from, "user1@") {
			mu.Lock()
			count++
			mine = count == n
			mu.Unlock()
		}
		if mine {
			harm(f, from, to, raw)
		} else {
			f.deliver(to, raw)
		}
	}
}

// TestHarm: what a server does to messages is seen.
func TestHarm(t *testing.T) {
	t.Parallel()
	refusal := func(raw string) string {
		return string((&xmpp.StanzaError{Condition: xmpp.ServiceUnavailable}).AppendReply(nil, []byte(raw)))
	}
	for _, tt := range []struct {
		name  string
		route func(f *fake, from, to, raw string)
		want  chatload.MessageCounts
	}{
		{"Lost", nth(10, func(*fake, string, string, string) {}), chatload.MessageCounts{Lost: 1}},
		{"Doubled", nth(10, func(f *fake, _, to, raw string) { f.deliver(to, raw); f.deliver(to, raw) }), chatload.MessageCounts{Doubled: 1}},
		{"Refused", nth(10, func(f *fake, from, _, raw string) { f.deliver(from, refusal(raw)) }), chatload.MessageCounts{Refused: 1}},
		{"ReturnedWhole", nth(10, func(f *fake, from, _, raw string) { f.deliver(from, strings.Replace(raw, "'chat'", "'error'", 1)) }), chatload.MessageCounts{Refused: 1}},
		{"Reordered", swap(10), chatload.MessageCounts{Reordered: 1}},
		{"LostAtTheEnd", after(20), chatload.MessageCounts{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := newFake(t, func(f *fake) { f.route = tt.route }).options(2)
			o.Rate, o.Timeout, o.Duration = 300, 3*time.Second, 500*time.Millisecond
			r := run(t, o)
			m := *r.Messages
			if r.OK() {
				t.Error("nothing was seen")
			}
			if tt.name == "LostAtTheEnd" {
				if m.Lost == 0 || int64(m.Lost) != m.Sent-m.Delivered {
					t.Errorf("%+v", m)
				}
				return
			}
			if m.Lost != tt.want.Lost || m.Doubled != tt.want.Doubled || m.Reordered != tt.want.Reordered || m.Refused != tt.want.Refused || m.Unacked != 0 {
				t.Errorf("%+v", m)
			}
		})
	}
}

// swap has the n-th message of the first sender overtaken by the next.
func swap(n int) func(*fake, string, string, string) {
	var mu sync.Mutex
	count, held := 0, ""
	return func(f *fake, from, to, raw string) {
		if !strings.HasPrefix(from, "user1@") {
			f.deliver(to, raw)
			return
		}
		mu.Lock()
		count++
		late := held
		if held = ""; count == n {
			held = raw
		}
		mu.Unlock()
		if count != n {
			f.deliver(to, raw)
		}
		if late != "" {
			f.deliver(to, late)
		}
	}
}

// after loses all messages of the first sender from the n-th on.
func after(n int) func(*fake, string, string, string) {
	var mu sync.Mutex
	count := 0
	return func(f *fake, from, to, raw string) {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(from, "user1@") {
			count++
		}
		if count < n || !strings.HasPrefix(from, "user1@") {
			f.deliver(to, raw)
		}
	}
}

// TestMisdelivered: so is a message that comes to somebody else.
func TestMisdelivered(t *testing.T) {
	t.Parallel()
	route := nth(5, func(f *fake, _, _, raw string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for jid, c := range f.conns {
			if strings.HasPrefix(jid, "user3@") {
				c.say("%s", raw)
			}
		}
	})
	o := newFake(t, func(f *fake) { f.route = route }).options(4)
	o.Rate, o.Timeout, o.Duration = 300, 3*time.Second, 500*time.Millisecond
	r := run(t, o)
	if r.Errors["1 messages came to somebody else"] != 1 || r.Messages.Lost != 1 {
		t.Errorf("%+v, %v", r.Messages, r.Errors)
	}
}

// TestAcks: XEP-0198's counts are checked.
func TestAcks(t *testing.T) {
	t.Parallel()
	t.Run("None", func(t *testing.T) {
		t.Parallel()
		o := newFake(t, func(f *fake) { f.unmanaged = true }).options(2)
		if r := run(t, o); !r.OK() || r.Managed || r.Messages.Unacked != 0 {
			t.Errorf("%+v, %+v", r, r.Messages)
		}
	})
	t.Run("TooFew", func(t *testing.T) {
		t.Parallel()
		o := newFake(t, func(f *fake) { f.ack = func(n uint32) uint32 { return n - 2 } }).options(2)
		o.Timeout = 2 * time.Second
		if r := run(t, o); r.OK() || r.Messages.Unacked != 4 {
			t.Errorf("%+v", r.Messages)
		}
	})
	t.Run("TooMany", func(t *testing.T) {
		t.Parallel()
		o := newFake(t, func(f *fake) { f.ack = func(n uint32) uint32 { return n + 1000 } }).options(2)
		o.Timeout = 2 * time.Second
		r := run(t, o)
		kinds := strings.Join(slices.Collect(maps.Keys(r.Errors)), " ")
		if r.OK() || !strings.Contains(kinds, "the server acknowledges") {
			t.Errorf("%v", r.Errors)
		}
	})
}

// TestDisconnected: sessions that the server ends are errors by kind, and the run ends.
func TestDisconnected(t *testing.T) {
	t.Parallel()
	route := nth(5, func(f *fake, from, _, _ string) {
		f.deliver(from, "<stream:error><conflict xmlns='"+xmpp.NSStreams+"'/></stream:error>")
	})
	o := newFake(t, func(f *fake) { f.route = route }).options(2)
	o.Timeout = 2 * time.Second
	if r := run(t, o); r.OK() || r.Errors["stream error conflict"] != 1 {
		t.Errorf("%v", r.Errors)
	}
}

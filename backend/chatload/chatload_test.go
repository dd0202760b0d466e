package chatload_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"imlb/backend/chatload"
	"imlb/backend/xmpp"
)

func TestLogins(t *testing.T) {
	t.Parallel()
	for _, mechanism := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", ""} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			o := newFake(t, nil).options(3)
			o.Workload, o.Mechanism, o.Connecting, o.Duration = chatload.Logins, mechanism, 4, 500*time.Millisecond
			r := runUntil(t, o, func(r *chatload.Result) bool { return r.Logins.Done > 0 })
			want := mechanism
			if want == "" {
				want = "SCRAM-SHA-512" // the strongest
			}
			if !r.OK() || r.Mechanism != want || r.Logins.Done == 0 || r.Latency == nil {
				t.Errorf("%+v, %+v", r, r.Logins)
			}
		})
	}
}

// TestLoginsResumed: TLS sessions are gone on with only if that is wanted.
func TestLoginsResumed(t *testing.T) {
	t.Parallel()
	for _, resume := range []bool{false, true} {
		f := newFake(t, nil)
		o := f.options(2)
		o.Workload, o.TLS, o.Resume, o.Rate, o.Duration = chatload.Logins, chatload.StartTLS, resume, 100, 400*time.Millisecond
		o.Connecting = 2
		r := runUntil(t, o, func(r *chatload.Result) bool { return r.Logins.Done > 0 && (r.Logins.Resumed > 0 || !resume) })
		f.mu.Lock()
		resumed := f.resumed
		f.mu.Unlock()
		if !r.OK() || r.Logins.Done == 0 || (r.Logins.Resumed > 0) != resume || (resumed > 0) != resume {
			t.Errorf("resume %t: %+v, %d at the server, %v", resume, r.Logins, resumed, r.Errors)
		}
	}
}

// TestLoginFails: nobody who cannot log in is measured.
func TestLoginFails(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		tune func(*fake)
		set  func(*chatload.Options)
		want string
	}{
		{"Password", nil, func(o *chatload.Options) { o.Accounts[1].Password = "wrong" }, "login"},
		{"Plain", nil, func(o *chatload.Options) { o.Accounts[1].Password, o.Mechanism = "wrong", "PLAIN" }, "not-authorized"},
		{"Mechanism", func(f *fake) { f.mechs = []string{"PLAIN"} }, func(o *chatload.Options) { o.Mechanism = "SCRAM-SHA-1" }, "not among those offered"},
		{"Authority", nil, func(o *chatload.Options) { o.TLS, o.TLSConfig = chatload.StartTLS, nil }, "STARTTLS"},
		{"NotTLS", nil, func(o *chatload.Options) { o.TLS = chatload.DirectTLS }, "TLS"},
		{
			"StreamError", func(f *fake) {
				f.greet = func(c *fakeConn) { c.say("<stream:error><reset xmlns='%s'/></stream:error>", xmpp.NSStreams) }
			},
			func(*chatload.Options) {}, "stream error: reset",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, w := range []chatload.Workload{chatload.Logins, chatload.Messages, chatload.Idle, chatload.Archive} {
				o := newFake(t, tt.tune).options(2)
				o.Workload, o.Timeout = w, 5*time.Second
				tt.set(&o)
				if w == chatload.Archive { // which the first user alone reads
					slices.Reverse(o.Accounts)
				}
				_, err := chatload.Run(t.Context(), o)
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: %v", w, err)
				}
			}
		})
	}
}

func TestIdle(t *testing.T) {
	t.Parallel()
	o := newFake(t, nil).options(4)
	o.Workload, o.Sessions = chatload.Idle, 12
	if r := run(t, o); !r.OK() || r.Sessions != 12 || r.Memory != nil { // of no process
		t.Errorf("%+v", r)
	}
}

func TestArchive(t *testing.T) {
	t.Parallel()
	t.Run("Filled", func(t *testing.T) {
		t.Parallel()
		var mu sync.Mutex
		written := 0
		f := newFake(t, func(f *fake) {
			f.route = func(f *fake, _, to, raw string) {
				mu.Lock()
				if strings.HasPrefix(to, "user1@") {
					written++
				}
				mu.Unlock()
				f.deliver(to, raw)
			}
		})
		o := f.options(3)
		o.Workload, o.Preload, o.Queries = chatload.Archive, 700, 30
		r := run(t, o)
		if a := r.Archive; !r.OK() || a.Filled != 700 || a.Entries != 30*50 || r.Latency.Count != 30 || written != 700 {
			t.Errorf("%+v, %d written", a, written)
		}
		if a := r.Archive; a.Changed != 0 || len(a.Newest) != 50 || a.Newest[0] != "0" || a.Newest[49] != "49" {
			t.Errorf("%+v", a)
		}
	})
	t.Run("Changed", func(t *testing.T) { // by one message on the last of the pages that count
		t.Parallel()
		entries := 0
		o := newFake(t, func(f *fake) {
			f.entry = func(i int) string {
				if entries++; entries > (20+29)*50 {
					i++
				}
				return strconv.Itoa(i)
			}
		}).options(1)
		o.Workload, o.Queries = chatload.Archive, 30
		if a := run(t, o).Archive; a.Changed != 1 || a.Newest[49] != "50" {
			t.Errorf("%+v", a)
		}
	})
	t.Run("Short", func(t *testing.T) { // the server keeps some of it to itself
		t.Parallel()
		o := newFake(t, func(f *fake) { f.page = func(n int) int { return n - 1 } }).options(2)
		o.Workload, o.Preload = chatload.Archive, 100
		if _, err := chatload.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "49 entries instead of 50") {
			t.Error(err)
		}
	})
	t.Run("Lost", func(t *testing.T) {
		t.Parallel()
		o := newFake(t, func(f *fake) { f.route = nth(5, func(*fake, string, string, string) {}) }).options(2)
		slices.Reverse(o.Accounts) // so that the first writes
		o.Workload, o.Preload, o.Timeout = chatload.Archive, 100, 2*time.Second
		if _, err := chatload.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "after 99 messages") {
			t.Error(err)
		}
	})
}

// TestCancelled: a run that is broken off leaves nothing behind.
func TestCancelled(t *testing.T) {
	t.Parallel()
	for _, w := range []chatload.Workload{chatload.Messages, chatload.Logins, chatload.Idle} {
		o := newFake(t, nil).options(2)
		o.Workload, o.Duration = w, time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if _, err := chatload.Run(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", w, err)
		}
		cancel()
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	good := newFake(t, nil).options(2)
	for name, break_ := range map[string]func(*chatload.Options){
		"server":    func(o *chatload.Options) { o.Servers = nil },
		"domain":    func(o *chatload.Options) { o.Domain = "" },
		"account":   func(o *chatload.Options) { o.Accounts = nil },
		"pairs":     func(o *chatload.Options) { o.Sessions = 3 },
		"alone":     func(o *chatload.Options) { o.Accounts, o.Peers = o.Accounts[:1], chatload.Random },
		"mechanism": func(o *chatload.Options) { o.Mechanism = "CRAM-MD5" },
		"window":    func(o *chatload.Options) { o.Window = 0 },
		"rate":      func(o *chatload.Options) { o.Rate = -1 },
		"size":      func(o *chatload.Options) { o.Size = 10 },
		"long":      func(o *chatload.Options) { o.Duration = 48 * time.Hour },
		"workload":  func(o *chatload.Options) { o.Workload = "nothing" },
		"page":      func(o *chatload.Options) { o.Workload, o.Page = chatload.Archive, 0 },
		"preload":   func(o *chatload.Options) { o.Workload, o.Preload, o.Accounts = chatload.Archive, 1, o.Accounts[:1] },
	} {
		o := good
		break_(&o)
		if _, err := chatload.Run(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestResultWritten(t *testing.T) {
	t.Parallel()
	o := newFake(t, nil).options(2)
	r := runUntil(t, o, func(r *chatload.Result) bool { return r.Latency != nil })
	r.Errors = map[string]int{"closed by the server": 3}
	var text, object strings.Builder
	if err := errors.Join(r.WriteText(&text), r.WriteJSON(&object)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"messages, 2 sessions", "0 lost, 0 doubled, 0 out of order", "acknowledged  all", "p99.9", "closed by the server: 3"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	var back chatload.Result
	if err := json.Unmarshal([]byte(object.String()), &back); err != nil || *back.Messages != *r.Messages || *back.Latency != *r.Latency {
		t.Errorf("%v, %+v", err, back)
	}
	if r.OK() {
		t.Error("a result with errors is in order")
	}
}

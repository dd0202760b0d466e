package backend

import (
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// TestFailures plays logins at times that are given, in seconds.
func TestFailures(t *testing.T) {
	here, there := sourceOf("192.0.2.7:1"), sourceOf("198.51.100.1:1")
	type step struct {
		at     int
		do     string // fail, forget, or the wait that is expected
		user   string
		source netip.Prefix
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"the wait doubles up to the most", []step{
			{0, "0s", "alice", here},
			{0, "fail", "alice", here},
			{0, "fail", "alice", here},
			{0, "0s", "alice", here},
			{0, "fail", "alice", here},
			{0, "1s", "alice", here},
			{1, "0s", "alice", here},
			{1, "fail", "alice", here},
			{1, "2s", "alice", here},
			{3, "fail", "alice", here},
			{3, "4s", "alice", here},
			{7, "fail", "alice", here},
			{7, "5s", "alice", here},
			{9, "3s", "alice", here},
		}},
		{"neither another user nor another place waits", []step{
			{0, "fail", "alice", here},
			{0, "fail", "alice", here},
			{0, "fail", "alice", here},
			{0, "1s", "alice", here},
			{0, "0s", "bob", here},
			{0, "0s", "alice", there},
			{0, "0s", "", here},
		}},
		{"a source that tries many names", []step{
			{0, "fail", "a", here},
			{0, "fail", "b", here},
			{0, "fail", "c", here},
			{0, "fail", "d", here},
			{0, "0s", "e", here},
			{0, "fail", "e", here},
			{0, "1s", "f", here},
			{0, "1s", "", here},
			{0, "0s", "f", there},
			{0, "forget", "f", here},
			{0, "1s", "f", here},
		}},
		{"a success forgets", []step{
			{0, "fail", "alice", here},
			{0, "fail", "alice", here},
			{0, "fail", "alice", here},
			{1, "forget", "alice", here},
			{1, "fail", "alice", here},
			{1, "0s", "alice", here},
		}},
		{"time forgets", []step{
			{0, "fail", "alice", here},
			{0, "fail", "alice", here},
			{59, "fail", "alice", here},
			{59, "1s", "alice", here},
			{119, "0s", "alice", here},
			{119, "fail", "alice", here},
			{119, "0s", "alice", here},
		}},
		{"an unknown source", []step{
			{0, "fail", "alice", netip.Prefix{}},
			{0, "fail", "alice", netip.Prefix{}},
			{0, "fail", "alice", netip.Prefix{}},
			{0, "fail", "bob", netip.Prefix{}},
			{0, "fail", "bob", netip.Prefix{}},
			{0, "1s", "alice", netip.Prefix{}},
			{0, "0s", "bob", netip.Prefix{}},
		}},
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFailures(Backoff{Free: 2, SourceFree: 4, First: time.Second, Max: 5 * time.Second, Window: time.Minute})
			for i, s := range tt.steps {
				now := start.Add(time.Duration(s.at) * time.Second)
				switch s.do {
				case "fail":
					f.fail(now, s.user, s.source)
				case "forget":
					f.forget(s.user, s.source)
				default:
					if got := f.wait(now, s.user, s.source).String(); got != s.do {
						t.Errorf("step %d: %s has to wait for %s, want %s", i, s.user, got, s.do)
					}
				}
			}
		})
	}
}

func TestFailuresAreBounded(t *testing.T) {
	f := newFailures(Backoff{First: time.Second, Max: time.Hour, Window: time.Hour})
	f.most = 10
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 1000 {
		f.fail(now, "user-"+strconv.Itoa(i), netip.Prefix{})
		f.fail(now, "alice", netip.Prefix{})
	}
	if n := len(f.young) + len(f.old); n > 20 {
		t.Errorf("%d are remembered, want at most 20", n)
	}
	if got := f.wait(now, "alice", netip.Prefix{}); got != time.Hour {
		t.Errorf("who fails again and again has to wait for %v, want %v", got, time.Hour)
	}
}

func TestNoBackoff(t *testing.T) {
	f := newFailures(Backoff{})
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for range 100 {
		f.fail(now, "alice", sourceOf("192.0.2.7:1"))
	}
	f.forget("bob", netip.Prefix{})
	if got := f.wait(now, "alice", sourceOf("192.0.2.7:1")); got != 0 {
		t.Errorf("got a wait of %v", got)
	}
}

func TestSourceOf(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7:5222":              "192.0.2.7/32",
		"[::ffff:192.0.2.7]:5222":     "192.0.2.7/32",
		"[2001:db8:1:2:3:4:5:6]:5222": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:5222":         "fe80::/64",
		"/run/front.sock":             "invalid Prefix",
		"":                            "invalid Prefix",
	} {
		if got := sourceOf(address).String(); got != want {
			t.Errorf("source of %q is %s, want %s", address, got, want)
		}
	}
}

package test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// strophe starts a client of Strophe.js on BOSH.
func strophe(t *testing.T, d *dev, a account) (*process, *events) {
	t.Helper()
	service := "https://" + strings.Replace(d.Front.HTTPS, "127.0.0.1", d.Domain, 1) + "/http-bind"
	return runNode(t, d, "strophe", "strophe.mjs", service, a)
}

// testStrophe: a web client on BOSH logs in by SCRAM, talks with one on TCP, and leaves.
func testStrophe(t *testing.T, d *dev) {
	alice, bob := d.account(t), d.account(t)
	s := d.dialTLS(t)
	s.session(d.Domain, "PLAIN", bob)
	s.write("<presence/>")

	p, js := strophe(t, d, alice)
	online := js.await("online", nil)
	for i := range 20 {
		body := fmt.Sprintf("guten Tag, 世界 & <you> %d", i)
		fmt.Fprintf(p.stdin, "%s %s\n", bob.jid, body)
		if m := s.message(); m.body() != body || m.attr("from") != online.JID {
			t.Errorf("received %q from %q; want what %s had sent", m.body(), m.attr("from"), online.JID)
		}
		s.write("<message to='%s' type='chat'><body>answer %d</body></message>", online.JID, i)
		js.awaitBody(fmt.Sprint("answer ", i))
	}
	for i := range 100 { // in as few answers as it takes
		s.write("<message to='%s' type='chat'><body>more %d</body></message>", online.JID, i)
	}
	js.awaitBody("more 99")
	bodies := make([]string, 0, 120)
	for _, m := range js.history("message") {
		bodies = append(bodies, m.Body)
	}
	want := make([]string, 0, 120)
	for i := range 20 {
		want = append(want, fmt.Sprint("answer ", i))
	}
	for i := range 100 {
		want = append(want, fmt.Sprint("more ", i))
	}
	if fmt.Sprint(bodies) != fmt.Sprint(want) {
		t.Errorf("Strophe.js received %q", bodies)
	}
	_ = p.stdin.Close()
	js.await("offline", nil)
	r := d.awaitRecord(t, "of "+alice.jid, func(r record) bool { return r.text("user") == alice.jid })
	if r.text("reason") != "client-closed" || r.text("transport") != "bosh" || !strings.HasPrefix(r.text("mechanism"), "SCRAM-SHA-") {
		t.Errorf("session record %v: want reason client-closed on bosh, by SCRAM", r)
	}
}

// TestBOSHNodeEnds ends the node of a web client that is sent messages: killed, and stopped in
// order. The client is told so each time, comes back, and misses nothing.
func TestBOSHNodeEnds(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDev(t, devOptions{users: 2, args: []string{"--nodes", "3"}})
			alice, bob := d.account(t), d.account(t)
			_, js := strophe(t, d, alice)
			js.await("online", nil)
			says := func(from, to int) {
				s := d.dialTLS(t)
				defer s.close()
				s.session(d.Domain, "PLAIN", bob)
				for i := from; i < to; i++ {
					s.write("<message to='%s' type='chat'><body>%d</body></message>", alice.jid, i)
				}
				s.sync(d)
			}
			says(0, 10)
			js.awaitBody("9")
			d.end(t, placement(t, d, alice), signal)
			if got := js.await("offline", nil); got.Condition == "" {
				t.Errorf("Strophe.js was not told why: %+v", got)
			}
			says(10, 20)
			js.await("online", nil)
			js.awaitBody("19")
			wantInOrder(t, js, 20)
		})
	}
}

// wantInOrder checks that the numbers up to n have come, each at least once, and each for the
// first time in its order.
func wantInOrder(t *testing.T, e *events, n int) {
	t.Helper()
	seen := make(map[string]bool)
	next := 0
	for _, m := range e.history("message") {
		switch {
		case m.Body == fmt.Sprint(next):
			next++
		case !seen[m.Body]:
			t.Errorf("%s came before %d", m.Body, next)
		}
		seen[m.Body] = true
	}
	if next != n {
		t.Errorf("%d messages have come, want %d:\n%s", next, n, e)
	}
}

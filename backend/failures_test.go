package backend_test

import (
	"strings"
	"testing"
	"time"

	"imlb/backend"
)

// Who has failed too often waits, and nobody else. The right password in time does not
// help.
func TestFailedLoginsWait(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) {
		o.Backoff = backend.Backoff{Free: 2, SourceFree: 4, First: time.Hour, Max: time.Hour, Window: 2 * time.Hour}
		o.Limits.AuthTries = 100
	})
	const wait = "<temporary-auth-failure/><text xml:lang='en'>too many failed logins; wait for 1h0m0s</text>"
	steps := []struct{ source, name, pass, want string }{
		{"192.0.2.7", "alice", "pen", "<not-authorized/>"},
		{"192.0.2.7", "alice", "pen", "<not-authorized/>"},
		{"192.0.2.7", "alice", password, "^<success "}, // forgets them
		{"192.0.2.7", "alice", "pen", "<not-authorized/>"},
		{"192.0.2.7", "alice", "pen", "<not-authorized/>"},
		{"192.0.2.8", "alice", "pen", "<not-authorized/>"},
		{"192.0.2.7", "bob", password, "^<success "},
		{"192.0.2.8", "alice", "pen", "<not-authorized/>"},
		{"192.0.2.8", "alice", "pen", "<not-authorized/>"},
		{"192.0.2.8", "alice", password, wait},
		{"192.0.2.8", "bob", password, "^<success "},
		{"192.0.2.7", "nobody", "pen", "<not-authorized/>"}, // the fifth of this source
		{"192.0.2.7", "bob", password, wait},
		{"192.0.2.9", "alice", password, "^<success "},
	}
	for i, s := range steps {
		cl := c.dial(0, leg{source: s.source})
		cl.open()
		cl.write(auth("PLAIN", b64("\x00"+s.name+"\x00"+s.pass)))
		if got := cl.next(); !strings.Contains(got, strings.TrimPrefix(s.want, "^")) {
			t.Errorf("step %d, %s from %s: got %s, want %s", i, s.name, s.source, got, s.want)
		}
		_ = cl.conn.Close()
	}
}

func TestScramFailuresCount(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) {
		o.Backoff = backend.Backoff{Free: 0, SourceFree: 100, First: time.Hour, Max: time.Hour, Window: time.Hour}
	})
	cl := c.dial(0, leg{})
	cl.open()
	cl.write(auth("SCRAM-SHA-256", b64("n=alice"))) // a mistake of the client's, and no guess
	cl.expect("<malformed-request/>")
	cl.write(auth("SCRAM-SHA-256", b64("n,,n=alice,r=nonce")))
	challenge := payload(t, cl.expect("^<challenge "))
	nonce, _, _ := strings.Cut(challenge, ",")
	cl.write("<response xmlns='" + nsSASL + "'>" + b64("c=biws,"+nonce+",p="+b64(strings.Repeat("x", 32))) + "</response>")
	cl.expect("<not-authorized/>")
	cl.write(auth("PLAIN", b64("\x00alice\x00"+password)))
	cl.expect("<temporary-auth-failure/>")
}

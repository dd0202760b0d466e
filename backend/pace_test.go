package backend_test

import (
	"strings"
	"testing"
	"time"

	"imlb/backend"
)

const domainPing = "<iq type='get' id='p' to='" + domain + "'><ping xmlns='urn:xmpp:ping'/></iq>"

// Who is over a rate is answered later, and nothing is lost.
func TestThrottled(t *testing.T) {
	const burst = 10 * time.Millisecond
	for limit, r := range map[string]backend.Rates{
		"session_stanzas": {Stanzas: 50, Burst: burst},
		"session_bytes":   {Bytes: 50 * len(domainPing), Burst: burst},
		"user_stanzas":    {UserStanzas: 50, Burst: burst},
		"user_bytes":      {UserBytes: 50 * len(domainPing), Burst: burst},
	} {
		t.Run(limit, func(t *testing.T) {
			c := newCluster(t, 1, func(o *backend.Options) { o.Limits.Rates = r })
			alice, bob := c.login(0, "alice", "phone"), c.login(0, "bob", "phone")
			began := time.Now()
			alice.write(strings.Repeat(domainPing, 20))
			bob.sync()
			for range 20 {
				alice.expect("^<iq type='result' id='p'")
			}
			if took := time.Since(began); took < 300*time.Millisecond {
				t.Errorf("20 stanzas took %v at 50 in a second", took)
			}
			if c.counter(0, "imlb_node_throttled_total", map[string]string{"limit": limit}) == 0 {
				t.Error("it is not counted")
			}
		})
	}
}

// The sessions of a user share its rate.
func TestThrottledTogether(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) {
		o.Limits.Rates = backend.Rates{UserStanzas: 50, Burst: 10 * time.Millisecond}
	})
	phone, desk := c.login(0, "alice", "phone"), c.login(0, "alice", "desk")
	began := time.Now()
	phone.write(strings.Repeat(domainPing, 10))
	desk.write(strings.Repeat(domainPing, 10))
	for range 10 {
		phone.expect("^<iq type='result' id='p'")
		desk.expect("^<iq type='result' id='p'")
	}
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("20 stanzas took %v at 50 in a second", took)
	}
}

// Who sends as fast as it may for too long is ended.
func TestFlood(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) {
		o.Limits.Rates = backend.Rates{Stanzas: 100, Burst: 10 * time.Millisecond, Throttled: 100 * time.Millisecond}
	})
	alice := c.login(0, "alice", "phone")
	alice.write(strings.Repeat(domainPing, 1000))
	if e := alice.skipTo("^<stream:error"); !strings.Contains(e, "<policy-violation ") {
		t.Errorf("got %s", e)
	}
	c.eventually("the log line", func() bool { return strings.Contains(c.nodes[0].log.String(), "reason=flood") })
}

// A session that waits ends at once when it has to.
func TestThrottledSessionEnds(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.Rates = backend.Rates{Bytes: 1, Burst: time.Second} })
	alice := c.login(0, "alice", "phone")
	alice.write(domainPing) // more than a minute's worth
	c.eventually("it waits", func() bool {
		return c.counter(0, "imlb_node_throttled_total", map[string]string{"limit": "session_bytes"}) > 0
	})
	began := time.Now()
	c.stopNode(c.nodes[0])
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the node took %v to stop", took)
	}
	alice.end("system-shutdown")
}

package backend_test

import (
	"strings"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
)

// restless has sessions sleep after a few milliseconds.
func restless(o *backend.Options) { o.Timeouts.Idle, o.Timeouts.Ping = time.Hour, 40*time.Millisecond }

// asleep waits until so many sessions of the node sleep.
func (c *cluster) asleep(want float64) {
	c.t.Helper()
	c.eventually("sessions sleep", func() bool { return c.counter(0, "imlb_node_sessions_asleep", nil) == want })
}

// What a sleeping session's client says is heard, and what comes for it is delivered.
func TestSleep(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, restless)
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	for range 3 {
		c.asleep(2)
		alice.write("<message to='bob@example.com' type='chat'><body>hello</body></message>")
		bob.expect("<body>hello</body>")
		alice.sync()
	}
	c.asleep(2)
	alice.write("<message to='bob@example.com' type='ch") // in two parts, with a sleep between
	c.asleep(2)
	alice.write("at'><body>later</body></message>")
	bob.expect("<body>later</body>")
	c.asleep(2)
	alice.close()
	bob.sync()
	c.eventually("the log line", func() bool { return strings.Contains(c.nodes[0].log.String(), "reason=client-closed") })
}

// A sleeping session ends when its connection does, and when the node wants it to.
func TestSleepEnds(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, restless)
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	c.asleep(2)
	_ = alice.conn.Close()
	c.gone("alice")
	c.asleep(1)
	other := c.login(0, "bob", "desk")
	bob.end("conflict")
	other.sync()
	c.asleep(1)
	c.suspend("bob", store.AccountState{})
	other.end("policy-violation")
	c.gone("bob")
	c.asleep(0)
}

// A client that says nothing is asked, although its session sleeps, and given up.
func TestSleepAlarm(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(o *backend.Options) { o.Timeouts.Idle, o.Timeouts.Ping = time.Second, time.Second })
	alice := c.login(0, "alice", "phone")
	for range 2 {
		ping := alice.expect("^<iq .*<ping ")
		alice.write("<iq type='result' id='" + between(ping, "id='", "'") + "'/>")
	}
	alice.expect("^<iq .*<ping ")
	alice.end("connection-timeout")
}

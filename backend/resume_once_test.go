package backend_test

import (
	"fmt"
	"slices"
	"testing"
)

// What a client has not received comes to it where it resumes its session, although another client of the user has received it, and
// this one has become unavailable and available since it was written.
func TestReceivedByAnother(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed: ", killed), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, nil)
			bob := c.online(2, "bob", "desk")
			phone, tab := c.online(0, "alice", "phone"), c.online(0, "alice", "tab")
			tab.write(smResumable)
			id := between(tab.skipTo("^<enabled "), "id='", "'")
			bob.write(say("alice", "one"))
			phone.skipTo("<body>one</body>")
			c.eventually("it is received", func() bool { _, delivered := c.head("alice"); return delivered == 1 })
			tab.skipTo("<body>one</body>") // and does not acknowledge that
			tab.write("<presence type='unavailable'/><presence/>" + smAsk)
			tab.skipTo("^<a ")
			if killed {
				c.die()
			} else {
				_ = tab.conn.Close()
			}
			again := c.returns(1, "alice")
			again.resume(id, 0)
			again.skipTo("^<resumed ")
			bob.write(say("alice", "last"))
			if got := again.bodies("last"); !slices.Equal(got, []string{"one"}) {
				t.Errorf("got %q", got)
			}
		})
	}
}

package backend_test

import (
	"testing"

	"imlb/backend"
)

// Who writes to a client on another node does not have the store asked each time whether it is
// there. When it has left, another one of the user gets what was meant for it.
func TestWriteToResourceOnAnotherNode(t *testing.T) {
	t.Parallel()
	counts := &lookupStore{}
	c := newCluster(t, 2, func(o *backend.Options) {
		if o.Name == "node-1" {
			counts.Store, o.Store = o.Store, counts
		}
	})
	alice, tab := c.online(0, "alice", "phone"), c.online(1, "bob", "tab")
	send := func(body string) {
		alice.write("<message to='bob@example.com/tab' type='chat'><body>" + body + "</body></message>")
	}
	send("0")
	tab.expect("<body>0</body>")
	before := counts.asked.Load()
	send("1")
	send("2")
	tab.expect("<body>1</body>")
	tab.expect("<body>2</body>")
	if n := counts.asked.Load() - before; n != 0 {
		t.Errorf("the store was asked %d times for one that was there a moment ago", n)
	}
	desk := c.online(1, "bob", "desk")
	tab.close()
	desk.skipTo("^<presence type='unavailable' .*from='bob@example.com/tab'")
	send("3")
	desk.expect("<body>3</body>")
	desk.sync()
}

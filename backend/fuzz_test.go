package backend_test

import (
	"errors"
	"net"
	"testing"
)

// FuzzClient writes anything after login. The node must answer or end the stream,
// and go on to serve others.
func FuzzClient(f *testing.F) {
	for _, seed := range []string{
		"<presence/>", "<presence type='subscribe' to='bob@example.com'/>", getRoster, smEnable + smAsk,
		"<message to='bob@example.com/x'><body>x</body></message>", "<message><stanza-id xmlns='urn:xmpp:sid:0' by='x'/></message>",
		"<iq type='set' id='1'><query xmlns='jabber:iq:roster'><item jid='bob@example.com'><group>x</group></item></query></iq>",
		"<a xmlns='urn:xmpp:sm:3' h='0'/>", "<iq id='1' type='get' to='bob@example.com/desk'><x/></iq>", "</stream:stream>",
		"<presence><priority>-1</priority></presence>", "<presence to='bob@example.com'/>", "<iq/>", "<message type='error'/>",
	} {
		f.Add(seed)
	}
	c := newCluster(f, 1, nil)
	f.Fuzz(func(t *testing.T, input string) {
		c.t = t
		alice := c.login(0, "alice", "fuzz")
		alice.write(input + "</stream:stream>")
		if err := alice.conn.(*net.TCPConn).CloseWrite(); err != nil { // the end may be inside of something
			t.Fatal(err)
		}
		for {
			if _, err := alice.read(); err != nil {
				var timeout net.Error
				if errors.As(err, &timeout) && timeout.Timeout() {
					t.Fatal("the node does not end the stream")
				}
				break
			}
		}
		_ = alice.conn.Close()
		c.t = f
	})
}

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
		getBlocklist, "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='bob@example.com/x'><report xmlns='urn:xmpp:reporting:1' reason='x'/></item></block></iq>" +
			"<message to='bob@example.com/x'/><iq type='set' id='u'><unblock xmlns='urn:xmpp:blocking'/></iq>",
		"<iq type='set' id='p'><query xmlns='jabber:iq:private'><a xmlns='urn:a'>x</a></query></iq><iq type='get' id='g'><query xmlns='jabber:iq:private'><a xmlns='urn:a'/></query></iq>",
		"<iq type='set' id='v'><vCard xmlns='vcard-temp'><FN>x</FN></vCard></iq><iq type='get' id='g' to='bob@example.com'><vCard xmlns='vcard-temp'/></iq>",
		"<iq type='get' id='i' to='example.com'><query xmlns='http://jabber.org/protocol/disco#info' node='x'/></iq>",
		"<presence type='probe' to='bob@example.com/x'/>", "<presence type='unsubscribe' to='bob@example.com'/>",
		"<iq type='set' id='1'><query xmlns='urn:xmpp:mam:2'><x xmlns='jabber:x:data' type='submit'>" + mamForm + field("with", "a@b/c") + field("ids", "1", "2") +
			field("start", "2010-06-07T00:00:00Z") + field("after-id", "1") + "</x>" + rsm("<max>3</max><before>2</before><index>1</index>") + "<flip-page/></query></iq>",
		"<iq type='set' id='1'><prefs xmlns='urn:xmpp:mam:2' default='roster'><always><jid>a@b</jid></always><never/></prefs></iq>",
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

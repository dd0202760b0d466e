package backend_test

import "testing"

func TestTwoUsersTalk(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	alice.write("<message to='bob@example.com' type='chat' id='m1'><body>hello</body></message>")
	got := bob.expect("^<message .*<body>hello</body>")
	if want := "<stanza-id xmlns='urn:xmpp:sid:0' by='bob@example.com' id='1'/></message>"; got[len(got)-len(want):] != want {
		t.Errorf("got %s, want it to end with %s", got, want)
	}
	bob.write("<message to='" + alice.jid + "' type='chat' id='m2'><body>hello yourself</body></message>")
	alice.expect("^<message .*from='bob@example.com/desk'.*<body>hello yourself</body>")
	alice.close()
	bob.close()
}

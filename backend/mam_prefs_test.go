package backend_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
)

// prefs sets archive preferences.
func (cl *client) prefs(rule, inside string) {
	cl.t.Helper()
	cl.write("<iq type='set' id='prefs'><prefs xmlns='urn:xmpp:mam:2' default='" + rule + "'>" + inside + "</prefs></iq>")
	cl.expect("^<iq type='result' id='prefs'.*<prefs xmlns='urn:xmpp:mam:2' default='" + rule + "'>")
}

func TestArchivePrefs(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	get := "<iq type='get' id='g'><prefs xmlns='urn:xmpp:mam:2'/></iq>"
	alice.write(get)
	alice.expect("<prefs xmlns='urn:xmpp:mam:2' default='always'><always/><never/></prefs></iq>")
	const applied = "<prefs xmlns='urn:xmpp:mam:2' default='roster'><always><jid>bob@example.com</jid><jid>romeo@montague.lit/O&apos;Rchard</jid></always>" +
		"<never><jid>carol@example.com</jid></never></prefs></iq>$"
	alice.write("<iq type='set' id='s' to='alice@example.com'><prefs xmlns='urn:xmpp:mam:2' default='roster'><never><jid>Carol@Example.com</jid></never>" +
		"<always><jid>romeo@montague.lit/O&apos;Rchard</jid><jid>BOB@example.com</jid><jid>bob@example.com</jid></always></prefs></iq>")
	alice.expect("^<iq type='result' id='s' from='alice@example.com'.*" + applied)
	alice.write(get)
	alice.expect(applied)
	alice.prefs("never", "")
	alice.write(get)
	alice.expect("default='never'><always/><never/></prefs>")
}

func TestArchivePrefsErrors(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	for _, tt := range []struct{ to, inside, condition string }{
		{"", "<prefs xmlns='urn:xmpp:mam:2'/>", "bad-request"},
		{"", "<prefs xmlns='urn:xmpp:mam:2' default='sometimes'/>", "bad-request"},
		{"", "<prefs xmlns='urn:xmpp:mam:2' default='never'><always><jid>@x</jid></always></prefs>", "jid-malformed"},
		{"", "<prefs xmlns='urn:xmpp:mam:2' default='never'><never><jid/></never></prefs>", "jid-malformed"},
		{"", "<prefs xmlns='urn:xmpp:mam:2' default='never'><never>" + strings.Repeat("<jid>a@b</jid>", 1001) + "</never></prefs>", "policy-violation"},
		{" to='bob@example.com'", "<prefs xmlns='urn:xmpp:mam:2' default='never'/>", "forbidden"},
		{" to='example.com'", "<prefs xmlns='urn:xmpp:mam:2' default='never'/>", "service-unavailable"},
	} {
		alice.write("<iq type='set' id='s'" + tt.to + ">" + tt.inside + "</iq>")
		alice.expect("^<iq .*type='error'.*<" + tt.condition + " ")
	}
	alice.write("<iq type='get' id='g'><prefs xmlns='urn:xmpp:mam:2'/></iq>")
	alice.expect("default='always'><always/><never/>")
}

// Who archives nothing still gets everything, and who talks to such a user has it in
// an archive. The preference counts at once, on all nodes.
func TestArchivePrefsOfTheRecipient(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, bob := c.login(0, "alice", "phone"), c.online(1, "bob", "desk")
	alice.prefs("never", "<always><jid>carol@example.com</jid></always>")
	bob.write("<message to='alice@example.com' type='chat'><body>1</body></message><message to='" + alice.jid + "' type='chat'><body>2</body></message>")
	bob.sync()
	alice.expect("<body>2</body>") // it is for this resource
	carol := c.online(1, "carol", "pad")
	carol.write("<message to='alice@example.com' type='chat'><body>3</body></message>")
	carol.sync()
	alice.write("<presence/>")
	alice.expectAll("^<presence ", "<body>1</body>.*<delay ", "<body>3</body>")
	if ids, fin := alice.mam("", ""); strings.Join(ids, " ") != "3" || !strings.Contains(fin, "complete='true'") {
		t.Errorf("alice has %v, %s", ids, fin)
	}
	if ids, _ := bob.mam("", ""); strings.Join(ids, " ") != "1 2" {
		t.Errorf("bob has %v", ids)
	}
	if ids, fin := alice.mam(field("ids", "2"), ""); len(ids) > 0 || !strings.Contains(fin, "<item-not-found ") {
		t.Errorf("by id: %v, %s", ids, fin)
	}
	if ids, _ := alice.mam("", rsm("<after>2</after>")); strings.Join(ids, " ") != "3" {
		t.Errorf("after a message that is not archived: %v", ids)
	}
}

func TestArchivePrefsOfTheSender(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	alice.write("<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='carol@example.com'/></query></iq>")
	alice.expect("^<iq .*id='r'")
	alice.prefs("roster", "<always><jid>bob@example.com/desk</jid></always>")
	for i, to := range []string{"bob@example.com", "bob@example.com/desk", "carol@example.com/x", "alice@example.com"} {
		alice.write(fmt.Sprintf("<message to='%s' type='chat'><body>%d</body></message>", to, i))
	}
	alice.expect("<body>3</body>")
	bob.expect("<body>0</body>")
	bob.expect("<body>1</body>")
	if ids, _ := alice.mam("", ""); strings.Join(ids, " ") != "2 3" {
		t.Errorf("alice has %v", ids)
	}
	if ids, _ := bob.mam("", ""); strings.Join(ids, " ") != "1 2" {
		t.Errorf("bob has %v", ids)
	}
}

// What is not archived goes once it is delivered, and only then.
func TestUnarchivedGoes(t *testing.T) {
	c := newCluster(t, 0, func(o *backend.Options) {
		o.Retention = backend.Retention{Hidden: time.Nanosecond, Every: 20 * time.Millisecond}
		o.Timeouts.Flush = time.Millisecond
	})
	retention := c.count()
	alice, bob := c.login(0, "alice", "phone"), c.online(0, "bob", "desk")
	alice.prefs("never", "")
	bob.write("<message to='alice@example.com' type='chat'><body>1</body></message>")
	bob.sync()
	retention.wait(c)
	alice.write("<presence/>")
	alice.expectAll("^<presence ", "<body>1</body>")
	c.eventually("the message goes", func() bool { return len(c.timeline("alice")) == 0 })
	if n := len(c.timeline("bob")); n != 1 {
		t.Errorf("bob has %d entries", n)
	}
	bob.write("<message to='alice@example.com' type='chat'><body>2</body></message>")
	alice.expect("<body>2</body>.*id='2'")
}

// timeline returns all entries of a user.
func (c *cluster) timeline(name string) []store.Entry {
	c.t.Helper()
	a, err := c.store.Account(c.t.Context(), name+"@"+domain)
	if err != nil {
		c.t.Fatal(err)
	}
	entries, err := c.store.Read(c.t.Context(), a.Owner, 0, 1000)
	if err != nil {
		c.t.Fatal(err)
	}
	return entries
}

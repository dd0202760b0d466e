package backend_test

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// maxStanza is what the nodes of these tests take of a client.
const maxStanza = 40_000

// What nodes make of what clients send has to be within the limits that scanners have by default,
// which were those of fronts for nodes, but for its length, which may be more by this.
const added = 32 << 10

func narrow(o *backend.Options) { o.Limits.Stanza.MaxBytes = maxStanza }

// asFront has a client take no more of its node than any front does.
func (cl *client) asFront() *client {
	cl.scanner.SetLimits(xmpp.Limits{MaxBytes: maxStanza + added})
	return cl
}

// loginIn is login on a stream in some language.
func (c *cluster) loginIn(lang, name, resource string) *client {
	c.t.Helper()
	header := strings.Replace(streamHeader, ">", ` xml:lang="`+lang+`">`, 2)
	header = strings.Replace(header, ` xml:lang="`+lang+`">`, ">", 1) // that of the declaration
	cl := c.dial(0, leg{})
	cl.write(header)
	cl.opened()
	cl.write("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" +
		base64.StdEncoding.EncodeToString([]byte("\x00"+name+"\x00"+password)) + "</auth>")
	cl.expect("^<success ")
	cl.scanner.Reset()
	cl.write(header)
	cl.opened()
	cl.write("<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>" + resource + "</resource></bind></iq>")
	cl.jid = between(cl.expect("^<iq type='result' id='bind'"), "<jid>", "</jid>")
	return cl
}

// atTheEdge are stanzas that begin like head, which lacks its end, with as much of something as a
// node takes of a client: elements in each other, attributes, declarations, bytes.
func atTheEdge(head string, inside string, room int) map[string]string {
	name := head[1:strings.IndexByte(head, ' ')]
	end := "</" + name + ">"
	attrs := func(format string, n int) string {
		out := ""
		for i := range n {
			out += " " + fmt.Sprintf(format, i)
		}
		return out
	}
	given := strings.Count(head, "=")
	deep := strings.Repeat("<a xmlns='u'>", xmpp.ClientDepth-1) + strings.Repeat("</a>", xmpp.ClientDepth-1)
	long := head + ">" + inside + "<a xmlns='u'>"
	long += strings.Repeat("y", room-len(long)-len("</a>"+end)) + "</a>" + end
	return map[string]string{
		"depth":        head + ">" + inside + deep + end,
		"attributes":   head + attrs("a%d='1'", xmpp.ClientAttrs-given) + ">" + inside + end,
		"declarations": head + attrs("xmlns:p%d='u'", xmpp.ClientAttrs-given) + ">" + inside + end,
		"inside":       head + ">" + inside + "<a xmlns='u'" + attrs("a%d='1'", xmpp.ClientAttrs-1) + "/>" + end,
		"bytes":        long,
	}
}

// For each stanza that a node takes of a client, whatever is at its limit, fronts carry what
// becomes of it: what is delivered now and later, copies, what the archive has, requests at each
// login, and what comes back.
func TestWhatNodesSendIsCarried(t *testing.T) {
	t.Parallel()
	apostrophes := strings.Repeat("'", 1000) // which are longer when they are escaped
	for what := range atTheEdge("<iq ", "", 1000) {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, narrow)
			edge := func(head, inside string, room int) string { return atTheEdge(head, inside, room)[what] }
			alice := c.loginIn("de-Latn-DE-1996-u-co-phonebk-x-abcd", "alice", apostrophes).asFront()
			alice.write("<presence/>")
			alice.expect("^<presence ")
			copied := c.online(1, "alice", "copies").asFront()
			for _, cl := range []*client{alice, copied} {
				cl.write("<iq type='set' id='carbons'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
				cl.skipTo("id='carbons'")
			}
			bob := c.online(1, "bob", "desk").asFront()
			other := c.online(1, "bob", "other").asFront()
			other.write("<iq type='set' id='carbons'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
			other.skipTo("id='carbons'")

			const body = "<body>hi</body>"
			to := bob.jid
			alice.write(edge("<message type='chat' id='full' to='"+to+"'", body, maxStanza))
			alice.write(edge("<message type='chat' id='away' to='carol@example.com'", body, maxStanza))
			alice.write(edge("<message type='headline' id='live' to='"+to+"'", body, maxStanza))
			alice.write(edge("<message type='chat' id='nobody' to='nobody@example.com'", body, maxStanza))
			alice.write(edge("<presence to='"+to+"' id='directed'", "", maxStanza))
			alice.write(edge("<presence to='carol@example.com' type='subscribe' id='request'", "", 10_000-7000))
			alice.write(edge("<iq type='get' id='asked' to='"+to+"'", "", maxStanza-100))
			alice.write("<message type='chat' id='last' to='" + to + "'>" + body + "</message>")

			full, last := "^<message [^>]*id='full'", "^<message [^>]*id='last'"
			bob.skipToAll(full, "id='live'", "id='directed'", last)
			other.skipToAll("<received .* id='full'", "<received .* id='last'")
			copied.skipToAll("<sent .* id='full'", "<sent .* id='last'")
			alice.skipToAll("type='error'.*service-unavailable|service-unavailable.*type='error'")

			carol := c.login(1, "carol", "phone").asFront()
			carol.write("<presence/>")
			carol.skipToAll("id='away'", "id='request'")
			carol.close()
			again := c.login(0, "carol", "tablet").asFront()
			again.write("<presence/>")
			again.skipTo("id='request'")
			for _, cl := range []*client{bob, again, alice} {
				cl.write("<iq type='set' id='mam'><query xmlns='urn:xmpp:mam:2' queryid='" + strings.Repeat("&#39;", 1023) + "'/></iq>")
				cl.skipTo("<result .* id='(full|away)'")
				cl.skipTo("^<iq .*<fin ")
			}
		})
	}
}

// A node takes no more of a client than it can pass on.
func TestClientsAreHeldToTheirLimits(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, narrow)
	for what, stanza := range map[string]string{
		"depth":      "<message>" + strings.Repeat("<a>", xmpp.ClientDepth) + strings.Repeat("</a>", xmpp.ClientDepth) + "</message>",
		"attributes": strings.Replace(atTheEdge("<message ", "", 1000)["attributes"], "<message ", "<message more='1'", 1),
		"bytes":      atTheEdge("<message ", "", maxStanza+1)["bytes"],
	} {
		alice := c.login(0, "alice", "phone")
		alice.write(stanza)
		alice.end("policy-violation")
		t.Log(what)
	}
}

// What no language has for a name is none (RFC 6120 §4.7.4), and goes with no stanza.
func TestLanguageOfStream(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	bob := c.online(0, "bob", "desk")
	for lang, want := range map[string]string{"de-CH": "de-CH", strings.Repeat("'", 9000): "", "en us": "", "": ""} {
		alice := c.loginIn(lang, "alice", "phone")
		alice.write("<message type='headline' to='" + bob.jid + "'><body>hi</body></message>")
		got := bob.expect("^<message ")
		h, err := xmpp.ParseHeader([]byte(got))
		if err != nil || h.Lang != want {
			t.Errorf("%.20q: got %.200s, %v", lang, got, err)
		}
		alice.close()
	}
}

// A roster may be longer than what else waits for a client, and has an end all the same.
func TestLongRoster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	const most = 5000 * 512
	a, err := c.store.Account(t.Context(), "alice@"+domain)
	if err != nil {
		t.Fatal(err)
	}
	restore := func(n int, name string) {
		t.Helper()
		var items []store.RosterItem
		for i := range n {
			items = append(items, store.RosterItem{
				Contact: fmt.Sprintf("contact%04d.lastname@example.net", i), Name: name, Groups: []string{"Colleagues"}, InRoster: true,
			})
		}
		if err := c.store.RestoreRoster(t.Context(), a.Owner, items, uint64(n)); err != nil {
			t.Fatal(err)
		}
	}
	const get = "<iq type='get' id='get'><query xmlns='jabber:iq:roster'/></iq>"
	restore(4000, "Firstname Lastname"+strings.Repeat("'", 80))
	alice := c.login(0, "alice", "phone")
	alice.scanner.SetLimits(xmpp.FromNode(0))
	for range 2 {
		alice.write(get + get)
		for range 2 {
			if got := alice.expect("^<iq type='result' id='get'"); strings.Count(got, "<item ") != 4000 {
				t.Errorf("%d contacts", strings.Count(got, "<item "))
			}
		}
	}

	set := func(jid, name string) {
		alice.write("<iq type='set' id='set'><query xmlns='jabber:iq:roster'><item jid='" + jid + "' name='" + name + "'/></query></iq>")
	}
	long := strings.Repeat("&apos;", 1000)
	set("contact0001.lastname@example.net", "short")
	alice.skipTo("^<iq type='result' id='set'")
	for i := range 200 {
		set(fmt.Sprintf("new%d@example.net", i), long)
		if got := alice.skipTo("id='set'"); strings.Contains(got, "error") {
			if !strings.Contains(got, "<resource-constraint ") || i == 0 {
				t.Errorf("contact %d: %s", i, got)
			}
			break
		}
	}
	alice.write(get)
	if got := alice.skipTo("^<iq type='result' id='get'"); len(got) < most*9/10 || len(got) > most+1000 {
		t.Errorf("a roster of %d bytes", len(got))
	}
	alice.close()

	restore(4000, strings.Repeat("'", 400)) // from elsewhere
	alice = c.login(0, "alice", "phone")
	alice.write(get)
	alice.expect("^<iq type='error' id='get'.*<resource-constraint ")
	alice.sync()
}

// A message that cannot be sent, as an import could bring, is in nobody's way.
func TestEntryTooLong(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	a, err := c.store.Account(t.Context(), "alice@"+domain)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(seq uint64, size int) store.Entry {
		return store.Entry{Seq: seq, Time: time.Unix(int64(seq), 0), Peer: "bob@" + domain, Stanza: fmt.Appendf(nil,
			"<message from='bob@example.com' type='chat' id='m%d'><body>%s</body></message>", seq, strings.Repeat("x", size))}
	}
	entries := []store.Entry{entry(1, 10), entry(2, xmpp.SentMost), entry(3, 10)}
	if err := c.store.RestoreEntries(t.Context(), a.Owner, entries); err != nil {
		t.Fatal(err)
	}
	if err := c.store.RestoreSpan(t.Context(), a.Owner, 1, 3, 0); err != nil {
		t.Fatal(err)
	}
	alice := c.login(0, "alice", "phone")
	alice.write("<presence/>")
	alice.skipToAll("^<presence ", "^<message .* id='m1'", "^<message .* id='m3'")
	first, fin := alice.mam("", "")
	next, _ := alice.mam("", rsm("<after>"+between(fin, "<last>", "</last>")+"</after>"))
	if got := fmt.Sprint(first, next); got != "[1] [3]" {
		t.Errorf("the archive has %s", got)
	}
	alice.close()
	if _, delivered := c.head("alice"); delivered != 3 {
		t.Errorf("delivered up to %d", delivered)
	}
	if log := c.nodes[0].log.String(); !regexp.MustCompile("too long to be sent .*bytes=8388").MatchString(log) {
		t.Errorf("logged %s", log)
	}
}

package backend_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
)

// info asks what an address is; it returns all that is said.
func (cl *client) info(to, node string) string {
	cl.t.Helper()
	if node != "" {
		node = " node='" + node + "'"
	}
	cl.write("<iq type='get' id='info' to='" + to + "'><query xmlns='http://jabber.org/protocol/disco#info'" + node + "/></iq>")
	return cl.skipTo("^<iq [^>]*id='info'")
}

func featuresOf(info string) []string {
	var all []string
	for _, m := range regexp.MustCompile("<feature var='([^']*)'/>").FindAllStringSubmatch(info, -1) {
		all = append(all, m[1])
	}
	return all
}

// What is said to be there is there: each feature is asked for something.
func TestFeaturesAreTrue(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.login(0, "alice", "phone")
	query := func(ns string) string { return "<query xmlns='" + ns + "'/>" }
	asked := map[string]string{ // what answers, by feature; empty: shown elsewhere
		"http://jabber.org/protocol/disco#info":    query("http://jabber.org/protocol/disco#info"),
		"http://jabber.org/protocol/disco#items":   query("http://jabber.org/protocol/disco#items"),
		"http://jabber.org/protocol/caps":          "",
		"http://jabber.org/protocol/caps#optimize": "",
		"urn:xmpp:caps":                       "",
		"urn:xmpp:caps:optimize":              "",
		"urn:xmpp:ping":                       "<ping xmlns='urn:xmpp:ping'/>",
		"jabber:iq:roster":                    query("jabber:iq:roster"),
		"jabber:iq:private":                   "<query xmlns='jabber:iq:private'><x xmlns='urn:x'/></query>",
		"vcard-temp":                          "<vCard xmlns='vcard-temp'/>",
		"urn:xmpp:blocking":                   "<blocklist xmlns='urn:xmpp:blocking'/>",
		"urn:xmpp:reporting:1":                "",
		"urn:xmpp:carbons:2":                  "",
		"jabber:iq:version":                   query("jabber:iq:version"),
		"urn:xmpp:time":                       "<time xmlns='urn:xmpp:time'/>",
		"jabber:iq:last":                      query("jabber:iq:last"),
		"msgoffline":                          "",
		"urn:xmpp:mam:2":                      query("urn:xmpp:mam:2"),
		"urn:xmpp:mam:2#extended":             "",
		"urn:xmpp:mam:2#groupchat-field":      "",
		"http://jabber.org/protocol/rsm":      "", // with the archive
		"http://jabber.org/protocol/commands": "",
		"urn:xmpp:sid:0":                      "",
	}
	own := []string{"jabber:iq:roster", "jabber:iq:private", "vcard-temp", "urn:xmpp:blocking"} // the server speaks for the account
	for _, to := range []string{"example.com", "alice@example.com"} {
		features := featuresOf(alice.info(to, ""))
		if !slices.IsSorted(features) || len(features) < 5 {
			t.Errorf("%s has the features %q", to, features)
		}
		for _, f := range features {
			payload, known := asked[f]
			if !known {
				t.Errorf("%s has the feature %s, of which this test does not know what it stands for", to, f)
			}
			if payload == "" {
				continue
			}
			at := to
			if slices.Contains(own, f) {
				at = "alice@example.com"
			}
			alice.write("<iq type='get' id='q' to='" + at + "'>" + payload + "</iq>")
			alice.expect("^<iq type='result' id='q'")
		}
	}
}

// The stream features after login name what the server is by hashes; asked for the
// nodes of that name, it says the same as without a node (XEP-0115 §6.2, XEP-0390 §5).
func TestServerCapabilities(t *testing.T) {
	c := newCluster(t, 1, nil)
	cl := c.dial(0, leg{})
	if f := cl.open(); strings.Contains(f, "/caps'") {
		t.Errorf("features before login: %s", f)
	}
	cl.write(auth("PLAIN", b64("\x00alice\x00pencil")))
	cl.expect("^<success ")
	cl.scanner.Reset()
	f := cl.open()
	caps := regexp.MustCompile("<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='([^'#]+)' ver='([^']+)'/>").FindStringSubmatch(f)
	caps2 := regexp.MustCompile("<c xmlns='urn:xmpp:caps'><hash xmlns='urn:xmpp:hashes:2' algo='sha-256'>([^<]+)</hash></c>").FindStringSubmatch(f)
	if caps == nil || caps2 == nil {
		t.Fatalf("features: %s", f)
	}
	alice := c.login(0, "alice", "phone")
	_, want, _ := strings.Cut(alice.info("example.com", ""), "disco#info'>")
	for _, node := range []string{caps[1] + "#" + caps[2], "urn:xmpp:caps#sha-256." + caps2[1]} {
		got := alice.info("example.com", node)
		if !strings.Contains(got, "disco#info' node='"+node+"'>"+want) {
			t.Errorf("node %s: %s, want %s", node, got, want)
		}
	}
	for _, node := range []string{caps[1], caps[1] + "#x", "urn:xmpp:caps#sha-256.x"} {
		if got := alice.info("example.com", node); !strings.Contains(got, "<item-not-found ") {
			t.Errorf("node %s: %s", node, got)
		}
	}
	if got := alice.info("alice@example.com", caps[1]+"#"+caps[2]); !strings.Contains(got, "<item-not-found ") {
		t.Errorf("the account has the server's node: %s", got)
	}
}

// XEP-0157: contacts are a form in the server's answer, and change its hash.
func TestContacts(t *testing.T) {
	contacts := backend.Contacts{Abuse: []string{"mailto:abuse@example.com", "xmpp:abuse@example.com?message"}, Security: []string{"https://example.com/?a&b"}}
	c := newCluster(t, 0, nil)
	c.startNode("without")
	c.tune = func(o *backend.Options) { o.Contacts = contacts }
	c.startNode("with")
	const form = "<x xmlns='jabber:x:data' type='result'><field type='hidden' var='FORM_TYPE'><value>http://jabber.org/network/serverinfo</value></field>" +
		"<field type='list-multi' var='abuse-addresses'><value>mailto:abuse@example.com</value><value>xmpp:abuse@example.com?message</value></field>" +
		"<field type='list-multi' var='security-addresses'><value>https://example.com/?a&amp;b</value></field></x></query></iq>"
	alice := c.login(1, "alice", "phone")
	if got := alice.info("example.com", ""); !strings.HasSuffix(got, form) {
		t.Errorf("got %s", got)
	}
	if got := c.login(0, "alice", "tab").info("example.com", ""); strings.Contains(got, "jabber:x:data") {
		t.Errorf("got %s", got)
	}
	if strings.Contains(alice.info("alice@example.com", ""), "jabber:x:data") {
		t.Error("the account has the server's contacts")
	}
}

// XEP-0478: the limits before and after login are those that hold.
func TestStreamLimits(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) {
		o.Limits.Stanza.MaxBytes = 20_000
		o.Timeouts.Handshake, o.Timeouts.Idle = 25*time.Second, 90*time.Second
	})
	cl := c.dial(0, leg{})
	if f := cl.open(); !strings.Contains(f, "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes><idle-seconds>25</idle-seconds></limits>") {
		t.Errorf("before login: %s", f)
	}
	cl.write(auth("PLAIN", b64("\x00alice\x00pencil")))
	cl.expect("^<success ")
	cl.scanner.Reset()
	if f := cl.open(); !strings.Contains(f, "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>20000</max-bytes><idle-seconds>90</idle-seconds></limits>") {
		t.Errorf("after login: %s", f)
	}
	for _, more := range []int{0, 1} {
		alice := c.online(0, "alice", "phone")
		head, tail := "<message to='alice@example.com' type='headline'><body>", "</body></message>"
		alice.write(head + strings.Repeat("x", 20_000+more-len(head)-len(tail)) + tail)
		if more == 0 {
			alice.expect("^<message ")
		} else {
			alice.end("policy-violation")
		}
	}
}

// XEP-0030 §8: only those who may see a user learn that there is one.
func TestInfoOfOthers(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.subscribed("alice", "bob", store.SubscriptionTo)
	c.subscribed("bob", "alice", store.SubscriptionFrom)
	alice, bob := c.login(0, "alice", "phone"), c.login(1, "bob", "desk")
	got := alice.info("bob@example.com", "")
	if !strings.Contains(got, "from='bob@example.com'") || !strings.Contains(got, "<identity category='account' type='registered'/>") ||
		!slices.Equal(featuresOf(got), []string{"http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/disco#items", "jabber:iq:last", "vcard-temp"}) {
		t.Errorf("got %s", got)
	}
	if got := alice.info("bob@example.com", "x"); !strings.Contains(got, "<item-not-found ") {
		t.Errorf("got %s", got)
	}
	alice.write("<iq type='get' id='i' to='bob@example.com'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>")
	alice.expect("^<iq type='result' id='i' from='bob@example.com'.*disco#items'/></iq>")
	for _, to := range []string{"alice@example.com", "carol@example.com", "nobody@example.com"} {
		if got := bob.info(to, ""); !strings.Contains(got, "<service-unavailable ") {
			t.Errorf("%s: %s", to, got)
		}
	}
	bob.block("alice@example.com")
	c.eventually("bob looks like nobody", func() bool {
		return strings.Contains(alice.info("bob@example.com", ""), "<service-unavailable ")
	})
}

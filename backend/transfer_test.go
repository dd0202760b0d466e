package backend_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"imlb/backend"
	"imlb/backend/store"
	"imlb/backend/store/storetest"
)

// export returns a user's document, which must be well-formed. Some names are beyond the
// decoder of encoding/xml.
func export(t *testing.T, s store.Store, user string) string {
	t.Helper()
	var out bytes.Buffer
	if err := backend.ExportUser(t.Context(), s, user, &out); err != nil {
		t.Fatal(err)
	}
	for dec := xml.NewDecoder(bytes.NewReader(out.Bytes())); ; {
		_, err := dec.Token()
		if syntax, ok := errors.AsType[*xml.SyntaxError](err); errors.Is(err, io.EOF) || ok && strings.HasPrefix(syntax.Msg, "invalid XML name") {
			return out.String()
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, out.String())
		}
	}
}

func importInto(t *testing.T, s store.Store, document string, replace bool) backend.Imported {
	t.Helper()
	done, err := backend.ImportUsers(t.Context(), s, strings.NewReader(document), backend.ImportOptions{Domain: domain, Replace: replace})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// blocked returns a user's blocklist.
func (c *cluster) blocked(user string) []string {
	c.t.Helper()
	a, err := c.store.Account(c.t.Context(), user+"@"+domain)
	if err != nil {
		c.t.Fatal(err)
	}
	list, err := c.store.Blocklist(c.t.Context(), a.Owner)
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Addresses
}

// fullAccount is a store in which alice has something of everything.
func fullAccount(t *testing.T) store.Store {
	t.Helper()
	s := storetest.NewMemory()
	creds, err := credentials()
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.CreateAccount(t.Context(), "alice@example.com", creds)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(err)
	check(s.SetRole(t.Context(), a.User, store.RoleModerator))
	check(s.SetState(t.Context(), a.User, store.AccountState{
		Suspended: true, Reason: "spam & <lies>'", Until: time.Date(2099, 1, 31, 12, 0, 0, 123_000_000, time.UTC),
	}))
	check(s.RestoreRoster(t.Context(), a.Owner, []store.RosterItem{
		{Contact: "bob@example.com", Name: "Bob <&'>", Groups: []string{"a", "b & c"}, Subscription: store.SubscriptionBoth, InRoster: true},
		{Contact: "carol@example.com", Subscription: store.SubscriptionTo, Ask: true, Approved: true, InRoster: true, PendingIn: []byte("<presence type='subscribe' from='carol@example.com'><nick xmlns='http://jabber.org/protocol/nick'>C</nick></presence>")},
		{Contact: "dave@example.net", PendingIn: []byte("<presence from='dave@example.net' type='subscribe'/>")},
	}, 42))
	check(s.SetArchivePrefs(t.Context(), a.Owner, store.ArchivePrefs{Default: store.ArchiveRoster, Always: []string{"x@y/O'z"}, Never: []string{"n@y"}}))
	_, err = s.UpdateBlocklist(t.Context(), a.Owner, func([]string) []string { return []string{"example.net", "n@y/O'z"} })
	check(err)
	check(s.SetPrivateXML(t.Context(), a.Owner, []store.PrivateXML{
		{Space: "storage:bookmarks", XML: []byte("<storage xmlns='storage:bookmarks'><p:x xmlns:p='urn:p'/></storage>")},
		{Space: "urn:x", XML: []byte("<x xmlns='urn:x'>1 &amp; 2</x><y xmlns='urn:x'/><p:x xmlns:p='urn:x'/>")},
	}, store.Quota{}))
	check(s.SetVCard(t.Context(), a.Owner, []byte("<vCard xmlns='vcard-temp'><FN>Alice</FN></vCard>")))
	at := time.Date(2024, 2, 29, 23, 59, 59, 123_000_000, time.UTC)
	message := func(from, to, inside string) []byte {
		return fmt.Appendf(nil, `<message from="%s" to='%s' type="chat">%s</message>`, from, to, inside)
	}
	var entries []store.Entry
	for i, e := range []store.Entry{
		{Peer: "bob@example.com", Stanza: message("bob@example.com/x", "alice@example.com", "<body>1 &lt;é🙂&gt;</body>")},
		{Peer: "bob@example.com", Sent: true, Resource: "phone", Stanza: message("alice@example.com/phone", "bob@example.com", "<body><![CDATA[<2>]]></body>")},
		{Peer: "alice@example.com", Sent: true, Hidden: true, Resource: "phone", Stanza: message("alice@example.com/phone", "alice@example.com", "<body>3</body>")},
		{Peer: "alice@example.com", Stanza: message("alice@example.com/phone", "alice@example.com", "<body>3</body>")},
		{Peer: "bob@example.com", Hidden: true, Stanza: message("bob@example.com/x", "alice@example.com/phone", "<body>5, delivered</body>")},
		{Peer: "bob@example.com", Stanza: message("bob@example.com/x", "alice@example.com", "<p:x xmlns:p='urn:p' p:y='z'><q xmlns='urn:q'/></p:x>")},
		{Peer: "bob@example.com", Hidden: true, Stanza: message("bob@example.com/x", "alice@example.com", "<body>7, waits</body><no-permanent-store xmlns='urn:xmpp:hints'/>")},
		{Peer: "bob@example.com", Stanza: message("bob@example.com/x", "alice@example.com", "<body>8</body>")},
		{Peer: "bob@example.com", Sent: true, Stanza: []byte("<message from='alice@example.com' to='bob@example.com' id='x'/>")},
	} {
		e.Seq, e.Time = uint64(i)+11, at.Add(time.Duration(i)*time.Minute)
		entries = append(entries, e)
	}
	check(s.RestoreEntries(t.Context(), a.Owner, entries))
	check(s.RestoreSpan(t.Context(), a.Owner, 11, 21, 15)) // the last one was removed
	return s
}

func TestTransferRoundTrip(t *testing.T) {
	first := fullAccount(t)
	document := export(t, first, "alice@example.com")
	second := storetest.NewMemory()
	if _, err := second.CreateAccount(t.Context(), "bob@example.com", nil); err != nil {
		t.Fatal(err)
	}
	done := importInto(t, second, document, false)
	if len(done.LeftOut) > 0 || !reflect.DeepEqual(done.Users, []string{"alice@example.com"}) {
		t.Errorf("imported %+v", done)
	}
	if again := export(t, second, "alice@example.com"); again != document {
		t.Errorf("exported again:\n%s\nat first:\n%s", again, document)
	}
	sameAccount(t, first, second)

	// What is there is not touched, unless that is asked for; then the result is the same.
	_, err := backend.ImportUsers(t.Context(), second, strings.NewReader(document), backend.ImportOptions{Domain: domain})
	if !errors.Is(err, store.ErrExists) {
		t.Errorf("importing again: %v", err)
	}
	importInto(t, second, document, true)
	sameAccount(t, first, second)
	if all, err := second.ListAccounts(t.Context(), "", 10); err != nil || len(all) != 2 {
		t.Errorf("accounts: %v, %v", all, err)
	}
}

// Messages to be delivered for which there is no memory are kept in a file meanwhile.
func TestImportOfManyWaiting(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for name, document := range map[string]string{"ours": export(t, fullAccount(t), "alice@example.com"), "foreign": foreign} {
		var exported []string
		for _, held := range []int{0, 1, 400} {
			s := storetest.NewMemory()
			done, err := backend.ImportUsers(t.Context(), s, strings.NewReader(document), backend.ImportOptions{Domain: domain, HeldBytes: held})
			if err != nil || len(done.Users) != 1 {
				t.Fatal(name, done.Users, err)
			}
			a, err := s.Account(t.Context(), done.Users[0])
			if err == nil {
				err = s.SetCredentials(t.Context(), a.User, nil) // those of a password differ each time
			}
			if err != nil {
				t.Fatal(err)
			}
			exported = append(exported, export(t, s, a.User))
		}
		if exported[1] != exported[0] || exported[2] != exported[0] {
			t.Errorf("%s: with a file another account was imported:\n%s\n%s\n%s", name, exported[1], exported[2], exported[0])
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

// sameAccount compares alice in two stores. What was delivered and is not in the archive
// stays behind.
func sameAccount(t *testing.T, first, second store.Store) {
	t.Helper()
	var all [2][]any
	for i, s := range []store.Store{first, second} {
		note := func(values ...any) {
			if err, _ := values[len(values)-1].(error); err != nil {
				t.Fatal(err)
			}
			all[i] = append(all[i], values...)
		}
		a, err := s.Account(t.Context(), "alice@example.com")
		note(a.Role, a.State, err)
		items, version, err := s.Roster(t.Context(), a.Owner)
		for i := range items {
			items[i].Version = 0
		}
		note(items, version, err)
		creds, err := s.Credentials(t.Context(), a.User)
		note(creds, err)
		prefs, err := s.ArchivePrefs(t.Context(), a.Owner)
		note(prefs, err)
		blocked, err := s.Blocklist(t.Context(), a.Owner)
		note(blocked.Addresses, err)
		private, err := s.PrivateXML(t.Context(), a.Owner)
		note(private, err)
		vcard, err := s.VCard(t.Context(), a.Owner)
		note(vcard, err)
		head, delivered, err := s.Head(t.Context(), a.Owner)
		note(head, delivered, err)
		span, _, err := s.Span(t.Context(), a.Owner)
		note(span, err)
		entries, err := s.Read(t.Context(), a.Owner, 0, 100)
		note(err)
		for _, e := range entries {
			if !e.Hidden || e.Seq > delivered {
				note(e, nil)
			}
		}
	}
	if !reflect.DeepEqual(all[0], all[1]) {
		t.Errorf("the accounts differ:\n%+v\n%+v", all[0], all[1])
	}
}

// An account that replaces another one has the role and the state of its document, or
// those of the other one if there are none in the document.
func TestReplacedStanding(t *testing.T) {
	suspended := store.AccountState{Suspended: true, Reason: "spam"}
	for _, tt := range []struct {
		name, account string
		role          store.Role
		state         store.AccountState
	}{
		{"none", "", store.RoleAdmin, suspended},
		{"one that says nothing", "<account xmlns='urn:imlb:transfer:0'/>", store.RoleUser, store.AccountState{}},
		{"a role", "<account xmlns='urn:imlb:transfer:0' role='moderator'/>", store.RoleModerator, store.AccountState{}},
		{
			"a state", "<account xmlns='urn:imlb:transfer:0' role='user' suspended='true' until='2099-01-31T12:00:00Z'/>",
			store.RoleUser, store.AccountState{Suspended: true, Until: time.Date(2099, 1, 31, 12, 0, 0, 0, time.UTC)},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, 0, nil)
			c.suspend("bob", suspended)
			if err := c.store.SetRole(t.Context(), "bob@example.com", store.RoleAdmin); err != nil {
				t.Fatal(err)
			}
			done := importInto(t, c.store, "<server-data xmlns='urn:xmpp:pie:0'><host jid='example.com'><user name='bob'>"+tt.account+"</user></host></server-data>", true)
			if len(done.LeftOut) > 0 {
				t.Errorf("left out: %q", done.LeftOut)
			}
			a, err := c.store.Account(t.Context(), "bob@example.com")
			if err != nil || a.Role != tt.role || a.State != tt.state {
				t.Errorf("got %v, %+v, %v", a.Role, a.State, err)
			}
		})
	}
}

// Sessions of an account that was replaced end on all nodes, although no node was told.
func TestReplacementEndsSessions(t *testing.T) {
	c := newCluster(t, 2, quickly)
	alice, bob := c.online(1, "alice", "phone"), c.online(0, "bob", "desk")
	importInto(t, c.store, export(t, c.store, "alice@example.com"), true)
	alice.end("not-authorized")
	bob.sync()
	c.eventually("the log line", func() bool { return strings.Contains(c.nodes[1].log.String(), "reason=account-gone") })
	c.online(1, "alice", "phone").sync()
}

func TestExportOfNobody(t *testing.T) {
	var out bytes.Buffer
	err := backend.ExportUser(t.Context(), storetest.NewMemory(), "alice@example.com", &out)
	if !errors.Is(err, store.ErrNotFound) || out.Len() > 0 {
		t.Errorf("%v, %q", err, out.String())
	}
}

// vanishing is a store in which alice is replaced while her archive is read.
type vanishing struct{ store.Store }

func (s vanishing) Find(ctx context.Context, owner store.OwnerID, r store.Range) ([]store.Entry, error) {
	err := s.DeleteAccount(ctx, "alice@example.com")
	if err == nil {
		_, err = s.CreateAccount(ctx, "alice@example.com", nil)
	}
	if err != nil {
		return nil, err
	}
	return s.Store.Find(ctx, owner, r)
}

// A document of half an account is not taken for all of it.
func TestExportOfWhoIsDeleted(t *testing.T) {
	err := backend.ExportUser(t.Context(), vanishing{fullAccount(t)}, "alice@example.com", io.Discard)
	if err == nil || !strings.Contains(err.Error(), "deleted or replaced meanwhile") {
		t.Errorf("got %v", err)
	}
}

// foreign is what another server may write: prefixes that are declared around, words
// that we do not know, ids that are no numbers, and messages to be delivered of which
// some are in the archive.
const foreign = `<?xml version='1.0' encoding='UTF-8'?>
<server-data xmlns='urn:xmpp:pie:0' xmlns:e='urn:e'>
 <!-- by hand -->
 <host jid='example.com'>
  <user name='Juliet' password='R0m30'>
   <offline-messages>
    <message xmlns='jabber:client' from='romeo@example.net/orchard' to='juliet@example.com' id='a1'><body>2</body><delay xmlns='urn:xmpp:delay' from='example.com' stamp='2010-07-10T23:09:00Z'>Offline Storage</delay></message>
    <message xmlns='jabber:client' from='romeo@example.net/orchard' to='juliet@example.com'><body>3</body><stanza-id xmlns='urn:xmpp:sid:0' by='juliet@example.com' id='x-3'/></message>
    <message xmlns='jabber:client' from='romeo@example.net/orchard' to='juliet@example.com'><body>4</body></message>
   </offline-messages>
   <query xmlns='jabber:iq:roster' ver='opaque'><item jid='Romeo@example.net' subscription='both'><group>Friends</group></item><item jid='@'/><item jid='Juliet@example.com' subscription='both'/></query>
   <presence xmlns='jabber:client' type='subscribe' from='mercutio@example.net/x'/>
   <vcard:unknown xmlns:vcard='urn:vcard'/>
   <archive xmlns='urn:xmpp:pie:0#mam'>
    <result xmlns='urn:xmpp:mam:2' id='x-1'><forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='2010-07-10T23:08:25Z'/>
     <message xmlns='jabber:client' from='juliet@example.com/balcony' to='romeo@example.net'><body>1</body><e:x>1</e:x></message></forwarded></result>
    <result xmlns='urn:xmpp:mam:2' id='x-2'><forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='2010-07-10T23:09:00Z'/>
     <message xmlns='jabber:client' from='romeo@example.net/orchard' to='juliet@example.com' id='a1'><body>2</body></message></forwarded></result>
    <result xmlns='urn:xmpp:mam:2' id='x-3'><forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='2010-07-10T23:10:00Z'/>
     <message xmlns='jabber:client' from='romeo@example.net/orchard' to='juliet@example.com'><body>3</body></message></forwarded></result>
    <result xmlns='urn:xmpp:mam:2' id='x-4'><forwarded xmlns='urn:xmpp:forward:0'>
     <message xmlns='jabber:client' from='@' to='juliet@example.com'><body>nobody</body></message></forwarded></result>
    <result xmlns='urn:xmpp:mam:2' id='x-5'><forwarded xmlns='urn:xmpp:forward:0'>
     <message xmlns='jabber:client' from='romeo@example.net'><!-- a comment --></message></forwarded></result>
   </archive>
  </user>
  <user name=''/>
 </host>
 <host jid='example.org'><user name='x'/></host>
</server-data>`

func TestImportFromElsewhere(t *testing.T) {
	c := newCluster(t, 1, nil)
	done := importInto(t, c.store, foreign, false)
	if !reflect.DeepEqual(done.Users, []string{"juliet@example.com"}) {
		t.Errorf("users: %v", done.Users)
	}
	for _, want := range []string{
		"contact: invalid JID", "contact: it is the user", "unknown", "message x-4 .*malformed address", "no XMPP stream may have this element: <message/>", `user "" has a name`, "host example.org",
	} {
		if !regexp.MustCompile(want).MatchString(strings.Join(done.LeftOut, "\n")) {
			t.Errorf("nothing is said of %s: %q", want, done.LeftOut)
		}
	}
	if len(done.LeftOut) != 7 {
		t.Errorf("left out: %q", done.LeftOut)
	}
	var bodies []string
	for _, e := range c.timeline("juliet") {
		bodies = append(bodies, between(string(e.Stanza), "<body>", "</body>"))
	}
	if got := strings.Join(bodies, " "); got != "1 2 3 4" {
		t.Errorf("entries: %s", got)
	}
	first := c.timeline("juliet")[0]
	if !first.Sent || first.Resource != "balcony" || first.Peer != "romeo@example.net" || !strings.Contains(string(first.Stanza), "xmlns:e='urn:e'") {
		t.Errorf("the first entry is %+v", first)
	}
	if head, delivered := c.head("juliet"); head != 4 || delivered != 1 {
		t.Errorf("head %d, delivered %d", head, delivered)
	}
	a, err := c.store.Account(t.Context(), "juliet@example.com")
	if err != nil {
		t.Fatal(err)
	}
	items, version, err := c.store.Roster(t.Context(), a.Owner)
	if err != nil || len(items) != 2 || version != 2 || items[1].Contact != "romeo@example.net" || len(items[0].PendingIn) == 0 {
		t.Errorf("roster %d: %+v, %v", version, items, err)
	}
	if creds, err := c.store.Credentials(t.Context(), a.User); err != nil || len(creds) != 3 {
		t.Errorf("keys: %v, %v", creds, err)
	}
}

// A message that waits is not archived if it says so. One that does not say when it was sent, and comes after none
// that does, is not from the year 1 for those who read it.
func TestImportOfWaiting(t *testing.T) {
	c := newCluster(t, 1, nil)
	began := time.Now()
	importInto(t, c.store, "<server-data xmlns='urn:xmpp:pie:0'><host jid='example.com'><user name='juliet'><offline-messages>"+
		"<message xmlns='jabber:client' from='romeo@example.com'><body>1</body></message>"+
		"<message xmlns='jabber:client' from='romeo@example.com'><body>2</body><no-permanent-store xmlns='urn:xmpp:hints'/></message></offline-messages></user></host></server-data>", false)
	for _, e := range c.timeline("juliet") {
		if e.Hidden != bytes.Contains(e.Stanza, []byte("no-permanent-store")) {
			t.Errorf("entry %d is hidden: %v", e.Seq, e.Hidden)
		}
		if e.Time.Before(began.Truncate(time.Second)) || e.Time.After(time.Now()) {
			t.Errorf("entry %d is from %v", e.Seq, e.Time)
		}
	}
}

// Whatever the node takes of users can be exported and imported: names that are of XML since its
// fifth edition only, quotes and marks where they mean nothing. Prefixes, which stanzas
// could have once, go.
func TestTransferOfAnything(t *testing.T) {
	s := storetest.NewMemory()
	a, err := s.CreateAccount(t.Context(), "alice@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	inside := []string{
		"<😀 xmlns='x' 😀='1'/>", "<ẞx/>", "<a·‿/>", "<é:ẞ xmlns:é='urn:é' é:_='>'/>",
		"<body><![CDATA[</body></message>]]>]]</body>", `<x a="&lt;/x>'>" b='"/>'>></x >`, "<body>\r\n&#13;]</body>",
		strings.Repeat("<a>", 63) + strings.Repeat("</a>", 63), // the deepest that nodes ever took
	}
	var entries []store.Entry
	for i, x := range inside {
		entries = append(entries, store.Entry{
			Seq: uint64(i) + 1, Peer: "bob@example.com", Stanza: []byte("<message from='bob@example.com/x' to='alice@example.com'>" + x + "</message>"),
		})
	}
	private := []store.PrivateXML{
		{Space: "urn:p", XML: []byte("<p:y xmlns:p='urn:p'/><😀 xmlns='urn:p'/>")},
	}
	prefixed := []byte("<q:message xmlns:q='jabber:client' from='bob@example.com/x'><q:body>/></q:body></q:message>")
	for _, err := range []error{
		s.RestoreRoster(t.Context(), a.Owner, []store.RosterItem{
			{Contact: "x@example.com", PendingIn: []byte("<q:presence xmlns:q='jabber:client' from='x@example.com' type='subscribe'/>")},
		}, 42),
		s.SetPrivateXML(t.Context(), a.Owner, private, store.Quota{}),
		s.SetVCard(t.Context(), a.Owner, []byte("<v:vCard xmlns:v='vcard-temp'><v:FN/></v:vCard>")),
		s.RestoreEntries(t.Context(), a.Owner, append(entries, store.Entry{Seq: 99, Peer: "bob@example.com", Stanza: prefixed})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	second := storetest.NewMemory()
	if done := importInto(t, second, export(t, s, "alice@example.com"), false); len(done.LeftOut) > 0 {
		t.Errorf("left out: %.300q", done.LeftOut)
	}
	if a, err = second.Account(t.Context(), a.User); err != nil {
		t.Fatal(err)
	}
	got, err := second.Read(t.Context(), a.Owner, 0, 100)
	if err != nil || len(got) != len(entries)+1 {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	for i, e := range entries {
		if !bytes.Equal(got[i].Stanza, e.Stanza) {
			t.Errorf("got %s, want %s", got[i].Stanza, e.Stanza)
		}
	}
	if want := "<message xmlns:q='jabber:client' from='bob@example.com/x'><q:body>/></q:body></message>"; string(got[len(entries)].Stanza) != want {
		t.Errorf("got %s, want %s", got[len(entries)].Stanza, want)
	}
	docs, err := second.PrivateXML(t.Context(), a.Owner)
	if err != nil || !reflect.DeepEqual(docs, private) {
		t.Errorf("private XML: %.300q, %v", docs, err)
	}
	contacts, _, err := second.Roster(t.Context(), a.Owner)
	if err != nil || len(contacts) != 1 || !bytes.HasPrefix(contacts[0].PendingIn, []byte("<presence ")) {
		t.Errorf("%d contacts, %v", len(contacts), err)
	}
	vcard, err := second.VCard(t.Context(), a.Owner)
	if err != nil || !bytes.HasPrefix(vcard, []byte("<vCard ")) {
		t.Errorf("vCard: %.100s, %v", vcard, err)
	}
	if document := export(t, second, a.User); document != export(t, importedAgain(t, document), a.User) {
		t.Error("exported again, it is another document")
	}
}

// Keys that no password fits are left out, and those of a password in the document taken.
// Ejabberd 23.01 encodes keys twice, and has its blocklists as privacy lists (XEP-0016).
func TestImportFromEjabberd(t *testing.T) {
	c := newCluster(t, 1, nil)
	done := importInto(t, c.store, "<server-data xmlns='urn:xmpp:pie:0'><host jid='example.com'><user name='bob2'>"+
		"<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-1'><iter-count>4096</iter-count><salt>KzBrK3dmRnp3ZVF0a3liK092bGk5QT09</salt>"+
		"<server-key>UTk4dVpYM2d0R3lrSCtiQjg4cVRtYTJOcnVNPQ==</server-key><stored-key>RzFTSW1SMFNVa3loMnR0bjQ4N2ZVSHBhSTVnPQ==</stored-key></scram-credentials>"+
		"<query xmlns='jabber:iq:privacy'><default name='Blocked contacts'/><list name='Blocked contacts'>"+
		"<item value='spam@localhost' type='jid' order='0' action='deny'/><item value='evil.example' type='jid' order='0' action='deny'/></list></query></user></host></server-data>", false)
	if len(done.LeftOut) > 0 {
		t.Errorf("left out: %q", done.LeftOut)
	}
	bob := c.dial(0, leg{})
	bob.open()
	bob.write(auth("PLAIN", b64("\x00bob2\x00builder")))
	bob.expect("^<success ")
	if got, want := c.blocked("bob2"), []string{"evil.example", "spam@localhost"}; !slices.Equal(got, want) {
		t.Errorf("blocked are %q, want %q", got, want)
	}
}

// Prosody writes requests for subscriptions without a namespace, and keeps those that were answered.
func TestImportFromProsody(t *testing.T) {
	c := newCluster(t, 1, nil)
	done := importInto(t, c.store, "<server-data xmlns='urn:xmpp:pie:0'><host jid='example.com'><user name='juliet' password='"+password+"'>"+
		"<presence type='subscribe' from='romeo@example.com'><status>it is I</status></presence><presence type='subscribe' from='nurse@example.com'/>"+
		"<query version='7' xmlns='jabber:iq:roster'><item jid='nurse@example.com' subscription='both'/></query></user></host></server-data>", false)
	if len(done.LeftOut) > 0 {
		t.Errorf("left out: %q", done.LeftOut)
	}
	juliet := c.login(0, "juliet", "balcony")
	juliet.write("<presence/>")
	juliet.skipTo("^<presence type='subscribe' from='romeo@example.com'><status>it is I</status></presence>$")
	a, err := c.store.Account(t.Context(), "juliet@example.com")
	if err != nil {
		t.Fatal(err)
	}
	items, _, err := c.store.Roster(t.Context(), a.Owner)
	if err != nil || len(items) != 2 || items[0].Contact != "nurse@example.com" || len(items[0].PendingIn) > 0 {
		t.Errorf("roster: %+v, %v", items, err)
	}
}

// Of privacy lists that does not count which a blocklist cannot say.
func TestImportOfPrivacyLists(t *testing.T) {
	const deny = "<item type='jid' value='a@x' action='deny' order='1'/>"
	for _, tt := range []struct {
		name, lists string
		blocked     []string
		left        bool
	}{
		{"no default", "<list name='l'>" + deny + "</list>", nil, true},
		{"another one", "<default name='d'/><list name='d'>" + deny + "</list><list name='l'><item type='jid' value='b@x' action='deny' order='1'/></list>", []string{"a@x"}, true},
		{"messages only", "<default name='d'/><list name='d'><item type='jid' value='a@x' action='deny' order='1'><message/></item></list>", nil, true},
		{"allowed", "<default name='d'/><list name='d'><item type='jid' value='a@x' action='allow' order='1'/></list>", nil, true},
		{"by group", "<default name='d'/><list name='d'>" + deny + "<item type='group' value='g' action='deny' order='2'/></list>", []string{"a@x"}, true},
		{"everybody", "<default name='d'/><list name='d'><item action='deny' order='2'/></list>", nil, true},
		{"beside a blocklist", "<default name='d'/><list name='d'>" + deny + deny + "</list></query><blocklist xmlns='urn:xmpp:blocking'><item jid='c@x'/></blocklist><query xmlns='jabber:iq:privacy'>",
			[]string{"a@x", "c@x"}, false},
		{"beside a malformed address", "</query><blocklist xmlns='urn:xmpp:blocking'><item jid='@x'/><item jid='c@x'/></blocklist><query xmlns='jabber:iq:privacy'>",
			[]string{"c@x"}, true},
		{"none", "", nil, false},
	} {
		c := newCluster(t, 0, nil)
		done := importInto(t, c.store, "<server-data xmlns='urn:xmpp:pie:0'><host jid='example.com'><user name='juliet'>"+
			"<query xmlns='jabber:iq:privacy'>"+tt.lists+"</query></user></host></server-data>", false)
		if got := c.blocked("juliet"); !slices.Equal(got, tt.blocked) {
			t.Errorf("%s: blocked are %q, want %q", tt.name, got, tt.blocked)
		}
		if left := len(done.LeftOut) > 0; left != tt.left {
			t.Errorf("%s: left out: %q", tt.name, done.LeftOut)
		}
	}
}

func TestImportOfKeys(t *testing.T) {
	keys := func(mechanism string, size int, iterations string) string {
		key := base64.StdEncoding.EncodeToString(make([]byte, size))
		return "<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='" + mechanism + "'><iter-count>" + iterations + "</iter-count><salt>AAAA</salt><server-key>" +
			key + "</server-key><stored-key>" + key + "</stored-key></scram-credentials>"
	}
	good := keys("SCRAM-SHA-256", 32, "4096")
	for _, tt := range []struct {
		name, user, keys string
		mechanisms       string
		leftOut          string
	}{
		{"good", "", good + keys("SCRAM-SHA-1", 20, "1"), "SCRAM-SHA-1 SCRAM-SHA-256", "^$"},
		{"with channel binding", "", keys("SCRAM-SHA-512-PLUS", 64, "10000000"), "SCRAM-SHA-512", "^$"},
		{"too short", "", good + keys("SCRAM-SHA-1", 3, "4096"), "SCRAM-SHA-256", `"SCRAM-SHA-1": .*-key has 3 bytes and not 20$`},
		{"unknown", "", good + keys("SCRAM-MD5", 16, "4096"), "SCRAM-SHA-256", `"SCRAM-MD5": the mechanism is not known here$`},
		{"none", "", good + keys("", 32, "4096"), "SCRAM-SHA-256", `"": the mechanism`},
		{"twice", "", good + keys("SCRAM-SHA-256", 32, "4097"), "SCRAM-SHA-256", `"SCRAM-SHA-256": there are others before$`},
		{"not base64", "", good + strings.Replace(keys("SCRAM-SHA-1", 20, "4096"), "<salt>", "<salt>!", 1), "SCRAM-SHA-256", `salt is not base64$`},
		{"too much work", "", good + keys("SCRAM-SHA-1", 20, "10000001"), "SCRAM-SHA-256", `iter-count is "10000001", not a number from 1 to 10000000$`},
		{"no work", "", good + keys("SCRAM-SHA-1", 20, "0"), "SCRAM-SHA-256", `iter-count is "0"`},
		{"none that is good", "", keys("SCRAM-SHA-1", 3, "4096"), "", `none of the keys can be used; imlb user passwd`},
		{"a password", " password='R0m30'", keys("SCRAM-SHA-1", 3, "4096"), "SCRAM-SHA-1 SCRAM-SHA-256 SCRAM-SHA-512", `has 3 bytes and not 20$`},
	} {
		s := storetest.NewMemory()
		done, err := backend.ImportUsers(t.Context(), s, strings.NewReader("<server-data xmlns='urn:xmpp:pie:0'><host jid='example.com'><user name='alice'"+
			tt.user+">"+tt.keys+"</user></host></server-data>"), backend.ImportOptions{Domain: domain, ScramIterations: 1})
		if err != nil {
			t.Fatal(err)
		}
		creds, err := s.Credentials(t.Context(), "alice@example.com")
		var mechanisms []string
		for _, c := range creds {
			mechanisms = append(mechanisms, c.Mechanism)
		}
		if got := strings.Join(mechanisms, " "); err != nil || got != tt.mechanisms {
			t.Errorf("%s: keys for %s, %v", tt.name, got, err)
		}
		if got := strings.Join(done.LeftOut, "\n"); !regexp.MustCompile(tt.leftOut).MatchString(got) {
			t.Errorf("%s: left out %q", tt.name, got)
		}
	}
}

// All that users may have can be imported, however large it is.
func TestImportOfMuch(t *testing.T) {
	s := storetest.NewMemory()
	much := strings.Repeat(" ", 20<<20)
	private := "<y xmlns='urn:y'>" + strings.Repeat("y", 5<<20) + "</y>"
	done := importInto(t, s, "<server-data xmlns='urn:xmpp:pie:0'><host jid='example.com'><user name='alice'>"+
		"<query xmlns='jabber:iq:roster'><item jid='bob@example.com'/>"+much+"<item jid='carol@example.com'/>"+much+"</query>"+
		"<offline-messages><message xmlns='jabber:client' from='bob@example.com'><body>"+strings.Repeat("x", 5<<20)+"</body></message>"+
		"<message xmlns='jabber:client' from='bob@example.com'><body>"+strings.Repeat("x", 1<<20)+"</body></message></offline-messages>"+
		"<query xmlns='jabber:iq:private'>"+private+"</query><vCard xmlns='vcard-temp'>"+strings.Repeat("v", 960<<10)+"</vCard></user></host></server-data>", false)
	if len(done.LeftOut) != 1 || !strings.Contains(done.LeftOut[0], "longer than nodes deliver") {
		t.Errorf("left out: %.300q", done.LeftOut)
	}
	a, err := s.Account(t.Context(), "alice@example.com")
	if err != nil {
		t.Fatal(err)
	}
	if head, _, err := s.Head(t.Context(), a.Owner); err != nil || head != 1 {
		t.Errorf("%d messages, %v", head, err)
	}
	if items, _, err := s.Roster(t.Context(), a.Owner); err != nil || len(items) != 2 {
		t.Errorf("%d contacts, %v", len(items), err)
	}
	if doc, err := s.PrivateXMLIn(t.Context(), a.Owner, "urn:y"); err != nil || string(doc.XML) != private {
		t.Errorf("private XML of %d bytes, %v", len(doc.XML), err)
	}
	if vcard, err := s.VCard(t.Context(), a.Owner); err != nil || len(vcard) < 960<<10 {
		t.Errorf("vCard of %d bytes, %v", len(vcard), err)
	}
}

// importedAgain returns a store in which a document was imported.
func importedAgain(t *testing.T, document string) store.Store {
	t.Helper()
	s := storetest.NewMemory()
	importInto(t, s, document, false)
	return s
}

// Other servers may write each element of the private storage in a query of its own.
func TestImportOfPrivatePieces(t *testing.T) {
	s := storetest.NewMemory()
	done := importInto(t, s, "<server-data xmlns='urn:xmpp:pie:0'><host jid='example.com'><user name='juliet'>"+
		"<query xmlns='jabber:iq:private'><a xmlns='urn:x'/><b xmlns='urn:y'/></query><query xmlns='jabber:iq:private'/>"+
		"<query xmlns='jabber:iq:private'><c xmlns='urn:x'/></query></user></host></server-data>", false)
	a, err := s.Account(t.Context(), "juliet@example.com")
	if err != nil {
		t.Fatal(err)
	}
	docs, err := s.PrivateXML(t.Context(), a.Owner)
	want := []store.PrivateXML{{Space: "urn:x", XML: []byte("<a xmlns='urn:x'/><c xmlns='urn:x'/>")}, {Space: "urn:y", XML: []byte("<b xmlns='urn:y'/>")}}
	if err != nil || !reflect.DeepEqual(docs, want) || len(done.LeftOut) > 0 {
		t.Errorf("got %q, %v; left out %q", docs, err, done.LeftOut)
	}
}

func TestImportIncludes(t *testing.T) {
	files := fstest.MapFS{
		"example.com.xml":        {Data: []byte("<host xmlns='urn:xmpp:pie:0' xmlns:xi='http://www.w3.org/2001/XInclude' jid='example.com'><xi:include href='example.com/juliet.xml'/></host>")},
		"example.com/juliet.xml": {Data: []byte("<user xmlns='urn:xmpp:pie:0' name='juliet'><include xmlns='http://www.w3.org/2001/XInclude' href='roster.xml'/></user>")},
		"roster.xml":             {Data: []byte("<query xmlns='jabber:iq:roster'><item jid='romeo@example.net'/></query>")},
		"loop.xml":               {Data: []byte("<host xmlns='urn:xmpp:pie:0' jid='example.com'><include xmlns='http://www.w3.org/2001/XInclude' href='loop.xml'/></host>")},
	}
	load := func(name string, open func(string) (io.ReadCloser, error)) (store.Store, error) {
		s := storetest.NewMemory()
		root := "<server-data xmlns='urn:xmpp:pie:0'><include xmlns='http://www.w3.org/2001/XInclude' href='" + name + "'/></server-data>"
		_, err := backend.ImportUsers(t.Context(), s, strings.NewReader(root), backend.ImportOptions{Domain: domain, Open: open})
		return s, err
	}
	open := func(name string) (io.ReadCloser, error) { return files.Open(name) }
	s, err := load("example.com.xml", open)
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Account(t.Context(), "juliet@example.com")
	if err != nil {
		t.Fatal(err)
	}
	if items, _, err := s.Roster(t.Context(), a.Owner); err != nil || len(items) != 1 {
		t.Errorf("roster: %v, %v", items, err)
	}
	if _, err := load("loop.xml", open); err != nil {
		t.Errorf("a file that includes itself: %v", err)
	}
	if _, err := load("missing.xml", open); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := load("example.com.xml", nil); err == nil {
		t.Error("a file is included where none is to be")
	}
}

// A document that breaks off, or makes no sense, leaves nothing behind.
func TestImportErrors(t *testing.T) {
	whole := export(t, fullAccount(t), "alice@example.com")
	for name, document := range map[string]string{
		"empty":            "",
		"another root":     "<server-data/>",
		"a doctype":        "<!DOCTYPE x><server-data xmlns='urn:xmpp:pie:0'/>",
		"cut off":          whole[:len(whole)/2],
		"cut off late":     whole[:strings.Index(whole, "</archive>")],
		"wrong order":      strings.Replace(whole, "id='12'", "id='99'", 1),
		"no number":        strings.Replace(whole, "id='12'", "id='x'", 1),
		"wrong span":       strings.Replace(whole, "head='21'", "head='-1'", 1),
		"a large thing":    strings.Replace(whole, "<archive", "<query xmlns='jabber:iq:private'><x/></query><query xmlns='jabber:iq:private'>"+strings.Repeat(" ", 33<<20)+"</query><archive", 1),
		"a late span":      strings.Replace(whole, "</archive>", "</archive><timeline xmlns='urn:imlb:transfer:0' first='1' head='1' delivered='1'/>", 1),
		"a wrong role":     strings.Replace(whole, "role='moderator'", "role='king'", 1),
		"a wrong state":    strings.Replace(whole, "suspended='true'", "suspended='perhaps'", 1),
		"a wrong end":      strings.Replace(whole, "until='2099", "until='soon", 1),
		"another encoding": strings.Replace(whole, "encoding='UTF-8'", "encoding='ISO-8859-1'", 1),
		"a bad prefix":     strings.Replace(whole, "<archive ", "<p:x/><archive ", 1),
		"a bad attribute":  strings.Replace(whole, "<archive ", "<x y=z/><archive ", 1),
		"a bad end":        strings.Replace(whole, "<archive ", "<x><y></x></y><archive ", 1),
		"a tag in a tag":   strings.Replace(whole, "<archive ", "<x <y/>/><archive ", 1),
		"not well-formed":  strings.Replace(whole, "</host>", "</hots>", 1),
	} {
		s := storetest.NewMemory()
		_, err := backend.ImportUsers(t.Context(), s, strings.NewReader(document), backend.ImportOptions{Domain: domain})
		all, listErr := s.ListAccounts(t.Context(), "", 10)
		if name == "not well-formed" { // after the user, who was complete
			all = nil
		}
		if _, err := s.Account(t.Context(), store.UnfinishedName("alice@example.com")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: what is not finished stays: %v", name, err)
		}
		if err == nil || listErr != nil || len(all) > 0 {
			t.Errorf("%s: %v; accounts: %v, %v", name, err, all, listErr)
		}
	}
}

// killedImport is a store in which an import of alice was killed.
func killedImport(t *testing.T, s store.Store) {
	t.Helper()
	a, err := s.CreateAccount(t.Context(), store.UnfinishedName("alice@example.com"), nil)
	if err == nil {
		err = s.RestoreEntries(t.Context(), a.Owner, []store.Entry{{Seq: 1, Peer: "bob@example.com", Stanza: []byte("<message/>")}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What a killed import has left goes with the user's account, and if there is none, and is
// not in the way of another import.
func TestKilledImport(t *testing.T) {
	full := fullAccount(t)
	whole := export(t, full, "alice@example.com")
	killedImport(t, full)
	entries := func(s store.Store) (rows int64) {
		t.Helper()
		erased, err := backend.DeleteUser(t.Context(), s, "alice@example.com")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range erased {
			if e.Table == "entries" {
				rows += e.Rows
			}
		}
		if _, err := s.Account(t.Context(), store.UnfinishedName("alice@example.com")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("what the import has left is still there: %v", err)
		}
		return rows
	}
	if n := entries(full); n != 10 {
		t.Errorf("%d entries were erased with the account", n)
	}
	s := storetest.NewMemory()
	killedImport(t, s)
	if n := entries(s); n != 1 {
		t.Errorf("%d entries were erased without an account", n)
	}
	killedImport(t, s)
	if done := importInto(t, s, whole, false); len(done.Users) != 1 {
		t.Errorf("imported %+v", done)
	}
	if n := entries(s); n == 0 {
		t.Error("nothing was imported")
	}
	if _, err := backend.DeleteUser(t.Context(), s, "alice@example.com"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleting nobody: %v", err)
	}
}

// FuzzImport reads anything. What it takes it must be able to write, and to read again.
func FuzzImport(f *testing.F) {
	f.Add(foreign)
	f.Add("<server-data xmlns='urn:xmpp:pie:0'><host jid='example.com'><user name='a'><timeline xmlns='urn:imlb:transfer:0' first='2' head='9' delivered='3'/><account xmlns='urn:imlb:transfer:0' role='admin' suspended='1' until='2099-01-31T12:00:00Z' reason='x'/>" +
		"<offline-messages><message xmlns='jabber:client' from='b@c'><hidden xmlns='urn:imlb:transfer:0'/><stanza-id xmlns='urn:xmpp:sid:0' by='a@example.com' id='4'/></message></offline-messages>" +
		"<prefs xmlns='urn:xmpp:mam:2' default='never'/><scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-1'><iter-count>1</iter-count></scram-credentials></user></host></server-data>")
	f.Fuzz(func(t *testing.T, document string) {
		s := storetest.NewMemory()
		done, err := backend.ImportUsers(t.Context(), s, strings.NewReader(document), backend.ImportOptions{Domain: domain, Replace: true, ScramIterations: 1})
		if err != nil {
			return
		}
		for _, user := range done.Users {
			whole := export(t, s, user)
			importInto(t, s, whole, true)
			if again := export(t, s, user); again != whole {
				t.Errorf("exported again:\n%s\nat first:\n%s", again, whole)
			}
		}
	})
}

package backend_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
)

const (
	nsAdmin    = "http://jabber.org/protocol/admin"
	nsCommands = "http://jabber.org/protocol/commands"
	setRole    = "urn:imlb:admin:0#set-role"
)

// command writes a request for a command and returns the answer.
func (cl *client) command(node, attrs, payload string) string {
	cl.t.Helper()
	if !strings.Contains(node, "#") {
		node = nsAdmin + "#" + node
	}
	cl.write("<iq type='set' id='c' to='" + domain + "'><command xmlns='" + nsCommands + "' node='" + node + "' " + attrs + ">" + payload + "</command></iq>")
	return cl.skipTo("^<iq [^>]*id='c'")
}

// submit is a form with fields.
func submit(fields ...string) string {
	return "<x xmlns='jabber:x:data' type='submit'>" + field("FORM_TYPE", nsAdmin) + strings.Join(fields, "") + "</x>"
}

// runs executes a command that has one form, and returns the last answer.
func (cl *client) runs(node string, fields ...string) string {
	cl.t.Helper()
	answer := cl.command(node, "action='execute'", "")
	if !strings.Contains(answer, " status='executing'") {
		return answer
	}
	return cl.command(node, "sessionid='"+between(answer, "sessionid='", "'")+"'", submit(fields...))
}

func (cl *client) done(answer, pattern string) {
	cl.t.Helper()
	if !strings.Contains(answer, " status='completed'") || !regexp.MustCompile(pattern).MatchString(answer) {
		cl.t.Errorf("got\n\t%s\nwant\n\t%s", answer, pattern)
	}
}

// administered starts a cluster in which alice is an admin.
func administered(t *testing.T, nodes int, tune func(*backend.Options)) *cluster {
	t.Helper()
	c := newCluster(t, nodes, func(o *backend.Options) {
		o.Timeouts.Accounts = time.Hour // what is to happen happens because a node says so
		o.Timeouts.Close = 50 * time.Millisecond
		if tune != nil {
			tune(o)
		}
	})
	if err := c.store.SetRole(t.Context(), "alice@"+domain, store.RoleAdmin); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCommandDiscovery(t *testing.T) {
	c := administered(t, 1, nil)
	alice, bob := c.login(0, "alice", "phone"), c.login(0, "bob", "phone")
	ask := func(cl *client, kind, node string) string {
		t.Helper()
		cl.write("<iq type='get' id='d' to='" + domain + "'><query xmlns='http://jabber.org/protocol/disco#" + kind + "'" + node + "/></iq>")
		return cl.expect("id='d'")
	}
	const list = " node='" + nsCommands + "'"
	const one = " node='" + nsAdmin + "#add-user'"
	for _, tt := range []struct {
		name, got, want string
	}{
		{"server, admin", ask(alice, "info", ""), "<feature var='" + nsCommands + "'/>"},
		{"server, user", ask(bob, "info", ""), "<feature var='" + nsCommands + "'/>"}, // the same for all, as its hash is
		{"list, admin", ask(alice, "items", list), "<item jid='example.com' node='" + nsAdmin + "#add-user' name='Add a user'/>"},
		{"list's info, admin", ask(alice, "info", list), "<identity category='automation' type='command-list'"},
		{"command's info, admin", ask(alice, "info", one), one + "><identity category='automation' type='command-node' name='Add a user'/><feature var='" + nsCommands + "'/><feature var='jabber:x:data'/></query>"},
		{"list, user", ask(bob, "items", list), "<query xmlns='http://jabber.org/protocol/disco#items'" + list + "></query>"},
		{"list's info, user", ask(bob, "info", list), "<item-not-found "},
		{"command's info, user", ask(bob, "info", one), "<item-not-found "},
		{"no command", ask(alice, "info", " node='x'"), "<item-not-found "},
	} {
		if !strings.Contains(tt.got, tt.want) {
			t.Errorf("%s: got\n%s", tt.name, tt.got)
		}
	}
}

// The errors of XEP-0050 §4.4, and who may do nothing.
func TestCommandErrors(t *testing.T) {
	c := administered(t, 1, nil)
	alice, bob := c.login(0, "alice", "phone"), c.login(0, "bob", "phone")
	begin := func(node string) string {
		return "sessionid='" + between(alice.command(node, "", ""), "sessionid='", "'") + "'"
	}
	own := func(condition, own string) string {
		return "<" + condition + " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/><" + own + " xmlns='" + nsCommands + "'/></error>"
	}
	good := submit(field("accountjid", "bob@example.com"))
	if _, err := c.store.CreateAccount(t.Context(), store.UnfinishedName("bob@example.com"), nil); err != nil { // an import is under way
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, got, want string
	}{
		{"no admin", bob.command("get-online-users-num", "", ""), "type='auth'><forbidden "},
		{"no admin, with a session", bob.command("add-user", begin("add-user"), good), "type='auth'><forbidden "},
		{"no command", alice.command("get-user-password", "", ""), "<item-not-found "},
		{"malformed action", alice.command("add-user", "action='undo'", ""), own("bad-request", "malformed-action")},
		{"no session", alice.command("add-user", "action='complete'", good), own("bad-request", "bad-sessionid")},
		{"no such session", alice.command("add-user", "sessionid='x'", good), own("bad-request", "bad-sessionid")},
		{"session of another command", alice.command("user-stats", begin("add-user"), good), own("bad-request", "bad-sessionid")},
		{"next on the last stage", alice.command("user-stats", "action='next' "+begin("user-stats"), good), own("bad-request", "bad-action")},
		{"prev on the first stage", alice.command("user-stats", "action='prev' "+begin("user-stats"), good), own("bad-request", "bad-action")},
		{"complete too early", alice.command(setRole, "action='complete' "+begin(setRole), good), own("bad-request", "bad-action")},
		{"no form", alice.command("user-stats", begin("user-stats"), ""), own("bad-request", "bad-payload")},
		{"no answer", alice.command("user-stats", begin("user-stats"), submit(field("accountjid", ""))), own("bad-request", "bad-payload")},
		{"another form", alice.command("user-stats", begin("user-stats"), strings.Replace(good, nsAdmin, "urn:x", 1)), own("bad-request", "bad-payload")},
		{"a form to fill in", alice.command("user-stats", begin("user-stats"), strings.Replace(good, "submit", "form", 1)), own("bad-request", "bad-payload")},
		{"not in the list", alice.runs("get-online-users-list", field("max_items", "7")), own("bad-request", "bad-payload")},
		{"no address", alice.runs("user-stats", field("accountjid", "@")), "<jid-malformed "},
		{"another domain", alice.runs("user-stats", field("accountjid", "bob@example.org")), "<item-not-found "},
		{"no user", alice.runs("user-stats", field("accountjid", "mallory@example.com")), "<item-not-found "},
		{"a name that is taken", alice.runs("add-user", field("accountjid", "bob@example.com"), field("password", "correct horse"), field("password-verify", "correct horse")), "<conflict "},
		{"passwords that differ", alice.runs("add-user", field("accountjid", "dave@example.com"), field("password", "correct horse"), field("password-verify", "correct house")), "<not-acceptable "},
		{"a short password", alice.runs("change-user-password", field("accountjid", "bob@example.com"), field("password", "1234567")), "<not-acceptable "},
		{"nobody's password", alice.runs("change-user-password", field("accountjid", "mallory@example.com"), field("password", "correct horse")), "<item-not-found "},
		{"a time that is over", alice.runs("disable-user", field("accountjids", "bob@example.com"), field("{urn:imlb:admin:0}until", "2020-01-01T00:00:00Z")), "<not-acceptable "},
		{"one of them is missing", alice.runs("delete-user", field("accountjids", "bob@example.com", "mallory@example.com")), "<item-not-found "},
		{"an address with a resource", alice.runs("delete-user", field("accountjids", "bob@example.com/import")), "<item-not-found "},
		{"another", alice.runs("disable-user", field("accountjids", "bob@example.com/phone")), "<item-not-found "},
		{"somebody's session's password", alice.runs("change-user-password", field("accountjid", "bob@example.com/phone"), field("password", "correct horse")), "<item-not-found "},
		{"itself", alice.runs("delete-user", field("accountjids", "bob@example.com", "alice@example.com")), "<not-allowed "},
		{"its own role", alice.runs(setRole, field("accountjid", "alice@example.com")), "<not-allowed "},
	} {
		if !strings.Contains(tt.got, tt.want) || !strings.Contains(tt.got, "type='error'") {
			t.Errorf("%s: got\n%s", tt.name, tt.got)
		}
	}
	bob.sync() // nothing has happened to it
}

// An admin is one no more from the moment on at which it is taken away.
func TestNoAdminAnyMore(t *testing.T) {
	c := administered(t, 1, nil)
	alice := c.login(0, "alice", "phone")
	alice.done(alice.command("get-online-users-num", "", ""), "<field var='onlineusersnum' [^>]*><value>1</value>")
	if err := c.store.SetRole(t.Context(), "alice@"+domain, store.RoleModerator); err != nil {
		t.Fatal(err)
	}
	if got := alice.command("get-online-users-num", "", ""); !strings.Contains(got, "<forbidden ") {
		t.Errorf("got %s", got)
	}
}

// A command of two stages: there and back, and given up.
func TestCommandStages(t *testing.T) {
	c := administered(t, 1, nil)
	alice := c.login(0, "alice", "phone")
	first := alice.command(setRole, "", "")
	id := "sessionid='" + between(first, "sessionid='", "'") + "' "
	want := func(got string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(got, part) {
				t.Errorf("got\n%s\nwithout\n%s", got, part)
			}
		}
	}
	who := submit(field("accountjid", "bob@example.com"))
	want(first, " status='executing'", "<actions execute='next'><next/></actions>", "var='accountjid' type='jid-single'", "<required/>")
	want(alice.command(setRole, id, who), "<actions execute='complete'><prev/><complete/></actions>", "<value>user</value><option label='user'>")
	want(alice.command(setRole, id+"action='prev'", ""), "<actions execute='next'><next/></actions>")
	want(alice.command(setRole, id+"action='next'", submit(field("accountjid", "mallory@example.com"))), "<item-not-found ")
	want(alice.command(setRole, id+"action='next'", who), "<value>user</value>")
	want(alice.command(setRole, id+"action='complete'", submit(field("{urn:imlb:admin:0}role", "moderator"))), " status='completed'", "<note type='info'>bob@example.com has the role moderator</note>")
	want(alice.command(setRole, id, who), "<bad-sessionid ")
	if a, err := c.store.Account(t.Context(), "bob@"+domain); err != nil || a.Role != store.RoleModerator {
		t.Errorf("got %+v, %v", a, err)
	}
	id = "sessionid='" + between(alice.command(setRole, "", ""), "sessionid='", "'") + "' "
	want(alice.command(setRole, id+"action='cancel'", ""), " status='canceled'")
	want(alice.command(setRole, id, who), "<bad-sessionid ")
}

// The commands that wait for an answer are bounded.
func TestCommandRunsAreBounded(t *testing.T) {
	c := administered(t, 1, nil)
	alice := c.login(0, "alice", "phone")
	var ids []string
	for range 11 {
		ids = append(ids, "sessionid='"+between(alice.command("user-stats", "", ""), "sessionid='", "'")+"'")
	}
	who := submit(field("accountjid", "bob@example.com"))
	if got := alice.command("user-stats", ids[0], who); !strings.Contains(got, "<bad-sessionid ") {
		t.Errorf("the oldest: %s", got)
	}
	for _, id := range ids[1:] {
		alice.done(alice.command("user-stats", id, who), "<field var='rostersize' type='text-single'><value>0</value>")
	}
}

func TestAdministration(t *testing.T) {
	c := administered(t, 2, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")

	alice.done(alice.runs("add-user", field("accountjid", "Dave@example.com"), field("password", "correct horse"), field("password-verify", "correct horse")), "<note type='info'>added: dave@example.com</note>")
	if answer := c.tryLogin("dave", "correct horse"); !strings.HasPrefix(answer, "<success ") {
		t.Errorf("dave is answered with %s", answer)
	}
	alice.done(alice.runs("change-user-password", field("accountjid", "dave@example.com"), field("password", "battery staple")), "changed: dave")
	if answer := c.tryLogin("dave", "battery staple"); !strings.HasPrefix(answer, "<success ") {
		t.Errorf("dave is answered with %s", answer)
	}

	alice.done(alice.command("get-registered-users-num", "", ""), "var='registeredusersnum' type='text-single'><value>4</value>")
	alice.done(alice.command("get-online-users-num", "", ""), "var='onlineusersnum' type='text-single'><value>2</value>")
	alice.done(alice.runs("get-registered-users-list", field("max_items", "25")), "<value>alice@example.com</value><value>bob@example.com</value><value>carol@example.com</value><value>dave@example.com</value></field></x></command>")
	alice.done(alice.runs("get-online-users-list"), "var='onlineuserjids' type='jid-multi'><value>alice@example.com</value><value>bob@example.com</value></field>")
	alice.done(alice.runs("get-user-lastlogin", field("accountjids", "bob@example.com", "dave@example.com")),
		"<value>bob@example.com</value><value>dave@example.com</value></field><field var='lastlogin' type='text-multi'><value>20[-0-9T:]*Z</value><value>never</value>")
	alice.done(alice.runs("user-stats", field("accountjid", "bob@example.com")), "var='onlineresources' type='text-multi'><value>desk</value>")

	alice.done(alice.runs("announce", "<field var='announcement'><value>Down in 2 minutes.</value><value/><value>Log &lt;off&gt;!</value></field>"), "users who are told: 2")
	bob.expect("^<message type='headline' from='example.com' to='bob@example.com'><body>Down in 2 minutes.&#xA;&#xA;Log &lt;off&gt;!</body></message>$")

	desk := c.login(0, "bob", "pad")
	alice.done(alice.runs("end-user-session", field("accountjids", "bob@example.com/pad")), "ended: bob@example.com/pad")
	desk.end("policy-violation")
	bob.sync()
	alice.done(alice.runs("end-user-session", field("accountjids", "bob@example.com")), "ended: bob@example.com")
	bob.end("policy-violation")
	c.gone("bob")

	bob = c.login(1, "bob", "desk")
	alice.done(alice.runs("disable-user", field("accountjids", "bob@example.com"), field("{urn:imlb:admin:0}reason", "spam")), "suspended: bob@example.com")
	bob.end("policy-violation")
	if answer := c.tryLogin("bob", password); !strings.Contains(answer, "<account-disabled/>") || !strings.Contains(answer, "suspended: spam") {
		t.Errorf("bob is answered with %s", answer)
	}
	alice.done(alice.command("get-disabled-users-num", "", ""), "var='disabledusersnum' type='text-single'><value>1</value>")
	alice.done(alice.runs("get-disabled-users-list", field("max_items", "none")), "var='disableduserjids' type='jid-multi'><value>bob@example.com</value>")
	alice.done(alice.runs("reenable-user", field("accountjids", "bob@example.com")), "enabled: bob@example.com")

	bob = c.login(1, "bob", "desk")
	alice.done(alice.runs("delete-user", field("accountjids", "bob@example.com", "dave@example.com")), "deleted: bob@example.com, dave@example.com")
	bob.end("not-authorized")
	alice.done(alice.command("get-registered-users-num", "", ""), "<value>2</value>")
}

// A list ends somewhere, and says so.
func TestListIsBounded(t *testing.T) {
	c := administered(t, 1, nil)
	for i := range 30 {
		c.account(fmt.Sprintf("user-%02d", i))
	}
	alice := c.login(0, "alice", "phone")
	answer := alice.runs("get-registered-users-list", field("max_items", "25"))
	alice.done(answer, "<note type='info'>there are more</note>")
	if n := strings.Count(answer, "@example.com</value>"); n != 25 {
		t.Errorf("%d users are listed", n)
	}
}

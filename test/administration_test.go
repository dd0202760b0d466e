package test

import (
	"strconv"
	"strings"
	"testing"
)

// TestAdministration follows an account from its registration through the front to its
// end by the command line, which knows no node: only the database.
func TestAdministration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, devOptions{dir: dir, names: []string{"alice"}})
	alice := d.account(t)
	d.stop()

	own := newDaemons(t, dir, particulars{node: "registration: {open: true, password_change: true}\n"})
	own.start(t, d)

	carol := account{name: "carol", password: "correct horse", jid: "carol@localhost"}
	s := d.dialTLS(t)
	if f := s.open(d.Domain); f.child("http://jabber.org/features/iq-register", "register").XMLName.Local == "" {
		t.Fatalf("registration is not offered: %+v", f)
	}
	s.write("<iq type='set' id='r'><query xmlns='jabber:iq:register'><username>%s</username><password>%s</password></query></iq>", carol.name, carol.password)
	if e := s.read(); e.attr("type") != "result" || e.attr("id") != "r" {
		t.Fatalf("registration: %+v", e)
	}
	if e := s.plain(carol, carol.password); !e.is(nsSASL, "success") {
		t.Fatalf("login on the stream of the registration: %+v", e)
	}

	user := func(args ...string) string {
		t.Helper()
		out, code := runs(t, "", program(t), append([]string{"user", "--config", own.node}, args...))
		if code != 0 {
			t.Fatalf("imlb user %v: exit code %d\n%s", args, code, out)
		}
		return out
	}
	other := d.dialTLS(t)
	other.session(d.Domain, "PLAIN", alice)
	first := d.dialTLS(t)
	first.session(d.Domain, "PLAIN", carol)
	if out := user("show", "carol"); !strings.Contains(out, "state: active\n") || !strings.Contains(out, " on only since ") {
		t.Errorf("imlb user show: %s", out)
	}
	user("suspend", "carol", "--reason", "spam")
	first.wantStreamError("policy-violation")
	refused := d.dialTLS(t)
	refused.open(d.Domain)
	if e := refused.plain(carol, carol.password); e.child(nsSASL, "account-disabled").XMLName.Local == "" {
		t.Errorf("a suspended account is answered with %+v", e)
	}
	user("resume", "carol")
	second := d.dialTLS(t)
	second.session(d.Domain, "PLAIN", carol)
	user("delete", "carol")
	second.wantStreamError("not-authorized")
	other.write("<iq type='get' id='p' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
	if e := other.read(); e.attr("id") != "p" {
		t.Errorf("another user's session: %+v", e)
	}
	other.close()

	user("role", "alice", "admin")
	needSlixmpp(t)
	out, code := runs(t, "", python, []string{
		"clients/admin.py", "-j", alice.jid, "-p", alice.password, "--new", "dave@localhost",
		"--host", "127.0.0.1", "--port", strconv.Itoa(own.base + 2), "--ca", d.CA,
	})
	if code != 0 || !strings.Contains("\n"+out, "\nok\n") {
		t.Errorf("admin.py ended with %d:\n%s", code, out)
	}
}

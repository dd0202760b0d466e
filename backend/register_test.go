package backend_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
)

const (
	nsRegister    = "jabber:iq:register"
	registerGet   = "<iq type='get' id='r1'><query xmlns='" + nsRegister + "'/></iq>"
	registerOffer = "<register xmlns='http://jabber.org/features/iq-register'/>"
)

// registerSet asks for an account, or for another password.
func registerSet(name, pass string) string {
	return "<iq type='set' id='r2'><query xmlns='" + nsRegister + "'><username>" + name + "</username><password>" + pass + "</password></query></iq>"
}

func registers(r backend.Registration) func(*backend.Options) {
	return func(o *backend.Options) {
		o.Timeouts.Close = 50 * time.Millisecond
		o.Registration = r
	}
}

func refusal(condition string) string {
	return "^<iq [^>]*type='error'.*<" + condition + " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
}

func TestRegister(t *testing.T) {
	c := newCluster(t, 1, registers(backend.Registration{Open: true}))
	cl := c.dial(0, leg{})
	if features := cl.open(); !strings.Contains(features, registerOffer) {
		t.Errorf("got %s", features)
	}
	cl.write(registerGet)
	cl.expect("^<iq type='result' id='r1' from='example.com'><query xmlns='jabber:iq:register'><instructions>[^<]+</instructions><username/><password/></query></iq>$")
	cl.write(registerSet("Dave", "correct horse"))
	cl.expect("^<iq type='result' id='r2' from='example.com'></iq>$")
	cl.write(auth("PLAIN", b64("\x00dave\x00correct horse")))
	cl.expect("^<success ")
	a, err := c.store.Account(t.Context(), "dave@"+domain)
	if err != nil || a.Role != store.RoleUser {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestRegisterAnswers(t *testing.T) {
	for _, tt := range []struct{ name, write, expect string }{
		{"taken", registerSet("alice", "correct horse"), refusal("conflict")},
		{"taken, any case", registerSet("ALICE", "correct horse"), refusal("conflict")},
		{"no name", registerSet("", "correct horse"), refusal("not-acceptable")},
		{"no password", registerSet("dave", ""), refusal("not-acceptable")},
		{"short password", registerSet("dave", "1234567"), refusal("not-acceptable") + ".*at least 8 characters"},
		{"forbidden password", registerSet("dave", "correct&#xE000;horse"), refusal("not-acceptable")},
		{"no possible name", registerSet("a b", "correct horse"), refusal("not-acceptable")},
		{"an address as name", registerSet("dave@example.com", "correct horse"), refusal("not-acceptable")},
		{"remove", "<iq type='set' id='r3'><query xmlns='jabber:iq:register'><remove/></query></iq>", refusal("unexpected-request")},
		{"something else", "<iq type='get' id='r4'><ping xmlns='urn:xmpp:ping'/></iq>", "^<stream:error.*<not-authorized "},
		{"for another domain", strings.Replace(registerGet, "<iq", "<iq to='example.org'", 1), "^<stream:error.*<not-authorized "},
		{"no id", strings.Replace(registerGet, " id='r1'", "", 1), "^<stream:error.*<not-authorized "},
		{"an answer", strings.Replace(registerGet, "get", "result", 1), "^<stream:error.*<not-authorized "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, 1, registers(backend.Registration{Open: true}))
			cl := c.dial(0, leg{})
			cl.open()
			cl.write(tt.write)
			cl.expect(tt.expect)
			if _, err := c.store.Account(t.Context(), "dave@"+domain); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("there is an account: %v", err)
			}
		})
	}
}

// Where nobody may register, or everybody could read the password, it is not offered.
func TestRegisterNotOffered(t *testing.T) {
	for name, r := range map[string]backend.Registration{"closed": {PasswordChange: true, Cancel: true}, "in clear": {Open: true}} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 1, registers(r))
			cl := c.dial(0, leg{insecure: name == "in clear"})
			if features := cl.open(); strings.Contains(features, "<register") {
				t.Errorf("got %s", features)
			}
			cl.write(registerGet)
			cl.end("not-authorized")
		})
	}
}

func TestRegisterRate(t *testing.T) {
	for _, tt := range []struct {
		name    string
		r       backend.Registration
		outcome string
	}{
		{"source", backend.Registration{Open: true, PerSource: 2}, "source_limit"},
		{"total", backend.Registration{Open: true, Total: 2}, "total_limit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, 1, registers(tt.r))
			cl := c.dial(0, leg{})
			cl.open()
			cl.write(registerSet("dave", "correct horse"))
			cl.expect("type='result'")
			cl.write(registerSet("dave", "correct horse")) // who tries names out is slowed down as well
			cl.expect(refusal("conflict"))
			cl.write(registerSet("eve", "correct horse"))
			cl.expect("type='wait'.*<resource-constraint ")
			c.metric(0, "imlb_node_registrations_total", map[string]string{"outcome": tt.outcome}, 1)
			c.metric(0, "imlb_node_registrations_total", map[string]string{"outcome": "registered"}, 1)
		})
	}
}

func TestTooManyRegistrations(t *testing.T) {
	c := newCluster(t, 1, registers(backend.Registration{Open: true, PerSource: 100}))
	cl := c.dial(0, leg{})
	cl.open()
	for i := range 10 {
		cl.write(registerSet(fmt.Sprintf("dave-%d", i), "correct horse"))
		cl.expect("type='result'")
	}
	cl.write(registerSet("eve", "correct horse"))
	cl.expect("type='result'")
	cl.end("policy-violation")
}

func TestRegisterLoggedIn(t *testing.T) {
	everything := backend.Registration{PasswordChange: true, Cancel: true}
	remove := "<iq type='set' id='r3'><query xmlns='jabber:iq:register'><remove/></query></iq>"
	for _, tt := range []struct {
		name          string
		r             backend.Registration
		write, expect string
	}{
		{"get", everything, registerGet, "^<iq type='result' [^>]*><query xmlns='jabber:iq:register'><registered/><username>alice</username><password/></query></iq>$"},
		{"nothing is on", backend.Registration{}, registerGet, refusal("service-unavailable")},
		{"no password change", backend.Registration{Cancel: true}, registerSet("alice", "correct horse"), refusal("not-allowed")},
		{"no cancel", backend.Registration{PasswordChange: true}, remove, refusal("not-allowed")},
		{"somebody else", everything, registerSet("bob", "correct horse"), refusal("not-allowed")},
		{"no name", everything, registerSet("", "correct horse"), refusal("bad-request")},
		{"no password", everything, registerSet("alice", ""), refusal("bad-request")},
		{"short password", everything, registerSet("alice", "1234567"), refusal("not-acceptable")},
		{"more than remove", everything, strings.Replace(remove, "<remove/>", "<remove/><username>alice</username>", 1), refusal("bad-request")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, 1, registers(tt.r))
			alice := c.login(0, "alice", "phone")
			alice.write(tt.write)
			alice.expect(tt.expect)
			alice.sync()
			c.login(0, "alice", "desk") // with the same password
		})
	}
}

func TestChangePassword(t *testing.T) {
	c := newCluster(t, 1, registers(backend.Registration{PasswordChange: true}))
	alice := c.login(0, "alice", "phone")
	alice.write(registerSet("alice", "correct horse"))
	alice.expect("^<iq type='result' id='r2'")
	if answer := c.tryLogin("alice", password); !strings.Contains(answer, "<not-authorized/>") {
		t.Errorf("the old password is answered with %s", answer)
	}
	if answer := c.tryLogin("alice", "correct horse"); !strings.HasPrefix(answer, "<success ") {
		t.Errorf("the new password is answered with %s", answer)
	}
}

func TestCancelAccount(t *testing.T) {
	c := newCluster(t, 2, registers(backend.Registration{Cancel: true}))
	bob := c.online(0, "bob", "desk")
	phone, desk := c.login(0, "alice", "phone"), c.login(1, "alice", "desk")
	phone.write("<presence to='bob@example.com' type='subscribe'/>")
	bob.expect("type='subscribe'")
	phone.write("<iq type='set' id='r3'><query xmlns='jabber:iq:register'><remove/></query></iq>")
	phone.expect("^<iq type='result' id='r3'")
	phone.end("not-authorized")
	desk.end("not-authorized")
	bob.write("<iq type='get' id='v' to='alice@example.com/phone'><ping xmlns='urn:xmpp:ping'/></iq>")
	bob.skipTo(refusal("service-unavailable"))
	if answer := c.tryLogin("alice", password); !strings.Contains(answer, "<not-authorized/>") {
		t.Errorf("got %s", answer)
	}
}

func TestRegisterDisco(t *testing.T) {
	for on, r := range map[bool]backend.Registration{false: {}, true: {PasswordChange: true}} {
		c := newCluster(t, 1, registers(r))
		alice := c.login(0, "alice", "phone")
		alice.write("<iq type='get' id='d' to='example.com'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>")
		if got := strings.Contains(alice.expect("id='d'"), "<feature var='jabber:iq:register'/>"); got != on {
			t.Errorf("on %t: offered %t", on, got)
		}
	}
}

package test

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"imlb/test/need"
)

// startEchoBot runs the bot as a and waits until it is online.
func startEchoBot(t *testing.T, d *dev, a account) {
	t.Helper()
	needSlixmpp(t)
	host, port, err := net.SplitHostPort(d.Front.XMPP)
	if err != nil {
		t.Fatal(err)
	}
	bot := start(t, "echobot.py", python, []string{
		"clients/echobot.py",
		"-j", a.jid, "-p", a.password, "--host", host, "--port", port, "--ca", d.CA,
	})
	bot.awaitLine("online as " + a.jid)
}

// testEchoBot: the classic bot of slixmpp over STARTTLS answers a message.
func testEchoBot(t *testing.T, d *dev) {
	bot, alice := d.account(t), d.account(t)
	startEchoBot(t, d, bot)

	s := d.dialTLS(t)
	jid := s.session(d.Domain, "SCRAM-SHA-256", alice)
	s.write("<presence/><message to='%s' type='chat' id='e1'><body>is anybody there? &lt;3</body></message>", bot.jid)
	m := s.message()
	if got, want := m.body(), "Echo: is anybody there? <3"; got != want {
		t.Errorf("the bot said %q, want %q", got, want)
	}
	if m.attr("to") != jid || !strings.HasPrefix(m.attr("from"), bot.jid+"/") {
		t.Errorf("the answer went from %q to %q, want from a resource of %s to %s", m.attr("from"), m.attr("to"), bot.jid, jid)
	}
	s.close()
	r := d.awaitRecord(t, "of "+alice.jid, func(r record) bool { return r.text("user") == alice.jid })
	if r.text("reason") != "client-closed" || r.text("node") == "" {
		t.Errorf("session record %v: want reason client-closed and a node", r)
	}
}

// goSendxmpp returns the command line of Debian's go-sendxmpp for a user.
func goSendxmpp(t *testing.T, d *dev, a account, more ...string) (path string, args []string, env startOption) {
	t.Helper()
	path = need.Command(t, "go-sendxmpp")
	// The certificate is one for the domain; so the address has to say it, too.
	addr := strings.Replace(d.Front.XMPP, "127.0.0.1", d.Domain, 1)
	args = append([]string{"-j", addr, "-u", a.jid, "-p", a.password}, more...)
	return path, args, withEnv("SSL_CERT_FILE=" + d.CA)
}

// testGoSendxmpp: a command-line client sends to the echo bot, and, as another
// user, listens and receives.
func testGoSendxmpp(t *testing.T, d *dev) {
	alice, bob := d.account(t), d.account(t)

	path, args, env := goSendxmpp(t, d, bob, "-l")
	listener := start(t, "go-sendxmpp -l", path, args, env)

	path, args, env = goSendxmpp(t, d, alice, bob.jid)
	if out, code := runs(t, "hello from a shell\n", path, args, env); code != 0 {
		t.Fatalf("go-sendxmpp ended with %d:\n%s", code, out)
	}
	// Online or not yet: the message waits for the listener.
	line := listener.awaitLine("hello from a shell")
	if !strings.Contains(line, alice.jid) {
		t.Errorf("the listener printed %q, want the sender %s in it", line, alice.jid)
	}
}

// xmppJS starts a client of xmpp.js.
func xmppJS(t *testing.T, d *dev, service string, a account, more ...string) (*process, *events) {
	t.Helper()
	return runXMPPJS(t, d, "xmppjs.mjs", service, a, more...)
}

// runXMPPJS starts a script that uses xmpp.js.
func runXMPPJS(t *testing.T, d *dev, script, service string, a account, more ...string) (*process, *events) {
	t.Helper()
	return runNode(t, d, "xmppjs", script, service, a, more...)
}

// runNode starts a script that uses the packages of a directory of test/tools.
func runNode(t *testing.T, d *dev, tool, script, service string, a account, more ...string) (*process, *events) {
	t.Helper()
	node, lib := need.Command(t, "node"), need.Node(t, tool)
	// Older versions of Node have WebSocket behind a flag.
	args := []string{"--experimental-websocket", "clients/" + script, service, d.Domain, a.name, a.password}
	p := start(t, script, node, append(args, more...),
		withEnv("NODE_EXTRA_CA_CERTS="+d.CA, "IMLB_"+strings.ToUpper(tool)+"="+lib))
	e := newEvents(t, a.name)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		follow(p.out, e)
	}()
	t.Cleanup(func() {
		_ = p.stdin.Close()
		p.awaitExit()
		<-followed
	})
	return p, e
}

// follow turns lines of JSON into events until the process ends.
func follow(l *lines, e *events) {
	for n := 0; ; {
		got, ended, more := l.from(n)
		n += len(got)
		for _, line := range got {
			var ev event
			if json.Unmarshal([]byte(line), &ev) == nil {
				e.add(ev)
			}
		}
		if ended && len(got) == 0 {
			return
		}
		if !ended {
			<-more
		}
	}
}

func testXMPPJSDirectTLS(t *testing.T, d *dev) {
	talkWithXMPPJS(t, d, "xmpps://"+strings.Replace(d.Front.XMPPS, "127.0.0.1", d.Domain, 1))
}

func testXMPPJSWebSocket(t *testing.T, d *dev) {
	talkWithXMPPJS(t, d, "wss://"+strings.Replace(d.Front.HTTPS, "127.0.0.1", d.Domain, 1)+"/xmpp-websocket")
}

func testXMPPJSFastDirectTLS(t *testing.T, d *dev) {
	comeBackWithXMPPJS(t, d, "xmpps://"+strings.Replace(d.Front.XMPPS, "127.0.0.1", d.Domain, 1))
}

func testXMPPJSFastWebSocket(t *testing.T, d *dev) {
	comeBackWithXMPPJS(t, d, "wss://"+strings.Replace(d.Front.HTTPS, "127.0.0.1", d.Domain, 1)+"/xmpp-websocket")
}

// comeBackWithXMPPJS: xmpp.js logs in by SASL2 with a password, and then with the token that
// this has brought; it has the same address each time. When its connection is lost it
// resumes its session in the same way.
func comeBackWithXMPPJS(t *testing.T, d *dev, service string) {
	t.Helper()
	alice := d.account(t)
	p, js := runXMPPJS(t, d, "xmppjs_fast.mjs", service, alice)
	if got := js.await("token", nil); got.Mechanism != "HT-SHA-256-NONE" {
		t.Errorf("got a token for %q", got.Mechanism)
	}
	first := js.await("online", nil)
	if !strings.HasPrefix(first.JID, alice.jid+"/again/") {
		t.Errorf("xmpp.js is %s", first.JID)
	}
	for range 2 {
		if again := js.await("online", nil); again.JID != first.JID {
			t.Errorf("xmpp.js is %s, and was %s", again.JID, first.JID)
		}
	}
	if again := js.await("resumed", nil); again.JID != first.JID {
		t.Errorf("xmpp.js is %s when it is resumed, and was %s", again.JID, first.JID)
	}
	_ = p.stdin.Close()
	p.awaitExit()
	ofAlice := func(r record) bool { return r.text("user") == alice.jid }
	d.awaitRecord(t, "with a token of "+alice.jid, func(r record) bool { return ofAlice(r) && r.text("mechanism") == "HT-SHA-256-NONE" })
	records := d.records(t, ofAlice)
	counts := make(map[string]int)
	for _, r := range records {
		counts[r.text("mechanism")]++
	}
	if len(js.history("token")) != 1 || counts["SCRAM-SHA-1"]+counts["PLAIN"] != 1 || counts["HT-SHA-256-NONE"] < 1 {
		t.Errorf("logins %v, tokens %v", counts, js.history("token"))
	}
}

// talkWithXMPPJS: xmpp.js sends to a client in plain Go, which answers.
func talkWithXMPPJS(t *testing.T, d *dev, service string) {
	t.Helper()
	alice, bob := d.account(t), d.account(t)
	s := d.dialTLS(t)
	s.session(d.Domain, "PLAIN", bob)
	s.write("<presence/>")

	p, js := xmppJS(t, d, service, alice, bob.jid, "guten Tag, 世界 & <you>")
	online := js.await("online", nil)
	m := s.message()
	if m.body() != "guten Tag, 世界 & <you>" || m.attr("from") != online.JID {
		t.Errorf("received %q from %q; want what %s had sent", m.body(), m.attr("from"), online.JID)
	}
	s.write("<message to='%s' type='chat' id='r1'><body>answer</body></message>", m.attr("from"))
	if got := js.awaitBody("answer"); !strings.HasPrefix(got.From, bob.jid+"/") || got.To != online.JID {
		t.Errorf("xmpp.js received %+v", got)
	}
	_ = p.stdin.Close()
	js.await("offline", nil)
	r := d.awaitRecord(t, "of "+alice.jid, func(r record) bool { return r.text("user") == alice.jid })
	if r.text("reason") != "client-closed" {
		t.Errorf("session record %v: want reason client-closed", r)
	}
}

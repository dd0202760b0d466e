package test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"imlb/test/need"
)

// chatServer is somebody else's XMPP server, which serves the domain localhost. The
// settings that it runs by are those of docs/third-party.md.
type chatServer struct {
	*process
	t     *testing.T
	plain string    // where it listens
	wants string    // where it wants STARTTLS; "" if it has no such port
	proxy string    // where it wants a PROXY header; "" if it knows none
	tls   string    // where it wants TLS, after the PROXY header if it knows such
	ca    string    // of its certificate
	fresh []account // that no front has handed out yet
	log   func() string
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// newChatServer takes ports and accounts for a server.
func newChatServer(t *testing.T) *chatServer {
	t.Helper()
	base := freeBasePort(t)
	at := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(base+i)) }
	s := &chatServer{t: t, plain: at(0), proxy: at(1), tls: at(2), wants: at(3)}
	for i := range 60 {
		name := fmt.Sprintf("theirs%02d", i+1)
		s.fresh = append(s.fresh, account{name: name, password: "pw-" + name, jid: name + "@localhost"})
	}
	return s
}

// startEjabberd runs Debian's ejabberd in a directory of its own, without the
// distribution of Erlang, so that there is no epmd and no cookie.
func startEjabberd(t *testing.T) *chatServer {
	t.Helper()
	script, err := os.ReadFile(need.Command(t, "ejabberdctl"))
	if err != nil {
		t.Fatal(err)
	}
	_, libs, _ := strings.Cut(string(script), "\nERL_LIBS='") // which differs from one architecture to the other
	libs, _, found := strings.Cut(libs, "'")
	if !found {
		t.Fatal("ejabberdctl does not say where its modules are")
	}
	s, dir := newChatServer(t), t.TempDir()
	cert, key, _ := selfSigned(t, dir)
	s.ca = cert
	both := document(t, dir, "both.pem", readFile(t, cert)+readFile(t, key))
	config := document(t, dir, "ejabberd.yml", `
hosts: [localhost]
loglevel: info
certfiles: ["`+both+`"]
listen:
  - {module: ejabberd_c2s, ip: "127.0.0.1", port: `+port(s.plain)+`}
  - {module: ejabberd_c2s, ip: "127.0.0.1", port: `+port(s.proxy)+`, use_proxy_protocol: true}
  - {module: ejabberd_c2s, ip: "127.0.0.1", port: `+port(s.tls)+`, use_proxy_protocol: true, tls: true}
  - {module: ejabberd_c2s, ip: "127.0.0.1", port: `+port(s.wants)+`, starttls: true, starttls_required: true}
disable_sasl_mechanisms: [SCRAM-SHA-1-PLUS, SCRAM-SHA-256-PLUS, SCRAM-SHA-512-PLUS]
auth_method: internal
auth_password_format: scram
modules:
  mod_disco: {}
  mod_mam: {default: always}
  mod_offline: {}
  mod_ping: {}
  mod_roster: {}
  mod_stream_mgmt: {}
`)
	var users []string
	for _, a := range s.fresh {
		users = append(users, fmt.Sprintf("{<<%q>>,<<%q>>}", a.name, a.password))
	}
	register := `[{ok,_} = ejabberd_admin:register(U, <<"localhost">>, P) || {U,P} <- [` + strings.Join(users, ",") + `]], io:format("ready~n").`
	logFile := filepath.Join(dir, "ejabberd.log")
	s.log = func() string { return readFile(t, logFile) }
	s.process = start(t, "ejabberd", need.Command(t, "erl"), []string{
		"-noinput", "-mnesia", "dir", fmt.Sprintf("%q", filepath.Join(dir, "spool")), "-s", "ejabberd", "-eval", register,
	}, withEnv("HOME="+dir, "ERL_LIBS="+libs, "ERL_CRASH_DUMP_BYTES=0", "EJABBERD_CONFIG_PATH="+config, "EJABBERD_LOG_PATH="+logFile))
	s.awaitServing("ready")
	return s
}

// inClear lets Prosody's clients log in without TLS.
const inClear = "c2s_require_encryption = false\nallow_unencrypted_plain_auth = true"

// startProsody runs Debian's prosody in a directory of its own.
func startProsody(t *testing.T, accounts int, modules, settings string) *chatServer {
	t.Helper()
	program, ctl := need.Command(t, "prosody"), need.Command(t, "prosodyctl")
	s, dir := newChatServer(t), t.TempDir()
	s.wants = ""
	settings = strings.ReplaceAll(settings, "PROXY_PORT", port(s.proxy)) // of mod_net_proxy, which is not in Debian
	cert, key, _ := selfSigned(t, dir)
	s.ca = cert
	document(t, dir, "localhost.crt", readFile(t, cert)) // Prosody finds certificates by their files' names
	document(t, dir, "localhost.key", readFile(t, key))
	config := document(t, dir, "prosody.cfg.lua", `
run_as_root = true
pidfile = "`+filepath.Join(dir, "prosody.pid")+`"
data_path = "`+dir+`"
certificates = "`+dir+`"
interfaces = { "127.0.0.1" }
c2s_ports = { `+port(s.plain)+` }
c2s_direct_tls_ports = { `+port(s.tls)+` }
http_ports = {}
https_ports = {}
modules_enabled = { "disco", "mam", "offline", "ping", "roster", "saslauth", "smacks"`+modules+` }
modules_disabled = { "s2s", "tls" }
`+settings+`
authentication = "internal_hashed"
log = { info = "*console" }
VirtualHost "localhost"
`)
	s.fresh = s.fresh[:accounts] // each takes a while
	for _, a := range s.fresh {
		if out, code := runs(t, "", ctl, []string{"--config", config, "register", a.name, "localhost", a.password}); code != 0 {
			t.Fatalf("prosodyctl register: exit code %d\n%s", code, out)
		}
	}
	s.process = start(t, "prosody", program, []string{"-F", "--config", config})
	s.log = s.out.text
	s.awaitServing("Activated service 'c2s' on [127.0.0.1]")
	return s
}

// awaitServing waits for a line of a server, which may take longer to start than
// anything of ours.
func (s *chatServer) awaitServing(part string) {
	s.t.Helper()
	_, err := s.out.wait(within(s.t, 4*patience), func(l string) bool { return strings.Contains(l, part) })
	if err != nil {
		s.t.Fatalf("%s does not serve: %v\n%s", s.name, err, tail(s.out.text()))
	}
}

// behind runs a front before one of the server's ports, as if both were `imlb dev`.
func (s *chatServer) behind(t *testing.T, addr string, pool []string, accounts int) *dev {
	t.Helper()
	base := freeBasePort(t)
	at := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(base+i)) }
	d := &dev{t: t, dir: t.TempDir(), base: base, Domain: "localhost"}
	cert, key, _ := selfSigned(t, d.dir)
	d.CA, d.fresh = cert, s.fresh[:accounts]
	s.fresh = s.fresh[accounts:]
	d.Front.XMPP, d.Front.XMPPS, d.Front.HTTPS, d.Front.Admin = at(0), at(1), at(2), at(3)
	config := document(t, d.dir, "front.yaml", `
domains: [localhost]
listeners:
  - {protocol: xmpp, address: "`+at(0)+`"}
  - {protocol: xmpps, address: "`+at(1)+`"}
  - {protocol: wss, address: "`+at(2)+`", bosh: {}}
pools:
  theirs:
    nodes: [{name: theirs, address: "`+addr+`"}]
    check: {interval: 500ms, timeout: 2s}
    `+strings.Join(pool, "\n    ")+`
tls: {certificates: [{cert_file: "`+cert+`", key_file: "`+key+`"}]}
admin: {address: "`+at(3)+`"}
log: {format: json}
`)
	d.process = start(t, "imlb proxy", "/bin/sh", []string{"-c", `exec "$0" proxy --config "$1" >"$2" 2>&1`, program(t), config, filepath.Join(d.dir, "front.log")})
	t.Cleanup(d.checkLogs)
	awaitReadyz(t, d.process, at(3))
	return d
}

// asItIs is of a pool whose nodes know nothing of what comes before a stream.
var asItIs = []string{"proxy_protocol: none", "checks: [{type: xmpp, proxy_header: false}]"} //nolint:gochecknoglobals // a constant in all but syntax

// inTLS is of a pool whose nodes want TLS at once.
func (s *chatServer) inTLS(header string) []string {
	by := "ca_file: " + s.ca + ", server_name: localhost"
	return []string{"tls: {" + by + "}", "checks: [{type: tls, proxy_header: " + header + ", " + by + "}]"}
}

// TestEjabberd: a cluster of ejabberd can stand behind the front.
func TestEjabberd(t *testing.T) {
	t.Parallel()
	s := startEjabberd(t)
	for _, tt := range []struct {
		name, addr string
		pool       []string
	}{
		{"Plain", s.plain, asItIs},
		{"ProxyV1", s.proxy, []string{"proxy_protocol: v1", "checks: [{type: xmpp}]"}},
		{"ProxyV2", s.proxy, []string{"checks: [{type: xmpp}]"}},
		{"TLS", s.tls, s.inTLS("true")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := s.behind(t, tt.addr, tt.pool, 12)
			if tt.name != "Plain" && tt.name != "ProxyV2" {
				testTheirSlixmpp(t, d)
				return
			}
			runTheirs(t, d)
			t.Run("Address", func(t *testing.T) { testTheirAddress(t, d, s, tt.name != "Plain") })
		})
	}
	t.Run("STARTTLS", func(t *testing.T) { testNoLogin(t, s.behind(t, s.wants, asItIs, 0)) })
	t.Run("Killed", func(t *testing.T) { testTheirDeath(t, s.behind(t, s.plain, asItIs, 0), s, s.fresh[0]) })
}

// TestProsody: so can Prosody.
func TestProsody(t *testing.T) {
	t.Parallel()
	s := startProsody(t, 11, "", inClear)
	t.Run("Plain", func(t *testing.T) { runTheirs(t, s.behind(t, s.plain, asItIs, 10)) })
	t.Run("TLS", func(t *testing.T) {
		s := startProsody(t, 2, "", "")
		testNoFeatures(t, s.behind(t, s.plain, asItIs, 0))
		testTheirSlixmpp(t, s.behind(t, s.tls, append(s.inTLS("false"), "proxy_protocol: none"), 2))
	})
	t.Run("Killed", func(t *testing.T) { testTheirDeath(t, s.behind(t, s.plain, asItIs, 0), s, s.fresh[0]) })
}

// TestProsodyProxy: with mod_net_proxy, which is no part of Debian, Prosody knows where clients come
// from. IMLB_TEST_PROSODY_MODULES names a directory that has it.
func TestProsodyProxy(t *testing.T) {
	t.Parallel()
	modules := os.Getenv("IMLB_TEST_PROSODY_MODULES")
	if modules == "" {
		t.Skip("IMLB_TEST_PROSODY_MODULES does not name a directory with mod_net_proxy")
	}
	s := startProsody(t, 22, `, "net_proxy"`, inClear+`
plugin_paths = { "`+modules+`" }
proxy_port_mappings = { [PROXY_PORT] = "c2s" }
proxy_ports = { PROXY_PORT }
proxy_trusted_proxies = { "127.0.0.1" }`)
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			d := s.behind(t, s.proxy, []string{"proxy_protocol: " + version, "checks: [{type: xmpp}]"}, 11)
			runTheirs(t, d)
			t.Run("Address", func(t *testing.T) {
				const source = "127.0.0.9"
				dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
				raw, err := dialer.DialContext(within(t, patience), "tcp", d.Front.XMPPS)
				if err != nil {
					t.Fatal(err)
				}
				c := newStream(t, tls.Client(raw, d.tls(t, "xmpp-client")))
				c.session(d.Domain, "SCRAM-SHA-1", d.account(t))
				c.close()
				eventually(t, "the client's address in Prosody's log", func(context.Context) (bool, string) {
					return strings.Contains(s.log(), " src="+source+":"), "none"
				})
			})
		})
	}
}

// TestProsodySASL2: what Prosody offers with the modules of Debian's prosody-modules is
// offered by the front: one round trip logs a client in and binds a resource. (The
// modules for resumption and FAST need a newer Prosody than Debian's.)
func TestProsodySASL2(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/usr/lib/prosody/modules/mod_sasl2_bind2"); err != nil {
		need.Missing(t, "prosody-modules")
	}
	s := startProsody(t, 1, `, "sasl2", "sasl2_bind2"`, inClear)
	d := s.behind(t, s.plain, asItIs, 1)
	a := d.account(t)
	c := d.dialTLS(t)
	offer := c.open(d.Domain).child(nsSASL2, "authentication")
	if offer.child(nsSASL2, "inline").child(nsBind2, "bind").XMLName.Local == "" {
		t.Fatalf("offered %+v", offer)
	}
	login := "<authenticate xmlns='" + nsSASL2 + "' mechanism='PLAIN'><initial-response>%s</initial-response>" +
		"<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'><software>test</software></user-agent>" +
		"<bind xmlns='" + nsBind2 + "'><tag>test</tag></bind></authenticate>"
	wrong := a
	wrong.password = "wrong"
	c.write(login, plainPayload(wrong))
	if e := c.read(); !e.is(nsSASL2, "failure") || e.child(nsSASL, "not-authorized").XMLName.Local == "" {
		t.Fatalf("a wrong password was answered by %+v", e)
	}
	c.close()
	d.awaitRecord(t, "of a failure", func(r record) bool { return r.text("reason") == "auth-failed" && r.text("auth_failures") == "1" })
	c = d.dialTLS(t) // on the same stream Prosody takes no second try
	c.open(d.Domain)
	c.write(login, plainPayload(a))
	success := c.read()
	jid := success.child(nsSASL2, "authorization-identifier").Text
	if !success.is(nsSASL2, "success") || !strings.HasPrefix(jid, a.jid+"/") || success.child(nsBind2, "bound").XMLName.Local == "" {
		t.Fatalf("the login was answered by %+v", success)
	}
	c.write("<message to='%s' type='chat'><body>to myself</body></message>", jid)
	if m := c.message(); m.body() != "to myself" || m.attr("from") != jid {
		t.Errorf("received %+v", m)
	}
	c.close()
	r := d.awaitRecord(t, "of a login", func(r record) bool { return r.text("user") == a.jid && r["logged_in"] == true })
	if r.text("reason") != "client-closed" || r.text("mechanism") != "PLAIN" {
		t.Errorf("session record %v", r)
	}
}

const (
	nsSASL2 = "urn:xmpp:sasl:2"
	nsBind2 = "urn:xmpp:bind:0"
)

// runTheirs runs what clients do with any server.
func runTheirs(t *testing.T, d *dev) {
	t.Helper()
	for _, scenario := range []struct {
		name string
		run  func(*testing.T, *dev)
	}{
		{"Slixmpp", testTheirSlixmpp},
		{"GoSendxmpp", testTheirSendxmpp},
		{"WebSocket", testWebSocketFraming},
		{"XMPPJSWebSocket", testXMPPJSWebSocket},
		{"StropheBOSH", testStrophe},
	} {
		t.Run(scenario.name, func(t *testing.T) { scenario.run(t, d) })
	}
}

// testTheirSlixmpp: two clients talk, one over STARTTLS with SCRAM, the other over
// direct TLS with PLAIN; the server answers for the roster and for a wrong password.
func testTheirSlixmpp(t *testing.T, d *dev) {
	a, b := d.account(t), d.account(t)
	c := startChat(t)
	alice, bob := c.client("alice"), c.client("bob")

	alice.start(d, a, login{password: "wrong"})
	if failed := alice.await("auth_failed", nil); failed.Condition != "not-authorized" {
		t.Errorf("a wrong password is answered by %q", failed.Condition)
	}
	alice.await("offline", nil)

	online := alice.login(d, a, login{mechanism: "SCRAM-SHA-1", sm: true})
	atBob := bob.login(d, b, login{mechanism: "PLAIN", direct: true})
	alice.send(b.jid, "from alice")
	bob.send(online.JID, "from bob")
	for _, want := range []struct {
		at       *client
		body     string
		from, to string
	}{{bob, "from alice", online.JID, b.jid}, {alice, "from bob", atBob.JID, online.JID}} {
		m := want.at.awaitBody(want.body)
		if m.From != want.from || m.To != want.to || m.ID != want.body {
			t.Errorf("received %+v, want it as it was sent", m)
		}
		if len(m.StanzaIDs) != 1 { // the server's, of its archive
			t.Errorf("%q came with the ids %q, want the one of the archive", m.Body, m.StanzaIDs)
		}
	}
	alice.do("acks", nil)
	alice.await("acked", func(e event) bool { return e.Body == "from alice" })

	alice.do("raw", map[string]any{"xml": "<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='carol@localhost' name='Carol'/></query></iq>"})
	alice.do("roster", nil)
	if roster := alice.await("roster", nil); roster.Items["carol@localhost"] != "none" {
		t.Errorf("the roster is %v", roster.Items)
	}
	alice.do("ping", nil)
	alice.await("pong", nil)
	alice.logout()
	bob.logout()
	for _, user := range []account{a, b} {
		r := d.awaitRecord(t, "of a login of "+user.jid, func(r record) bool { return r.text("user") == user.jid && r["logged_in"] == true })
		if r.text("reason") != "client-closed" || r.text("node") != "theirs" {
			t.Errorf("session record %v", r)
		}
	}
}

// testTheirSendxmpp: go-sendxmpp sends to slixmpp and listens to it.
func testTheirSendxmpp(t *testing.T, d *dev) {
	a, b := d.account(t), d.account(t)
	alice := startChat(t).client("alice")
	alice.login(d, a, login{})
	path, args, env := goSendxmpp(t, d, b, a.jid)
	if out, code := runs(t, "hello from a shell\n", path, args, env); code != 0 {
		t.Fatalf("go-sendxmpp ended with %d:\n%s", code, out)
	}
	if m := alice.await("message", nil); strings.TrimSpace(m.Body) != "hello from a shell" || !strings.HasPrefix(m.From, b.jid+"/") {
		t.Errorf("received %+v", m)
	}

	path, args, env = goSendxmpp(t, d, b, "-l")
	listener := start(t, "go-sendxmpp -l", path, args, env)
	polls := 0
	eventually(t, "a line of the listener", func(context.Context) (bool, string) {
		if polls%50 == 0 { // nobody says when it listens, and ejabberd may lose what comes just before
			alice.send(b.jid, "hello from a window")
		}
		polls++
		text := listener.out.text()
		return strings.Contains(text, "hello from a window") && strings.Contains(text, a.jid), text
	})
}

// testTheirAddress: the server knows where a client comes from, if it is told.
func testTheirAddress(t *testing.T, d *dev, s *chatServer, told bool) {
	a := d.account(t)
	const source = "127.0.0.9"
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	raw, err := dialer.DialContext(within(t, patience), "tcp", d.Front.XMPPS)
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, d.tls(t, "xmpp-client"))
	c := newStream(t, conn)
	c.session(d.Domain, "SCRAM-SHA-1", a)
	c.close()
	var line string
	eventually(t, "a line on the login of "+a.jid, func(context.Context) (bool, string) {
		for l := range strings.Lines(s.log()) {
			if strings.Contains(l, "Accepted c2s SCRAM-SHA-1 authentication for "+a.jid) {
				line = l
			}
		}
		return line != "", "none"
	})
	if strings.Contains(line, source) != told {
		t.Errorf("the server logged %q; told %t", line, told)
	}
}

// testNoLogin: a server that wants STARTTLS of the front, which does none, offers no
// login. The operator is told.
func testNoLogin(t *testing.T, d *dev) {
	c := d.dialTLS(t)
	if f := c.open(d.Domain); len(f.Children) > 0 {
		t.Errorf("offered %+v", f)
	}
	c.close()
	eventually(t, "a warning", func(context.Context) (bool, string) {
		log := readFile(t, filepath.Join(d.dir, "front.log"))
		return strings.Contains(log, `"a node offers no login"`) && strings.Contains(log, `"wants_starttls":true`), log
	})
}

// testNoFeatures: a server that lets nobody log in without TLS may offer nothing at all
// and refuse the stream.
func testNoFeatures(t *testing.T, d *dev) {
	c := d.dialTLS(t)
	c.header(d.Domain)
	c.wantStreamError("internal-server-error")
	r := d.awaitRecord(t, "of the refusal", func(r record) bool { return r.text("reason") == "dial-failed" })
	if !strings.Contains(r.text("cause"), "undefined-condition") {
		t.Errorf("session record %v", r)
	}
}

// testTheirDeath: a client learns from the front that its server has died.
func testTheirDeath(t *testing.T, d *dev, s *chatServer, a account) {
	alice := startChat(t).client("alice")
	alice.login(d, a, login{})
	if err := syscall.Kill(s.pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := alice.await("stream_error", nil); e.Condition != "system-shutdown" {
		t.Errorf("the client was told %q", e.Condition)
	}
	alice.await("offline", nil)
	r := d.awaitRecord(t, "of "+a.jid, func(r record) bool { return r.text("user") == a.jid })
	if r.text("reason") != "node-lost" {
		t.Errorf("session record %v", r)
	}
	awaitGone(t, s.name, s.pid())
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

package test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDaemons runs the roles as an operator does, each with a document of its
// own, on the accounts of an earlier `imlb dev`.
func TestDaemons(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, devOptions{dir: dir, names: []string{"alice", "bob"}})
	alice, bob := d.account(t), d.account(t)
	d.sparesUserSignals()
	d.stop()

	own := newDaemons(t, dir, particulars{
		node:  "log: {format: json}\n",
		front: "timeouts: {handshake: 300ms, identify: 1s}\nlog: {format: json}\n",
	})
	for _, doc := range []string{own.node, own.front} {
		if out, code := runs(t, "", program(t), []string{"check", "--config", doc}); code != 0 {
			t.Fatalf("imlb check --config %s: exit code %d\n%s", doc, code, out)
		}
	}
	n, p := own.start(t, d)
	for _, addr := range []string{own.at(1), own.at(4)} {
		if out, code := runs(t, "", program(t), []string{"health", "--url", "http://" + addr + "/readyz"}); code != 0 {
			t.Errorf("imlb health: exit code %d\n%s", code, out)
		}
	}

	a, b := d.dialTLS(t), d.dialTLS(t)
	a.session(d.Domain, "SCRAM-SHA-256", alice)
	b.session(d.Domain, "PLAIN", bob)
	b.write("<presence/>")
	// SIGHUP is how a service manager reloads a daemon. It ends neither.
	n.signal(syscall.SIGHUP)
	n.awaitLine("SIGHUP changes nothing")
	p.signal(syscall.SIGHUP)
	n.sparesUserSignals()
	p.sparesUserSignals()
	a.write("<message to='%s' type='chat'><body>hello</body></message>", bob.jid)
	if got := b.message().body(); got != "hello" {
		t.Errorf("received %q", got)
	}
	endSession(t, own.at(4), alice.jid)
	a.wantStreamError("policy-violation")

	wantTimeouts(t, d, p)

	// SIGTERM is how a service manager stops a daemon. The node goes first here:
	// it ends its streams itself.
	n.signal(syscall.SIGTERM)
	b.wantShutdown()
	if code := n.awaitExit(); code != 0 {
		t.Errorf("imlb node: exit code %d after SIGTERM", code)
	}
	eventually(t, "a front without nodes that is not ready", func(ctx context.Context) (bool, string) {
		status, body, err := get(ctx, own.at(4), "/readyz")
		return err == nil && status == http.StatusServiceUnavailable, fmt.Sprint(status, body, err)
	})
	if out, code := runs(t, "", program(t), []string{"health", "--url", "http://" + own.at(4) + "/readyz"}); code == 0 {
		t.Errorf("imlb health of a front without nodes: exit code 0\n%s", out)
	}
	s := d.dialTLS(t)
	s.open(d.Domain)
	s.write("<auth xmlns='%s' mechanism='PLAIN'>AGFsaWNlAHg=</auth>", nsSASL)
	if e := s.read(); !e.is(nsStreams, "error") && !e.is(nsSASL, "failure") {
		t.Errorf("a login without nodes was answered with %+v", e)
	}
	p.signal(syscall.SIGTERM)
	if code := p.awaitExit(); code != 0 {
		t.Errorf("imlb proxy: exit code %d after SIGTERM", code)
	}
}

// endSession ends the only session of a user at a front.
func endSession(t *testing.T, admin, user string) {
	t.Helper()
	out, code := runs(t, "", program(t), []string{"sessions", "--admin", admin, "--user", user, "--json"})
	var page struct {
		Sessions []struct{ ID, Node string }
	}
	if err := json.Unmarshal([]byte(out), &page); err != nil || code != 0 || len(page.Sessions) != 1 || page.Sessions[0].Node != "only" {
		t.Fatalf("imlb sessions: exit code %d, %v\n%s", code, err, out)
	}
	if out, code := runs(t, "", program(t), []string{"sessions", "end", "--admin", admin, page.Sessions[0].ID}); code != 0 {
		t.Errorf("imlb sessions end: exit code %d\n%s", code, out)
	}
}

// sparesUserSignals: what rotates logs may send SIGUSR1 or SIGUSR2, which end nothing.
func (p *process) sparesUserSignals() {
	p.t.Helper()
	for name, s := range map[string]syscall.Signal{"SIGUSR1": syscall.SIGUSR1, "SIGUSR2": syscall.SIGUSR2} {
		p.signal(s)
		p.awaitLine(name)
	}
}

// wantTimeouts: who connects and does not go on is let go, and it is known why.
func wantTimeouts(t *testing.T, d *dev, front *process) {
	t.Helper()
	tests := []struct {
		name   string
		begin  func(net.Conn)
		reason string
	}{
		{"half of a ClientHello", func(c net.Conn) { _, _ = io.WriteString(c, "\x16\x03\x01\x02\x00\x01") }, "handshake-timeout"},
		{"TLS and then nothing", func(c net.Conn) {
			// The result does not matter: the server has to give up by itself.
			_ = tls.Client(c, d.tls(t)).HandshakeContext(within(t, patience))
		}, "identify-timeout"},
	}
	for _, tt := range tests {
		conn := dial(t, d.Front.XMPPS)
		_ = conn.SetDeadline(time.Now().Add(patience))
		tt.begin(conn)
		if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
			t.Errorf("%s: the connection was still open after %v", tt.name, patience)
		}
		source := conn.LocalAddr().String()
		line := front.awaitLine(source)
		if r := parseRecord(line); r.text("reason") != tt.reason {
			t.Errorf("%s: %s; want reason %s", tt.name, line, tt.reason)
		}
	}
}

// daemons are a node and a front with documents of their own, on the accounts and the
// certificate of an earlier `imlb dev`.
type daemons struct {
	base        int    // the first of their ports
	node, front string // documents
}

// particulars are what the documents of a test's daemons have more than others.
type particulars struct {
	node, front string // lines
	xmpps       string // keys of the listener for direct TLS, after a comma
}

// newDaemons writes the documents.
func newDaemons(t *testing.T, dir string, more particulars) *daemons {
	t.Helper()
	d := &daemons{base: freeBasePort(t)}
	d.node = document(t, dir, "own-node.yaml", `
name: only
domain: localhost
listen: `+d.at(0)+`
database: {url: "sqlite:`+filepath.Join(dir, "imlb.db")+`"}
admin: {address: "`+d.at(1)+`"}
`+more.node)
	d.front = document(t, dir, "own-front.yaml", `
domains: [localhost]
listeners:
  - {protocol: xmpp, address: "`+d.at(2)+`"}
  - {protocol: xmpps, address: "`+d.at(3)+`"`+more.xmpps+`}
pools:
  chat:
    nodes: [{name: only, address: "`+d.at(0)+`", admin: "`+d.at(1)+`"}]
tls:
  certificates: [{cert_file: "`+devFile(t, dir, "cert")+`", key_file: "`+devFile(t, dir, "key")+`"}]
admin: {address: "`+d.at(4)+`"}
`+more.front)
	return d
}

// at returns an address: of the node, its admin interface, the front for STARTTLS and for
// direct TLS, and its admin interface.
func (d *daemons) at(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(d.base+i)) }

// start runs both, and has the clients of a cluster connect to this front.
func (d *daemons) start(t *testing.T, clients *dev) (node, front *process) {
	t.Helper()
	node = start(t, "imlb node", program(t), []string{"node", "--config", d.node})
	awaitReadyz(t, node, d.at(1))
	front = start(t, "imlb proxy", program(t), []string{"proxy", "--config", d.front})
	awaitReadyz(t, front, d.at(4))
	clients.Front.XMPP, clients.Front.XMPPS = d.at(2), d.at(3)
	return node, front
}

// document writes a configuration document and returns its path.
func document(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// devFile finds the certificate or key that `imlb dev` gave to its front.
func devFile(t *testing.T, dir, kind string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "front.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if _, path, ok := strings.Cut(line, kind+"_file: "); ok {
			return strings.Trim(strings.TrimSpace(path), `"'`)
		}
	}
	t.Fatalf("no %s_file in front.yaml:\n%s", kind, data)
	return ""
}

func awaitReadyz(t *testing.T, p *process, addr string) {
	t.Helper()
	eventually(t, p.name+" to be ready", func(ctx context.Context) (bool, string) {
		select {
		case <-p.done:
			t.Fatalf("%s ended:\n%s", p.name, p.out.text())
		default:
		}
		status, body, err := get(ctx, addr, "/readyz")
		return err == nil && status == http.StatusOK, fmt.Sprint(status, body, err)
	})
}

// TestCheck: `imlb check` names file, line and mistake, all mistakes at once,
// and a daemon refuses the same document.
func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := document(t, dir, "front.yaml", `domains: [localhost]
listeners:
  - {protocol: xmpp, adress: "127.0.0.1:1"}
pools:
  chat: {nodes: [{name: a, address: "127.0.0.1:2"}]}
tls:
  certificates: [{cert_file: /nonexistent/c.pem, key_file: /nonexistent/k.pem}]
timeouts: {handshake: soon}
`)
	for _, command := range []string{"check", "proxy"} {
		out, code := runs(t, "", program(t), []string{command, "--config", bad})
		for _, want := range []string{bad + ":3:", "adress", "address", bad + ":8:"} {
			if !strings.Contains(out, want) {
				t.Errorf("imlb %s printed %q; want %q in it", command, out, want)
			}
		}
		if code == 0 || strings.Contains(out, "goroutine ") {
			t.Errorf("imlb %s: exit code %d\n%s", command, code, out)
		}
	}
	if out, code := runs(t, "", program(t), []string{"check", "--config", filepath.Join(dir, "none.yaml")}); code == 0 || !strings.Contains(out, "none.yaml") {
		t.Errorf("a document that is not there: exit code %d, %q", code, out)
	}
	for _, sample := range []string{"../configs/proxy.example.yaml", "../configs/node.example.yaml"} {
		if out, code := runs(t, "", program(t), []string{"check", "--no-files", "--config", sample}); code != 0 {
			t.Errorf("the sample %s: exit code %d\n%s", sample, code, out)
		}
	}
}

// TestHelp: every command explains itself.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"dev", "--help"}, {"proxy", "--help"}, {"node", "--help"}, {"check", "--help"}, {"health", "--help"}} {
		out, code := runs(t, "", program(t), args)
		if code != 0 || len(out) < 200 {
			t.Errorf("imlb %v: exit code %d\n%s", args, code, out)
		}
	}
}

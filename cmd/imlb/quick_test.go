package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/quic-go/quic-go"
)

// patience is how long a test waits for what should come at once.
const patience = 20 * time.Second

// echoNode is a node that sends back what it gets, and remembers it.
type echoNode struct {
	addr string

	mu       sync.Mutex
	received bytes.Buffer
	sessions int // that have sent something
}

func startEcho(t *testing.T) *echoNode {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveEcho(t, ln)
}

// freeAddr returns an address on which nobody listens. Its host is this process's own: on one that
// all tests share, the port is somebody else's soon.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf("127.%d.%d.1:0", 18+os.Getpid()%200, os.Getpid()>>8&0xff))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// serveEcho is such a node behind a listener.
func serveEcho(t *testing.T, ln net.Listener) *echoNode {
	t.Helper()
	n := &echoNode{addr: ln.Addr().String()}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { n.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	return n
}

func (n *echoNode) serve(conn net.Conn) {
	defer conn.Close()
	buf := make([]byte, 4096)
	for first := true; ; {
		size, err := conn.Read(buf)
		if size > 0 {
			n.note(buf[:size], first)
			first = false
			_, _ = conn.Write(buf[:size])
		}
		if err != nil {
			return
		}
	}
}

func (n *echoNode) note(b []byte, first bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.received.Write(b)
	if first {
		n.sessions++
	}
}

func (n *echoNode) got() (received string, sessions int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.received.String(), n.sessions
}

// running is an imlb process that has said that it is ready.
type running struct {
	*exec.Cmd
	lines  []string // before ready
	stderr bytes.Buffer
	stop   func() // and see that it goes in peace
}

// start runs imlb in quick mode and waits for ready.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{Cmd: exec.CommandContext(context.WithoutCancel(t.Context()), "imlb", append([]string{"proxy"}, args...)...)}
	r.Cmd.Stderr = &r.stderr
	r.WaitDelay = patience
	out, err := r.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	r.stop = sync.OnceFunc(func() { stopped(t, r) })
	t.Cleanup(r.stop)
	late := time.AfterFunc(patience, func() { _ = r.Process.Kill() })
	defer late.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "ready" {
			return r
		}
		r.lines = append(r.lines, lines.Text())
	}
	t.Fatalf("imlb %s ended after %q, before it was ready", args, r.lines)
	return nil
}

// stopped ends a process, which has to go in peace.
func stopped(t *testing.T, r *running) {
	if err := r.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := r.Wait(); err != nil {
		t.Errorf("imlb proxy: %v\n%s", err, r.stderr.String())
	}
}

// addr returns what listens for a protocol; admin is one, too.
func (r *running) addr(t *testing.T, protocol string) string {
	t.Helper()
	for _, line := range r.lines {
		for _, before := range []string{"listening on " + protocol + "://", protocol + " on http://"} {
			if rest, ok := strings.CutPrefix(line, before); ok {
				return rest
			}
		}
	}
	t.Fatalf("nothing listens for %s: %q", protocol, r.lines)
	return ""
}

func dialTCP(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// requireEcho sends something and waits until it comes back.
func requireEcho(t *testing.T, conn io.ReadWriter, sent string) {
	t.Helper()
	if c, ok := conn.(interface{ SetDeadline(t time.Time) error }); ok {
		_ = c.SetDeadline(time.Now().Add(patience))
	}
	if _, err := io.WriteString(conn, sent); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, back); err != nil || string(back) != sent {
		t.Fatalf("sent %q, got %q back (%v)", sent, back, err)
	}
}

// Lines of text go to the node as they are, and all of one source go to one node.
func TestQuickModeCarriesLines(t *testing.T) {
	one, two := startEcho(t), startEcho(t)
	f := start(t, "--listen", "tcp://127.0.0.1:0", "--to", one.addr+","+two.addr, "--admin", "127.0.0.1:0")
	if len(f.lines) != 2 || strings.HasSuffix(f.addr(t, "tcp"), ":0") {
		t.Errorf("it said %q, want a line for each address", f.lines)
	}
	const lines = "hello\r\nPROXY is no header\n\x00\xff no text\n"
	for range 5 {
		requireEcho(t, dialTCP(t, f.addr(t, "tcp")), lines)
	}
	first, sessions1 := one.got()
	second, sessions2 := two.got()
	if first+second != strings.Repeat(lines, 5) || sessions1+sessions2 != 5 || sessions1*sessions2 != 0 {
		t.Errorf("one node got %q in %d sessions, the other %q in %d; want five at one of them", first, sessions1, second, sessions2)
	}
	resp, err := http.Get("http://" + f.addr(t, "admin") + "/readyz") //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("/readyz says %s", resp.Status)
	}
	f.stop()
	if f.stderr.Len() > 0 {
		t.Errorf("without a certificate, an admin address and trouble it said %q", f.stderr.String())
	}
}

// What users are known by decides on the node, as far as there is something to know.
func TestQuickModeKeys(t *testing.T) {
	for _, tt := range []struct {
		key    string
		sent   func(user int) string
		pinned bool
	}{
		{"random", func(int) string { return "hello\n" }, false},
		{"pattern:^LOGIN (?P<user>[a-z0-9]+)", func(user int) string { return fmt.Sprintf("LOGIN user%d\n", user) }, true},
		{"mqtt", func(user int) string { return fmt.Sprintf("\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04us%02d", user) }, true},
	} {
		t.Run(tt.key, func(t *testing.T) {
			one, two := startEcho(t), startEcho(t)
			f := start(t, "--listen", "tcp://127.0.0.1:0", "--to", one.addr, "--to", two.addr, "--key", tt.key)
			const users = 32
			for user := range users {
				_, before := one.got()
				requireEcho(t, dialTCP(t, f.addr(t, "tcp")), tt.sent(user))
				_, between := one.got()
				requireEcho(t, dialTCP(t, f.addr(t, "tcp")), tt.sent(user))
				_, after := one.got()
				if tt.pinned && (between > before) != (after > between) {
					t.Errorf("user %d was on both nodes", user)
				}
			}
			_, sessions1 := one.got()
			_, sessions2 := two.got()
			if sessions1+sessions2 != 2*users || sessions1 == 0 || sessions2 == 0 {
				t.Errorf("%d and %d sessions, want %d on both together", sessions1, sessions2, 2*users)
			}
		})
	}
}

// Each protocol is served, and what is opaque in it is carried.
func TestQuickModeServesEveryProtocol(t *testing.T) {
	node := startEcho(t)
	args := []string{"--to", "chat=" + node.addr, "--alpn", "echo,other", "--policy", "round-robin"}
	protocols := []string{"tcp", "tls", "xmpp", "xmpps", "ws", "wss", "mqtt", "mqtts", "quic"}
	for _, p := range protocols {
		args = append(args, "--listen", p+"://127.0.0.1:0")
	}
	f := start(t, args...)
	if len(f.lines) != len(protocols) {
		t.Errorf("it said %q, want a line for each of %q", f.lines, protocols)
	}
	config := func(alpn ...string) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, NextProtos: alpn, MinVersion: tls.VersionTLS12} //nolint:gosec // it is self-signed
	}
	requireEcho(t, dialTCP(t, f.addr(t, "tcp")), "tcp\n")
	requireEcho(t, dialTCP(t, f.addr(t, "mqtt")), "\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04ivan")
	requireEcho(t, tls.Client(dialTCP(t, f.addr(t, "mqtts")), config("mqtt")), "\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04ivan")
	secure := tls.Client(dialTCP(t, f.addr(t, "tls")), config("echo"))
	requireEcho(t, secure, "tls\n")
	state := secure.ConnectionState()
	if err := state.PeerCertificates[0].VerifyHostname("127.0.0.1"); err != nil || state.NegotiatedProtocol != "echo" {
		t.Errorf("agreed on %q, and %v", state.NegotiatedProtocol, err)
	}
	for _, scheme := range []string{"ws", "wss"} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config()}}
		ws, _, err := websocket.Dial(t.Context(), scheme+"://"+f.addr(t, scheme), &websocket.DialOptions{HTTPClient: client}) //nolint:bodyclose // it is the WebSocket's
		if err != nil {
			t.Fatal(err)
		}
		requireEcho(t, websocket.NetConn(t.Context(), ws, websocket.MessageBinary), scheme+"\n")
		_ = ws.CloseNow()
	}
	conn, err := quic.DialAddr(t.Context(), f.addr(t, "quic"), config("other"), nil)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := conn.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	requireEcho(t, stream, "quic\n")
	_ = conn.CloseWithError(0, "")
	f.stop()
	said := f.stderr.String()
	sum := sha256.Sum256(state.PeerCertificates[0].Raw)
	if print := strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":"); !strings.Contains(said, "signed itself, with the SHA-256 fingerprint "+print) || strings.Count(said, "\n") != 1 {
		t.Errorf("of the certificate it said %q", said)
	}
	if names := state.PeerCertificates[0]; len(names.IPAddresses) != 2 || len(names.DNSNames) != 1 {
		t.Errorf("the certificate is for %v and %v", names.IPAddresses, names.DNSNames)
	}
	file := strings.TrimSpace(said[strings.LastIndex(said, " "):])
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", file, err)
	}
}

// A user of MQTT is one on all protocols; others on the same listener may wait for the
// node to speak first.
func TestQuickModeKnowsMQTT(t *testing.T) {
	const connect = "\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04ivan"
	node := startEcho(t)
	f := start(t, "--listen", "mqtt://127.0.0.1:0", "--listen", "ws://127.0.0.1:0/mqtt", "--listen", "quic://127.0.0.1:0",
		"--alpn", "mqtt", "--to", node.addr, "--log-level", "info")
	requireEcho(t, dialTCP(t, f.addr(t, "mqtt")), connect)
	ws, _, err := websocket.Dial(t.Context(), "ws://"+f.addr(t, "ws"), &websocket.DialOptions{Subprotocols: []string{"mqtt"}}) //nolint:bodyclose // it is the WebSocket's
	if err != nil {
		t.Fatal(err)
	}
	requireEcho(t, websocket.NetConn(t.Context(), ws, websocket.MessageBinary), connect)
	_ = ws.CloseNow()
	conn, err := quic.DialAddr(t.Context(), f.addr(t, "quic"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"mqtt"}, MinVersion: tls.VersionTLS13}, nil) //nolint:gosec // it is self-signed
	if err != nil {
		t.Fatal(err)
	}
	stream, err := conn.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	requireEcho(t, stream, connect)
	_ = conn.CloseWithError(0, "")
	f.stop()
	if said := f.stderr.String(); strings.Count(said, "user=ivan identified_by=mqtt ") != 3 {
		t.Errorf("the log says %s", said)
	}
}

// Who has not agreed on MQTT need not say anything first.
func TestQuickModeWebSocketServerFirst(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "welcome")
			t.Cleanup(func() { _ = conn.Close() })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	f := start(t, "--listen", "ws://127.0.0.1:0", "--to", ln.Addr().String())
	ws, _, err := websocket.Dial(t.Context(), "ws://"+f.addr(t, "ws"), nil) //nolint:bodyclose // it is the WebSocket's
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, msg, err := ws.Read(ctx); string(msg) != "welcome" {
		t.Errorf("got %q, %v", msg, err)
	}
	_ = ws.CloseNow()
}

// A WebSocket's user is known by its request.
func TestQuickModeKeysOfRequests(t *testing.T) {
	const token = "e30.eyJzdWIiOiJ1c2VyJWQifQ.c2ln" // {"sub":"user%d"}, unsigned
	for key, path := range map[string]string{"query:user": "/chat?user=ann", "header:X-User": "/chat", "cookie:user": "/chat", "jwt:sub": "/chat"} {
		t.Run(key, func(t *testing.T) {
			node := startEcho(t)
			f := start(t, "--listen", "ws://127.0.0.1:0/chat", "--to", node.addr, "--key", key, "--log-level", "info")
			addr, _, _ := strings.Cut(f.addr(t, "ws"), "/")
			header := http.Header{"X-User": {"ann"}, "Cookie": {"user=ann"}, "Authorization": {"Bearer " + token}}
			ws, _, err := websocket.Dial(t.Context(), "ws://"+addr+path, &websocket.DialOptions{HTTPHeader: header}) //nolint:bodyclose // it is the WebSocket's
			if err != nil {
				t.Fatal(err)
			}
			requireEcho(t, websocket.NetConn(t.Context(), ws, websocket.MessageBinary), "hello\n")
			_ = ws.CloseNow()
			f.stop()
			if said := f.stderr.String(); !strings.Contains(said, "user=ann") && !strings.Contains(said, "user=user%d") || !strings.Contains(said, "identified_by=websocket") {
				t.Errorf("the log says %s", said)
			}
		})
	}
}

// Nodes that know the PROXY header can have it.
func TestQuickModeSendsPROXYHeaders(t *testing.T) {
	for form, want := range map[string]string{"v1": "PROXY TCP4 127.0.0.1 127.0.0.1 ", "v2": "\r\n\r\n\x00\r\nQUIT\n\x21"} {
		node := startEcho(t)
		f := start(t, "--listen", "tcp://127.0.0.1:0", "--to", node.addr, "--send-proxy", form)
		conn := dialTCP(t, f.addr(t, "tcp"))
		if _, err := io.WriteString(conn, "hello\n"); err != nil {
			t.Fatal(err)
		}
		back := make([]byte, len(want))
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(conn, back); err != nil || string(back) != want {
			t.Errorf("%s: the session began with %q (%v), want %q", form, back, err, want)
		}
	}
}

// A certificate of one's own is shown.
func TestQuickModeShowsACertificate(t *testing.T) {
	node, name := startEcho(t), filepath.Join(t.TempDir(), "a")
	writePair(t, name, certificateFor(t, time.Now(), "a", "chat.example"))
	f := start(t, "--listen", "tls://127.0.0.1:0", "--to", node.addr, "--cert", name+".crt", "--key-file", name+".key")
	conn := tls.Client(dialTCP(t, f.addr(t, "tls")), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // it is looked at below
	requireEcho(t, conn, "hello\n")
	if err := conn.ConnectionState().PeerCertificates[0].VerifyHostname("chat.example"); err != nil {
		t.Error(err)
	}
}

// Clients can trust the certificate that the front has made, and nothing else.
func TestQuickModeWritesItsCertificate(t *testing.T) {
	node, file := startEcho(t), filepath.Join(t.TempDir(), "front.pem")
	f := start(t, "--listen", "tls://127.0.0.1:0", "--to", node.addr, "--cert-out", file)
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("the file has %q", pem)
	}
	requireEcho(t, tls.Client(dialTCP(t, f.addr(t, "tls")), &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13}), "hello\n")
	f.stop()
	if said := f.stderr.String(); !strings.Contains(said, "let them trust "+file) {
		t.Errorf("it said %q", said)
	}
}

// A closed terminal ends it as Ctrl-C does: nothing is left behind.
func TestQuickModeEndsWithItsTerminal(t *testing.T) {
	f := start(t, "--listen", "tls://127.0.0.1:0", "--to", startEcho(t).addr)
	if err := f.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	f.stop()
	_, file, ok := strings.Cut(f.stderr.String(), "let them trust ")
	if _, err := os.Stat(strings.TrimSpace(file)); !ok || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it said %q, and of the file there is %v", f.stderr.String(), err)
	}
}

// What rotates logs may send signals that would end a process that does not listen to them.
func TestQuickModeSparesUserSignals(t *testing.T) {
	f := start(t, "--listen", "tcp://127.0.0.1:0", "--to", startEcho(t).addr)
	for s := range userSignals() {
		if err := f.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	f.stop()
	for _, name := range userSignals() {
		if said := f.stderr.String(); !strings.Contains(said, "signal="+name) {
			t.Errorf("it said %q", said)
		}
	}
}

// Without checks the first that a node hears of the front is a client.
func TestQuickModeWithoutChecks(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f := start(t, "--listen", "tcp://127.0.0.1:0", "--to", ln.Addr().String(), "--check", "none")
	client := dialTCP(t, f.addr(t, "tcp"))
	if _, err := io.WriteString(client, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	got := make([]byte, 5)
	if n, err := io.ReadFull(conn, got); err != nil {
		t.Errorf("the first connection brought %q and %v", got[:n], err)
	}
}

// Who is silent is known by the address after --key-wait.
func TestQuickModeKeyWait(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, key := range []string{"pattern:^LOGIN (.+)", "mqtt", "sni"} {
		f := start(t, "--listen", "tcp://127.0.0.1:0", "--to", ln.Addr().String(), "--check", "none", "--key", key, "--key-wait", "50ms")
		dialTCP(t, f.addr(t, "tcp"))
		if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
}

// An address that is taken is said once.
func TestQuickModeSaysErrorsOnce(t *testing.T) {
	node, other := startEcho(t), startEcho(t) // whose addresses are taken
	out, err := exec.CommandContext(t.Context(), "imlb", "proxy", "--listen", "tcp://"+node.addr, "--to", other.addr).CombinedOutput()
	if err == nil || strings.Count(string(out), "address already in use") != 1 {
		t.Errorf("it said %q, %v", out, err)
	}
	if want := "--listen tcp://" + node.addr + ": "; !strings.Contains(string(out), want) || !strings.Contains(string(out), "choose another port") {
		t.Errorf("it said %q, without %q and a cure", out, want)
	}
	out, err = exec.CommandContext(t.Context(), "imlb", "proxy", "--listen", "tcp://127.0.0.1:0", "--to", other.addr, "--admin", node.addr).CombinedOutput()
	if want := "--admin " + node.addr + ": "; err == nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), "choose another port") {
		t.Errorf("it said %q, %v, without %q and a cure", out, err, want)
	}
}

// A front is no node of its own.
func TestQuickModeToItself(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "imlb", "proxy", "--listen", "tcp://127.0.0.1:7", "--to", "127.0.0.1:7").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--listen tcp://127.0.0.1:7 listens there itself") {
		t.Errorf("it said %q, %v", out, err)
	}
}

// A front whose nodes are away serves all the same, and says that it has none.
func TestQuickModeWithoutNodes(t *testing.T) {
	f := start(t, "--listen", "tcp://127.0.0.1:0", "--to", freeAddr(t))
	f.stop()
	if said := f.stderr.String(); !strings.Contains(said, "imlb: node-1 does not answer: ") {
		t.Errorf("it said %q", said)
	}
}

// A front whose nodes want a PROXY header that it does not send says which flag is missing.
func TestQuickModeWithoutHeader(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer ln.Close()
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_ = conn.Close()
		}
	})
	f := start(t, "--listen", "xmpps://127.0.0.1:0", "--to", ln.Addr().String())
	client := tls.Client(dialTCP(t, f.addr(t, "xmpps")), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // it is self-signed
	const open = "<stream:stream to='chat.example' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
	if _, err := client.Write([]byte(open)); err != nil {
		t.Fatal(err)
	}
	for in, tag := bufio.NewReader(client), ""; !strings.HasSuffix(tag, "</stream:error>"); { // which comes after the line
		if tag, err = in.ReadString('>'); err != nil {
			t.Fatal(err)
		}
	}
	_ = client.Close()
	f.stop()
	if said := f.stderr.String(); !strings.Contains(said, "node=node-1") || !strings.Contains(said, "--send-proxy, to v2") {
		t.Errorf("it said %q", said)
	}
}

// A change of how users are known counts for the next client, without a restart.
func TestIdentifiersChangeLive(t *testing.T) {
	node, addr := startEcho(t), freeAddr(t)
	file := filepath.Join(t.TempDir(), "proxy.yaml")
	write := func(by string) {
		t.Helper()
		text := fmt.Sprintf("admin: {address: '127.0.0.1:0'}\nlisteners: [{protocol: tcp, address: '%s', identify: {by: [%s]}}]\n"+
			"pools: {a: {proxy_protocol: none, nodes: [{name: n, address: '%s'}], check: {rise: 1}}}\n", addr, by, node.addr)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("{type: pattern, pattern: '^LOGIN ([a-z]+)'}")
	f := &running{Cmd: exec.CommandContext(context.WithoutCancel(t.Context()), "imlb", "proxy", "--config", file)}
	f.Cmd.Stderr = &f.stderr
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopped(t, f) })
	requireServed(t, addr, "LOGIN ann\n", true)
	requireServed(t, addr, "HELLO ann\n", false)
	write("{type: source}")
	if err := f.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	requireServed(t, addr, "HELLO ann\n", true)
}

// requireServed tries until a client is served, or refused.
func requireServed(t *testing.T, addr, sent string, want bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for ctx.Err() == nil {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			continue // it does not listen yet
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, sent)
		back := make([]byte, len(sent))
		_, err = io.ReadFull(conn, back)
		_ = conn.Close()
		if (err == nil) == want {
			return
		}
	}
	t.Fatalf("%q: served is still not %v", sent, want)
}

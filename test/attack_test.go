package test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/quic-go/quic-go"
)

// testStreamErrors: what is no good XMPP gets the stream error that RFC 6120
// §4.9.3 names for it, and the connection is closed.
func testStreamErrors(t *testing.T, d *dev) {
	const header = "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='" + nsStreams + "'>"
	tests := []struct {
		name, first, then, want string
	}{
		{"foreign domain", strings.Replace(header, "localhost", "example.org", 1), "", "host-unknown"},
		{"stream namespace", strings.Replace(header, nsStreams, "urn:example", 1), "", "invalid-namespace"},
		{"content namespace", strings.Replace(header, "jabber:client", "urn:example", 1), "", "invalid-namespace"},
		{"stanza before login", header, "<message to='a@localhost'><body>x</body></message>", "not-authorized"},
		{"not well-formed", header, "<a><b></a></b>", "not-well-formed"},
		{"comment", header, "<!-- hello -->", "restricted-xml"},
		{"processing instruction", header, "<?php echo ?>", "restricted-xml"},
		{"DTD", header, "<!DOCTYPE lolz [<!ENTITY a 'b'>]>", "restricted-xml"},
		{"entity", header, "<auth xmlns='" + nsSASL + "' mechanism='PLAIN'>&lol;</auth>", "restricted-xml"},
		{"an element that never ends", header, "<auth xmlns='" + nsSASL + "' mechanism='" + strings.Repeat("x", 1<<20), "policy-violation"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := d.dialTLS(t)
			s.write("%s", tt.first)
			s.readHeader() // RFC 6120 §4.9.1.2: an error comes within a stream
			if tt.then != "" {
				s.read()
				// The server may close before it has taken all of it.
				_, _ = io.WriteString(s.conn, tt.then)
			}
			s.wantStreamError(tt.want)
		})
	}
}

// startTLS opens the STARTTLS port in clear and reads the first features.
func startTLS(t *testing.T, d *dev) (*stream, net.Conn) {
	t.Helper()
	conn := dial(t, d.Front.XMPP)
	s := newStream(t, conn)
	features := s.open(d.Domain)
	if f := features.child(nsTLS, "starttls"); f.child(nsTLS, "required").XMLName.Local == "" {
		t.Fatalf("want STARTTLS as required, got %+v", features)
	}
	if features.child(nsSASL, "mechanisms").XMLName.Local != "" {
		t.Errorf("SASL is offered in clear: %+v", features)
	}
	return s, conn
}

// testTLSFirst: no credentials are taken in clear.
func testTLSFirst(t *testing.T, d *dev) {
	alice := d.account(t)
	s, _ := startTLS(t, d)
	answer := s.plain(alice, alice.password)
	refused := answer.child(nsSASL, "encryption-required").XMLName.Local != "" ||
		answer.is(nsStreams, "error")
	if !refused {
		t.Errorf("PLAIN in clear was answered with %+v", answer)
	}
}

// testSTARTTLSInjection: what came in clear with <starttls/> has no effect on
// the stream inside TLS (RFC 6120 §5.4.3.3, CVE-2011-0411 and its kind).
func testSTARTTLSInjection(t *testing.T, d *dev) {
	alice := d.account(t)
	s, conn := startTLS(t, d)
	s.write("<starttls xmlns='%s'/><stream:stream to='%s' version='1.0' xmlns='jabber:client' xmlns:stream='%s'>"+
		"<auth xmlns='%s' mechanism='X-INJECTED'/>", nsTLS, d.Domain, nsStreams, nsSASL)
	answer := s.read()
	if !answer.is(nsTLS, "proceed") {
		return // refusing such a client is right, too
	}
	secure := tls.Client(conn, d.tls(t))
	if err := secure.HandshakeContext(within(t, patience)); err != nil {
		return // so is failing the handshake
	}
	s = newStream(t, secure)
	if f := s.open(d.Domain); f.child(nsSASL, "mechanisms").XMLName.Local == "" {
		t.Fatalf("the first element inside TLS is %+v, want features", f)
	}
	if got := s.plain(alice, alice.password); !got.is(nsSASL, "success") {
		t.Errorf("the first answer inside TLS is %+v, want success", got)
	}
}

// testPortScan: connections that say nothing cost nothing and break nothing.
func testPortScan(t *testing.T, d *dev) {
	for range 10 {
		for _, addr := range []string{d.Front.XMPP, d.Front.XMPPS, d.Front.HTTPS, d.Nodes[0].Addr} {
			_ = dial(t, addr).Close()
		}
	}
	wantServing(t, d)
}

// testGarbage: bytes that are no protocol of ours end in a closed connection.
func testGarbage(t *testing.T, d *dev) {
	random := make([]byte, 4096)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(random)
	payloads := map[string]string{
		"random":    string(random),
		"HTTP":      "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"SSH":       "SSH-2.0-OpenSSH_9.2\r\n",
		"PROXY v1":  "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
		"PROXY v2":  "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x01\x00\x02",
		"TLS alert": "\x15\x03\x01\x00\x02\x02\x28",
	}
	for name, payload := range payloads {
		for port, addr := range map[string]string{
			"xmpp": d.Front.XMPP, "xmpps": d.Front.XMPPS, "https": d.Front.HTTPS, "node": d.Nodes[0].Addr,
		} {
			t.Run(name+" to "+port, func(t *testing.T) {
				t.Parallel()
				conn := dial(t, addr)
				_ = conn.SetDeadline(time.Now().Add(patience))
				_, _ = io.WriteString(conn, payload)
				if tcp, ok := conn.(*net.TCPConn); ok {
					_ = tcp.CloseWrite()
				}
				if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
					t.Errorf("the connection was still open after %v", patience)
				}
			})
		}
	}
	t.Run("QUIC", func(t *testing.T) {
		t.Parallel()
		conn, err := (&net.Dialer{}).DialContext(within(t, patience), "udp", d.Front.QUIC)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if _, err := conn.Write(random[:1200]); err != nil {
				t.Fatal(err)
			}
		}
		_ = conn.Close()
	})
	t.Cleanup(func() { wantServing(t, d) })
}

// wantServing makes sure that every process is alive and ready.
func wantServing(t *testing.T, d *dev) {
	t.Helper()
	for name, addr := range d.admins() {
		status, body, err := get(within(t, patience), addr, "/readyz")
		if err != nil || status != http.StatusOK {
			t.Errorf("/readyz of %s: %d %q %v", name, status, body, err)
		}
	}
}

// admins are the admin addresses of the front and of the nodes that run.
func (d *dev) admins() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string]string{"front": d.Front.Admin}
	for _, n := range d.Nodes {
		if !d.killed[n.Name] {
			all[n.Name] = n.Admin
		}
	}
	return all
}

// testProbes: the admin servers answer, and the metrics count.
func testProbes(t *testing.T, d *dev) {
	for name, addr := range d.admins() {
		for path, part := range map[string]string{"/livez": "", "/readyz": "", "/metrics": "# TYPE ", "/status": "{"} {
			status, body, err := get(within(t, patience), addr, path)
			if err != nil || status != http.StatusOK || !strings.Contains(body, part) {
				t.Errorf("%s of %s: %d %.200q %v", path, name, status, body, err)
			}
		}
	}
}

// testHostMeta: a web client finds the WebSocket by XEP-0156.
func testHostMeta(t *testing.T, d *dev) {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: d.tls(t)}}
	defer client.CloseIdleConnections()
	for path, part := range map[string]string{
		"/.well-known/host-meta":      "urn:xmpp:alt-connections:websocket",
		"/.well-known/host-meta.json": "urn:xmpp:alt-connections:websocket",
	} {
		req, err := http.NewRequestWithContext(within(t, patience), http.MethodGet, fmt.Sprintf("https://%s%s", d.Front.HTTPS, path), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), part) || !strings.Contains(string(body), "wss://") {
			t.Errorf("%s: %s %q %v", path, resp.Status, body, err)
		}
		if resp.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s may not be read by a page of another origin (XEP-0156 §3)", path)
		}
	}
}

// The deadlines of the front that is attacked.
const (
	attackDeadline  = 8 * time.Second
	attackTimeouts  = "handshake: 8s, identify: 8s, write: 6s, half_open: 6s"
	attackLatency   = 8 * time.Second // at most, for who behaves, on a machine with too much to do
	attackPerTarget = 40              // slow clients of a kind
)

// TestAttack: clients that are slow, send garbage or do not read, and nodes that do
// not, cost the front a bounded amount of memory, until its deadlines end them for the
// right reason. Who behaves is served all the time, on every listener.
func TestAttack(t *testing.T) {
	g := startGate(t, attackTimeouts, "error")
	a := &attack{gate: g}
	for name, talk := range g.polite() {
		a.polite = append(a.polite, act(t, "a client of "+name, 250*time.Millisecond, func(ctx context.Context, _ int) error {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			return talk(ctx)
		}))
	}
	t.Run("slow clients", a.testSlow)
	t.Run("no streams", a.testNoStreams)
	t.Run("garbage", a.testGarbage)
	t.Run("frames that carry nothing", a.testEmptyFrames)
	t.Run("clients that do not read", a.testDeafClients)
	t.Run("nodes that do not read", a.testDeafNodes)
	for _, p := range a.polite {
		if rounds, longest, _ := p.state(); longest > attackLatency {
			t.Errorf("%s waited %v in one of %d rounds, want %v at most", p.name, longest, rounds, attackLatency)
		}
	}
}

// attack is a front that is attacked while others use it.
type attack struct {
	*gate
	polite []*activity
}

// watch makes sure that the front never has more memory than that until the end of the
// test, and that others were served meanwhile.
func (a *attack) watch(t *testing.T, most int) {
	t.Helper()
	begin := a.rounds()
	var seen atomic.Int64
	memory := act(t, "the front's memory", 50*time.Millisecond, func(context.Context, int) error {
		now, err := a.memory()
		seen.Store(max(seen.Load(), int64(now)))
		return err
	})
	t.Cleanup(func() {
		memory.stop()
		t.Logf("%d MiB resident at most", seen.Load()>>20)
		if !raceDetector && seen.Load() > int64(most) { // which has memory of its own
			t.Errorf("the front had %d bytes, want %d at most", seen.Load(), most)
		}
		if !a.servedSince(begin) {
			t.Errorf("rounds of who behaves: %v before and %v after the attack", begin, a.rounds())
		}
	})
}

// rounds is how often each of those was served who behave.
func (a *attack) rounds() []int {
	rounds := make([]int, len(a.polite))
	for i, p := range a.polite {
		rounds[i], _, _ = p.state()
	}
	return rounds
}

// servedSince tells whether each of them was served some times more.
func (a *attack) servedSince(begin []int) bool {
	for i, now := range a.rounds() {
		if now < begin[i]+3 {
			return false
		}
	}
	return true
}

// ended counts the sessions of a listener that ended for a reason.
func (a *attack) ended(t *testing.T, listener, reason string) int {
	t.Helper()
	return int(metric(t, a.admin, "imlb_proxy_sessions_ended_total", `listener="`+listener+`"`, `reason="`+reason+`"`))
}

// slowKind is a client that sends a byte a second, of what would be right.
type slowKind struct {
	name, listener string
	dial           func(context.Context) (net.Conn, error)
	text, reason   string
}

func (a *attack) slowKinds() []slowKind {
	const handshake, identify = "handshake-timeout", "identify-timeout"
	const hello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
	const upgrade = "GET /ws HTTP/1.1\r\nHost: " + endedName + "\r\n"
	inTLS := func(listener string, alpn ...string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) { return a.dialTLS(ctx, listener, endedName, alpn...) }
	}
	inTCP := func(listener string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) { return a.dial(ctx, listener) }
	}
	inWS := func(listener string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			ws, err := a.dialWS(ctx, listener, "mqtt")
			if err != nil {
				return nil, err
			}
			return websocket.NetConn(ctx, ws, websocket.MessageBinary), nil
		}
	}
	connect := mqttConnect("alice-in-the-slow-land")
	return []slowKind{
		{"PROXY header", "behind", inTCP("behind"), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", handshake},
		{"pattern", "named", inTCP("named"), "e USER somebody-slow\n", identify},
		{"CONNECT", "mqtt", inTCP("mqtt"), connect, identify},
		{"CONNECT in TLS", "mqtts", inTLS("mqtts", "mqtt"), connect, identify},
		{"TLS for MQTT", "mqtts", inTCP("mqtts"), hello, handshake},
		{"TLS", "tls", inTCP("tls"), hello, handshake},
		{"upgrade", "ws", inTCP("ws"), upgrade, handshake},
		{"upgrade in TLS", "wss", inTLS("wss"), upgrade, handshake},
		{"TLS for HTTP", "wss", inTCP("wss"), hello, handshake},
		{"stream", "xmpp", inTCP("xmpp"), streamHeader, handshake},
		{"TLS for XMPP", "xmpps", inTCP("xmpps"), hello, handshake},
		{"stream in TLS", "xmpps", inTLS("xmpps"), streamHeader, identify},
		{"messages", "wsbymqtt", inWS("wsbymqtt"), connect, identify},
	}
}

// testSlow: clients that send a byte a second are ended when their time is over,
// however far they are.
func (a *attack) testSlow(t *testing.T) {
	a.watch(t, 96<<20)
	kinds := a.slowKinds()
	type outcome struct{ listener, reason string }
	want := make(map[outcome]int)
	for _, k := range kinds {
		o := outcome{k.listener, k.reason}
		if want[o] == 0 {
			want[o] = a.ended(t, k.listener, k.reason)
		}
		want[o] += attackPerTarget
	}
	var clients sync.WaitGroup
	for _, k := range kinds {
		for range attackPerTarget {
			clients.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				if err := k.run(ctx); err != nil {
					t.Errorf("%s: %v", k.name, err)
				}
			})
		}
	}
	clients.Wait()
	for o, want := range want {
		eventually(t, fmt.Sprintf("%d sessions of %s ended by %s", want, o.listener, o.reason), func(context.Context) (bool, string) {
			got := a.ended(t, o.listener, o.reason)
			return got == want, fmt.Sprint(got)
		})
	}
}

// run sends until the connection has ended, which must not be before its time.
func (k slowKind) run(ctx context.Context) error {
	begin := time.Now() // as the front has it: its deadline is for TLS, too
	conn, err := k.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		ended <- err
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for sent := 0; ; sent++ {
		if sent < len(k.text)-1 { // the last byte never comes
			_, _ = io.WriteString(conn, k.text[sent:sent+1])
		}
		select {
		case err := <-ended:
			if took := time.Since(begin); took < attackDeadline/2 {
				return fmt.Errorf("ended after %v: %w", took, err)
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("still open after %v", patience)
		case <-tick.C:
		}
	}
}

// testNoStreams: a QUIC connection on which nothing happens is closed, and where there
// is a limit no more of them are open than it says.
func (a *attack) testNoStreams(t *testing.T) {
	a.watch(t, 96<<20)
	t.Run("within no limit", func(t *testing.T) {
		t.Parallel()
		a.withoutStreams(t, "quic", attackPerTarget, attackPerTarget)
	})
	t.Run("above a limit", func(t *testing.T) {
		t.Parallel()
		a.withoutStreams(t, "quicfew", 6*fewMost, fewMost)
	})
}

// withoutStreams opens QUIC connections of which the front lets so many be there at a
// time, and waits for the end of each.
func (a *attack) withoutStreams(t *testing.T, listener string, all, most int) {
	t.Helper()
	unused, refused := a.ended(t, listener, "no-stream"), a.ended(t, listener, "too-many")
	begin := time.Now()
	var clients sync.WaitGroup
	dials := make(chan struct{}, 16) // of all at once some would be too slow
	for range all {
		clients.Go(func() {
			dials <- struct{}{}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			conn, err := a.dialQUIC(ctx, listener, "echo")
			<-dials
			if isRefusal(err) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case <-conn.Context().Done():
			case <-ctx.Done():
				t.Errorf("still open after %v", patience)
			}
		})
	}
	clients.Wait()
	admitted := most * (2 + int(time.Since(begin)/attackDeadline)) // those who have left make room
	eventually(t, fmt.Sprintf("the end of %d connections", all), func(context.Context) (bool, string) {
		unused, refused := a.ended(t, listener, "no-stream")-unused, a.ended(t, listener, "too-many")-refused
		// A client that is too busy to hear of a refusal asks again, and is refused once more.
		return unused+refused >= all && unused <= admitted,
			fmt.Sprintf("%d ended when their time was over, want %d at most; %d were refused", unused, admitted, refused)
	})
}

// isRefusal tells whether a QUIC connection was refused before it stood (RFC 9000 §20.1).
func isRefusal(err error) bool {
	var transport *quic.TransportError
	return errors.As(err, &transport) && transport.Remote && transport.ErrorCode == quic.ConnectionRefused
}

// testGarbage: a lot of nothing, at once from many, for as long as it takes to see that
// others are served.
func (a *attack) testGarbage(t *testing.T) {
	a.watch(t, 96<<20)
	random := make([]byte, 256<<10)
	source := rand.NewChaCha8([32]byte{2})
	_, _ = source.Read(random)
	random[0] = 0 // asks nodes for nothing
	begin, by := a.rounds(), time.Now().Add(patience)
	for first := true; first || !a.servedSince(begin) && time.Now().Before(by); first = false {
		a.volley(t, random)
	}
}

// volley sends garbage to all listeners, and inside TLS.
func (a *attack) volley(t *testing.T, garbage []byte) {
	var clients sync.WaitGroup
	send := func(dial func(context.Context) (net.Conn, error)) {
		clients.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			conn, err := dial(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = conn.Write(garbage)
			if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
				t.Errorf("still open after %v", patience)
			}
		})
	}
	for listener := range a.addrs {
		for range attackPerTarget / 2 {
			switch listener {
			case "quic", "quicfew":
				clients.Go(func() { a.garbagePackets(t, a.addrs[listener], garbage) })
				continue
			case "mqtts", "tls", "wss", "xmpps":
				send(func(ctx context.Context) (net.Conn, error) { return a.dialTLS(ctx, listener, endedName) })
			}
			send(func(ctx context.Context) (net.Conn, error) { return a.dial(ctx, listener) })
		}
	}
	clients.Wait()
}

func (a *attack) garbagePackets(t *testing.T, to string, garbage []byte) {
	conn, err := (&net.Dialer{}).DialContext(within(t, patience), "udp", to)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	for packet := range slices.Chunk(garbage, 1200) {
		_, _ = conn.Write(packet)
	}
}

// testEmptyFrames: clients of WebSockets that send what is of no use to anybody, as fast as
// they can. Others have their turn.
func (a *attack) testEmptyFrames(t *testing.T) {
	a.watch(t, 96<<20)
	begin := a.rounds()
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	for _, frame := range []string{
		"\x89\x80\x00\x00\x00\x00",  // a ping
		"\x82\x80\x00\x00\x00\x00",  // an empty message
		"\x82\x81\x00\x00\x00\x00e", // one that comes back
	} {
		for range 4 {
			clients.Go(func() {
				if err := a.pourFrames(ctx, strings.Repeat(frame, 10_000)); err != nil && ctx.Err() == nil {
					t.Errorf("%q: %v", frame, err)
				}
			})
		}
	}
	eventually(t, "the turn of others", func(context.Context) (bool, string) { return a.servedSince(begin), fmt.Sprint(a.rounds()) })
}

// pourFrames sends the same frames again and again, and reads what it is answered.
func (a *attack) pourFrames(ctx context.Context, frames string) error {
	conn, err := a.dial(ctx, "ws")
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := a.upgrade(ctx, conn, "ws"); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	for err == nil {
		_, err = io.WriteString(conn, frames)
	}
	return err
}

// bulk says how many clients of a listener there are that do not read, or whose nodes
// do not. The kernel holds some 700 KB for each of them, and has little more than a
// gigabyte for everybody before it slows all connections down.
func bulk() map[string]int {
	if raceDetector || testing.Short() {
		return map[string]int{"tcp": 150, "tls": 20, "ws": 15, "wss": 10, "quic": 10}
	}
	return map[string]int{"tcp": 500, "tls": 60, "ws": 30, "wss": 15, "quic": 15}
}

// open returns what carries the bytes of a client.
func (a *attack) open(ctx context.Context, listener string) (io.ReadWriteCloser, error) {
	switch listener {
	case "tls":
		conn, err := a.dialTLS(ctx, "tls", endedName)
		if err == nil {
			small(conn.NetConn())
		}
		return conn, err
	case "ws", "wss":
		ws, err := a.dialWS(ctx, listener)
		if err != nil {
			return nil, err
		}
		return websocket.NetConn(ctx, ws, websocket.MessageBinary), nil
	case "quic":
		conn, err := a.dialQUIC(ctx, "quic", "echo")
		if err != nil {
			return nil, err
		}
		return conn.OpenStreamSync(ctx)
	}
	conn, err := a.dial(ctx, listener)
	if err == nil {
		small(conn)
	}
	return conn, err
}

// testDeafClients: clients that never read while their nodes pour.
func (a *attack) testDeafClients(t *testing.T) {
	a.testDeaf(t, "slow-client", wantFlood, func(context.Context, io.Writer) {})
}

// testDeafNodes: clients that pour, and nodes that never read.
func (a *attack) testDeafNodes(t *testing.T) {
	block := make([]byte, 16<<10)
	a.testDeaf(t, "slow-node", wantDeaf, func(ctx context.Context, w io.Writer) {
		for ctx.Err() == nil {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
}

func (a *attack) testDeaf(t *testing.T, reason string, first byte, pour func(context.Context, io.Writer)) {
	sum := 0
	for _, n := range bulk() {
		sum += n
	}
	a.watch(t, 96<<20+sum*128<<10)
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	before := make(map[string]int)
	for listener, n := range bulk() {
		before[listener] = a.ended(t, listener, reason)
		for range n {
			clients.Go(func() {
				conn, err := a.open(ctx, listener)
				if err != nil {
					t.Errorf("%s: %v", listener, err)
					return
				}
				defer conn.Close()
				if _, err := conn.Write([]byte{first}); err != nil {
					t.Errorf("%s: %v", listener, err)
				}
				pour(ctx, conn)
				<-ctx.Done()
			})
		}
	}
	for listener, n := range bulk() {
		eventually(t, fmt.Sprintf("%d sessions of %s ended by %s", n, listener, reason), func(context.Context) (bool, string) {
			got := a.ended(t, listener, reason) - before[listener]
			return got == n, fmt.Sprint(got)
		})
	}
}

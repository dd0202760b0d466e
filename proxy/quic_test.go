package proxy_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"

	"imlb/proxy"
	"imlb/proxy/limit"
)

// udpPath is the network between a client and a front. A test may look at its
// packets, make the client come from another port, and lead it to another front.
type udpPath struct {
	t      testing.TB
	client *net.UDPConn // the client's side
	ends   sync.WaitGroup

	mu      sync.Mutex
	from    *net.UDPAddr // the client
	up      *net.UDPConn // to the front
	answers [][]byte     // of the front, as far as they tell
}

func startPath(t testing.TB, to string) *udpPath {
	t.Helper()
	p := &udpPath{t: t}
	var err error
	if p.client, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	p.lead(to)
	p.ends.Go(p.forth)
	t.Cleanup(func() {
		p.client.Close()
		p.mu.Lock()
		p.up.Close()
		p.mu.Unlock()
		p.ends.Wait()
	})
	return p
}

func (p *udpPath) addr() string { return p.client.LocalAddr().String() }

// lead makes packets go to a front, from a new port. It returns that.
func (p *udpPath) lead(to string) string {
	p.t.Helper()
	addr, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		p.t.Fatal(err)
	}
	up, err := net.DialUDP("udp", nil, addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.up != nil {
		p.up.Close()
	}
	p.up, p.answers = up, nil
	p.ends.Go(func() { p.back(up) })
	return up.LocalAddr().String()
}

func (p *udpPath) forth() {
	buf := make([]byte, 2048)
	for {
		n, from, err := p.client.ReadFromUDP(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.from = from
		_, _ = p.up.Write(buf[:n]) // what is lost is sent again
		p.mu.Unlock()
	}
}

func (p *udpPath) back(up *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		n, err := up.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // nobody there, says ICMP
		}
		p.mu.Lock()
		p.answers = append(p.answers, bytes.Clone(buf[:min(n, 8)]))
		from := p.from
		p.mu.Unlock()
		_, _ = p.client.WriteToUDP(buf[:n], from)
	}
}

// retried tells whether a Retry packet of QUIC 1 (RFC 9000 §17.2.5) or 2 came.
func (p *udpPath) retried() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.answers {
		if len(a) > 4 && (a[0]&0xf0 == 0xf0 && a[4] == 1 || a[0]&0xf0 == 0xc0 && a[1] == 0x6b) {
			return true
		}
	}
	return false
}

// dialQUICAt returns a connection to an address, which closes with the test.
func (f *front) dialQUICAt(addr string, config *quic.Config) *quic.Conn {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := quic.DialAddr(ctx, addr, f.clientTLS("xmpp-client"), config)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	return conn
}

// converse sends a lot both ways, and checks all of it.
func converse(client, leg *peer, what string) {
	client.t.Helper()
	for i := range 10 {
		m := fmt.Sprintf("<message id='%s%d'><body>%s</body></message>", what, i, strings.Repeat(what, 800))
		client.send(m)
		leg.send(m)
		leg.expect(m)
		client.expect(m)
	}
}

// transportAt returns a client's transport on an address.
func transportAt(t *testing.T, ip net.IP) *quic.Transport {
	t.Helper()
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip})
	if err != nil {
		t.Fatal(err)
	}
	tr := &quic.Transport{Conn: socket}
	t.Cleanup(func() {
		tr.Close()
		socket.Close()
	})
	return tr
}

// A client that goes over to another address keeps its session (RFC 9000 §9).
func TestQUICMigration(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	before, after := transportAt(t, net.IPv4(127, 0, 0, 1)), transportAt(t, net.IPv4(127, 0, 0, 2))
	to, err := net.ResolveUDPAddr("udp", f.addr("quic"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := before.Dial(ctx, to, f.clientTLS("xmpp-client"), nil)
	if err != nil {
		t.Fatal(err)
	}
	client := f.openQUIC(conn)
	leg := login(client, n, "alice")
	converse(client, leg, "here")
	path, err := conn.AddPath(after)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.Probe(ctx); err != nil {
		t.Fatal(err)
	}
	if err := path.Switch(); err != nil {
		t.Fatal(err)
	}
	converse(client, leg, "there")
	if err := conn.CloseWithError(0, ""); err != nil {
		t.Fatal(err)
	}
	leg.eof()
	leg.close()
	if r := f.ended("client-closed"); r["source"] != before.Conn.LocalAddr().String() || r["moved"] != after.Conn.LocalAddr().String() {
		t.Errorf("logged %v, want a move from %v to %v", r, before.Conn.LocalAddr(), after.Conn.LocalAddr())
	}
}

// So does one whose NAT gives it another port without telling.
func TestQUICRebinding(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	p := startPath(t, f.addr("quic"))
	conn := f.dialQUICAt(p.addr(), nil)
	client := f.openQUIC(conn)
	leg := login(client, n, "alice")
	converse(client, leg, "one")
	var last string
	for _, word := range []string{"two", "three"} {
		last = p.lead(f.addr("quic"))
		converse(client, leg, word)
	}
	if err := conn.CloseWithError(0, ""); err != nil {
		t.Fatal(err)
	}
	leg.eof()
	leg.close()
	if r := f.ended("client-closed"); r["moved"] != last || r["source"] == last {
		t.Errorf("logged %v, want a move to %s", r, last)
	}
}

// exhaust uses up all that a listener admits.
func (f *front) exhaust(listener string) {
	f.t.Helper()
	conn := f.dialQUICAt(f.addr(listener), nil)
	client := f.openQUIC(conn)
	client.send(streamOpen)
	client.expect(frontHeader + frontOffer)
	client.send(streamEnd)
	client.expect(streamEnd)
	client.close()
	f.ended("client-closed")
}

// A client of a front under load has to show that its address is its own
// (RFC 9000 §8.1.2), and gets in all the same.
func TestQUICRetry(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	f := startFront(t, &picker{}, func(o *proxy.Options) {
		o.Rules.Listeners = map[string]limit.Listener{o.Listeners[3].Name: rateOf(0.001, 1)}
		o.Registerer = registry
	})
	calm := startPath(t, f.addr("quic"))
	if conn := f.dialQUICAt(calm.addr(), nil); calm.retried() {
		t.Errorf("a Retry without load, for %v", conn.LocalAddr())
	}
	f.counts("a connection", 1, 1)
	if got := sum(t, registry, "imlb_proxy_quic_retries_total"); got != 0 {
		t.Errorf("%v Retry packets are counted without load", got)
	}
	p := startPath(t, f.addr("quic"))
	if err := f.refusedQUIC(p.addr()); err != nil {
		t.Error(err)
	}
	if !p.retried() {
		t.Error("no Retry under load")
	}
	all, of := sum(t, registry, "imlb_proxy_quic_retries_total"), sum(t, registry, "imlb_proxy_quic_retries_total", "quic", "limit")
	if of < 1 || of != all {
		t.Errorf("%v Retry packets are counted, %v of them for a limit", all, of)
	}
	f.ended("rate-limited")
}

// initials are the first packets of handshakes that come to nothing.
func (f *front) initials(n int) {
	f.t.Helper()
	conn, err := net.Dial("udp", f.addr("quic"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close()
	for i := range n {
		// An Initial packet of QUIC 1 (RFC 9000 §17.2.2) with ids of eight bytes, no token,
		// and a payload that nobody can decrypt.
		packet := binary.BigEndian.AppendUint64([]byte{0xc3, 0, 0, 0, 1, 8}, uint64(i)+1<<56)
		packet = binary.BigEndian.AppendUint64(append(packet, 8), uint64(i))
		packet = append(packet, 0)
		rest := 1200 - len(packet) - 2
		packet = binary.BigEndian.AppendUint16(packet, 0x4000|uint16(rest))
		if _, err := conn.Write(append(packet, make([]byte, rest)...)); err != nil {
			f.t.Fatal(err)
		}
	}
}

// retriesUntil dials until a Retry comes, or until none does.
func (f *front) retriesUntil(want bool) {
	f.t.Helper()
	for by := time.Now().Add(patience); ; {
		p := startPath(f.t, f.addr("quic"))
		conn, err := f.tryQUIC(p.addr())
		if err == nil {
			_ = conn.CloseWithError(0, "")
		}
		switch got := p.retried(); {
		case err == nil && got == want:
			return
		case time.Now().After(by):
			f.t.Fatalf("Retry is %t, and the end %v", got, err)
		}
	}
}

// Handshakes that do not go on make the front ask for a Retry, whatever the limits are,
// until they are given up. Who answers gets in all the time.
func TestQUICHandshakeFlood(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	f := startFront(t, &picker{}, func(o *proxy.Options) {
		o.Timeouts.Handshake = 3 * time.Second
		o.Registerer = registry
	})
	f.retriesUntil(false)
	f.initials(3 * proxy.QUICCalm)
	f.retriesUntil(true)
	if got := sum(t, registry, "imlb_proxy_quic_retries_total", "quic", "handshakes"); got < 1 {
		t.Errorf("%v Retry packets are counted for handshakes", got)
	}
	f.retriesUntil(false)
	if s := f.Limits(time.Now(), 0); s.Sources.Connected > 1 {
		t.Errorf("what nobody has answered is counted: %+v", s)
	}
}

// A connection that comes to nothing leaves one line, which says why.
func TestQUICFailures(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	f := startFront(t, &picker{}, func(o *proxy.Options) {
		o.Registerer = registry
		o.Timeouts.Handshake = 2 * time.Second
	})
	logged := func(reason, cause string) map[string]string {
		t.Helper()
		r := f.ended(reason)
		if !strings.Contains(r["cause"], cause) || r["transport"] != "quic" || r["listener"] != "quic" || r["source"] == "" {
			t.Errorf("logged %v", r)
		}
		return r
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if conn, err := quic.DialAddr(ctx, f.addr("quic"), f.clientTLS("h3"), nil); err == nil {
		t.Errorf("a connection of a protocol that is not spoken: %v", conn.ConnectionState())
	}
	logged("tls-failed", "unsupported application protocol")

	stranger := f.clientTLS("xmpp-client")
	stranger.RootCAs = x509.NewCertPool()
	if conn, err := quic.DialAddr(ctx, f.addr("quic"), stranger, nil); err == nil {
		t.Errorf("the client trusts nobody: %v", conn.ConnectionState())
	}
	logged("tls-failed", "certificate")

	conn := f.dialQUIC()
	if err := conn.CloseWithError(7, "I know better"); err != nil {
		t.Fatal(err)
	}
	logged("no-stream", "(remote)")

	f.dialQUIC()
	if r := logged("no-stream", "no stream was opened in time"); r["alpn"] != "xmpp-client" || r["tls"] == "" {
		t.Errorf("logged %v", r)
	}
	f.initials(1)
	logged("handshake-timeout", "timeout")
	if got := sum(t, registry, "imlb_proxy_sessions_ended_total"); got != 5 {
		t.Errorf("%v ends are counted, want 5", got)
	}
}

// Without a protocol that is spoken here there is no connection, nor with
// streams of one direction or datagrams in one that stands.
func TestQUICOffers(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var refused *quic.TransportError
	if _, err := quic.DialAddr(ctx, f.addr("quic"), f.clientTLS("h3"), nil); !errors.As(err, &refused) || !refused.ErrorCode.IsCryptoError() {
		t.Errorf("h3: %v", err)
	}
	conn := f.dialQUICAt(f.addr("quic"), &quic.Config{EnableDatagrams: true})
	if state := conn.ConnectionState(); state.SupportsDatagrams.Remote {
		t.Error("datagrams are supported")
	}
	if _, err := conn.OpenUniStream(); err == nil {
		t.Error("a stream of one direction could be opened")
	}
}

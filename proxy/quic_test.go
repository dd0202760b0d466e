package proxy_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
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
	"imlb/proxy/secrets"
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

// ring returns the keys of a cluster, and those after its next rotation.
func ring(t *testing.T) (now, next secrets.Keys) {
	t.Helper()
	p, err := secrets.Policy{}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	r, _ := secrets.Ring{}.Next(start, p)
	later, _ := r.Next(start.Add(p.Period+time.Second), p)
	return r.Keys(start, p), later.Keys(start.Add(p.Period+p.Grace+2*time.Second), p)
}

// startKeyed starts a front with a QUIC listener "keyed" that was opened with keys.
func startKeyed(t *testing.T, pick proxy.Picker, keys secrets.Keys, name string) *front {
	t.Helper()
	return startKeyedAt(t, pick, keys, name, "127.0.0.1:0")
}

// startKeyedAt does so on an address.
func startKeyedAt(t *testing.T, pick proxy.Picker, keys secrets.Keys, name, address string) *front {
	t.Helper()
	var opts proxy.Options
	f := startFront(t, pick, func(o *proxy.Options) {
		o.Front = name
		opts = *o
	})
	if err := f.SetKeys(t.Context(), keys); err != nil {
		t.Fatal(err)
	}
	opts.Listeners = append(opts.Listeners, proxy.Listener{
		Name: "keyed", Protocol: proxy.QUIC, Address: address, Pool: "nodes",
	})
	load := rateOf(0.001, 1)
	load.Rate.MaxWait = 24 * time.Hour // clients get in, and those who have no token by a Retry
	opts.Rules.Listeners = map[string]limit.Listener{"keyed": load}
	if err := f.Apply(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	return f
}

// A front that dies is followed by one on its address with the same keys. The
// clients of the first learn at once that their connections are gone
// (RFC 9000 §10.3). A front of another name says nothing, since it cannot know.
func TestQUICStatelessReset(t *testing.T) {
	t.Parallel()
	keys, _ := ring(t)
	n, pick := onlyNode(t)
	a, b, other := startKeyed(t, pick, keys, "a"), startKeyed(t, pick, keys, "a"), startKeyed(t, pick, keys, "b")
	p := startPath(t, a.addr("keyed"))
	conn := a.dialQUICAt(p.addr(), nil)
	client := a.openQUIC(conn)
	leg := login(client, n, "alice")
	converse(client, leg, "alive")

	p.lead(other.addr("keyed"))
	client.send("<presence/>")
	p.lead(b.addr("keyed")) // this is where it goes at the latest when it is sent again
	select {
	case <-conn.Context().Done():
	case <-time.After(patience):
		t.Fatal("the client was not told")
	}
	var reset *quic.StatelessResetError
	if err := context.Cause(conn.Context()); !errors.As(err, &reset) {
		t.Errorf("the client was told %v", err)
	}
	leg.close()
	a.ended("node-lost")
}

// One whose client sends nothing but PINGs, which are too small for the resets of quic-go, learns
// of it, too.
func TestQUICStatelessResetOfPings(t *testing.T) {
	t.Parallel()
	keys, _ := ring(t)
	n, pick := onlyNode(t)
	a, b := startKeyed(t, pick, keys, "a"), startKeyed(t, pick, keys, "a")
	p := startPath(t, a.addr("keyed"))
	conn := a.dialQUICAt(p.addr(), &quic.Config{KeepAlivePeriod: 100 * time.Millisecond, MaxIdleTimeout: 3 * patience})
	client := a.openQUIC(conn)
	leg := login(client, n, "alice")
	converse(client, leg, "alive")
	p.lead(b.addr("keyed"))
	select {
	case <-conn.Context().Done():
	case <-time.After(patience):
		t.Fatal("the client was not told")
	}
	var reset *quic.StatelessResetError
	if err := context.Cause(conn.Context()); !errors.As(err, &reset) {
		t.Errorf("the client was told %v", err)
	}
	leg.close()
	a.ended("node-lost")
}

// goneID returns a connection id of a process of front a that is gone.
func goneID(t *testing.T, keys secrets.Keys) []byte {
	t.Helper()
	gone, err := proxy.NewConnIDs(keys.ConnectionID, "a", 1)
	if err != nil {
		t.Fatal(err)
	}
	id, err := gone.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id.Bytes()
}

// shortPacket is one of so many bytes for a connection.
func shortPacket(id []byte, size int) []byte {
	return append(append([]byte{0x40}, id...), make([]byte, size)...)[:size]
}

// Answers to small packets are smaller than these, come from the address that was asked, and end
// in the token of the connection.
func TestQUICSmallStatelessResets(t *testing.T) {
	t.Parallel()
	keys, _ := ring(t)
	for name, at := range map[string][2]string{"one address": {"127.0.0.1:0", "127.0.0.1"}, "all addresses": {":0", "127.0.0.2"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startKeyedAt(t, &picker{}, keys, "a", at[0])
			_, port, _ := net.SplitHostPort(f.addr("keyed"))
			conn, err := net.Dial("udp", net.JoinHostPort(at[1], port)) // hears what comes from there alone
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			buf := make([]byte, 100)
			for size := 22; size <= 43; size++ {
				id := goneID(t, keys)
				if _, err := conn.Write(shortPacket(id, size)); err != nil {
					t.Fatal(err)
				}
				_ = conn.SetReadDeadline(time.Now().Add(patience))
				got, err := conn.Read(buf)
				if err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				token := hmac.New(sha256.New, keys.Reset[:])
				token.Write(id)
				if got != size-1 || buf[0]&0xc0 != 0x40 || !bytes.Equal(buf[got-16:got], token.Sum(nil)[:16]) {
					t.Errorf("%d bytes: got %d, %x", size, got, buf[:got])
				}
			}
		})
	}
}

// They are not many, however many are asked for.
func TestQUICSmallStatelessResetsFlood(t *testing.T) {
	t.Parallel()
	keys, _ := ring(t)
	f := startKeyed(t, &picker{}, keys, "a")
	conn, err := net.Dial("udp", f.addr("keyed"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := time.Now()
	small, last := shortPacket(goneID(t, keys), 40), shortPacket(goneID(t, keys), 43)
	for range 2000 {
		if _, err := conn.Write(small); err != nil {
			t.Fatal(err)
		}
	}
	buf, answers := make([]byte, 100), 0
	for by := start.Add(patience); ; { // quic-go answers this one, when all others were read
		if _, err := conn.Write(last); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience / 100))
		n, err := conn.Read(buf)
		for ; err == nil && n == 39; n, err = conn.Read(buf) {
			answers++
		}
		if err == nil {
			break
		} else if time.Now().After(by) {
			t.Fatal(err)
		}
	}
	if most := proxy.ResetBurst + int(time.Since(start).Seconds()*proxy.ResetRate) + 1; answers == 0 || answers > most {
		t.Errorf("%d answers, at most %d are allowed", answers, most)
	}
}

// A front that began with keys of its own goes over to those of its cluster when it learns
// of them. New connections are made by them: when the front is followed by another one, it
// ends them. Those that stand go on by what they were told, wherever the client moves to.
func TestQUICLateKeys(t *testing.T) {
	t.Parallel()
	own, _ := ring(t)
	keys, _ := ring(t)
	n, pick := onlyNode(t)
	a, b := startFront(t, pick, func(o *proxy.Options) { o.Front = "a" }), startKeyed(t, pick, keys, "a")
	early := startPath(t, a.addr("quic"))
	standing := a.openQUIC(a.dialQUICAt(early.addr(), nil))
	leg := login(standing, n, "alice")
	converse(standing, leg, "before")
	for i, k := range []secrets.Keys{own, keys, own, keys} { // they can be told apart, however often they change
		if err := a.SetKeys(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		converse(standing, leg, fmt.Sprint("after ", i))
	}

	p := startPath(t, a.addr("quic"))
	conn := a.dialQUICAt(p.addr(), nil)
	client := a.openQUIC(conn)
	second := login(client, n, "bob")
	converse(client, second, "alive")
	p.lead(b.addr("keyed"))
	client.send("<presence/>")
	select {
	case <-conn.Context().Done():
	case <-time.After(patience):
		t.Fatal("the client was not told")
	}
	var reset *quic.StatelessResetError
	if err := context.Cause(conn.Context()); !errors.As(err, &reset) {
		t.Errorf("the client was told %v", err)
	}
	second.close()
	a.ended("node-lost")
	early.lead(a.addr("quic"))
	converse(standing, leg, "moved")
	leg.close()
	a.ended("node-lost")
}

// There is a bound on how often the keys change that stay. Who is beyond it is told, and
// goes on with the last ones.
func TestQUICKeysThatChangeTooOften(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, nil)
	for i := range proxy.MaxTransports {
		keys, _ := ring(t)
		if err := f.SetKeys(t.Context(), keys); (err != nil) != (i == proxy.MaxTransports-1) {
			t.Errorf("change %d: %v", i, err)
		}
	}
	if err := f.dialQUIC().CloseWithError(0, ""); err != nil {
		t.Error(err)
	}
}

// tokenStore lets a test know of tokens that came.
type tokenStore struct {
	quic.TokenStore
	tokens chan struct{}
}

func newTokenStore() tokenStore {
	return tokenStore{quic.NewLRUTokenStore(4, 4), make(chan struct{}, 100)}
}

func (s tokenStore) Put(key string, token *quic.ClientToken) {
	s.TokenStore.Put(key, token)
	s.tokens <- struct{}{}
}

// fetch gets a token from a front.
func (s tokenStore) fetch(f *front, listener string) {
	f.t.Helper()
	conn := f.dialQUICAt(f.addr(listener), &quic.Config{TokenStore: s})
	select {
	case <-s.tokens:
	case <-time.After(patience):
		f.t.Fatal("no token came")
	}
	if err := conn.CloseWithError(0, ""); err != nil {
		f.t.Fatal(err)
	}
}

// A token of one front spares the client a Retry at another (RFC 9000 §8.1.3), if
// they share keys; and when the key has rotated a new one does.
func TestQUICTokens(t *testing.T) {
	t.Parallel()
	keys, next := ring(t)
	strange, _ := ring(t)
	a, b, stranger := startKeyed(t, &picker{}, keys, "a"), startKeyed(t, &picker{}, keys, "b"), startKeyed(t, &picker{}, strange, "c")
	store := newTokenStore()
	for _, f := range []*front{b, stranger} {
		f.exhaust("keyed")
	}
	visit := func(name string, f *front, retry bool) {
		t.Helper()
		p := startPath(t, f.addr("keyed"))
		conn := f.dialQUICAt(p.addr(), &quic.Config{TokenStore: store})
		if got := p.retried(); got != retry {
			t.Errorf("%s: Retry is %t, want %t", name, got, retry)
		}
		if err := conn.CloseWithError(0, ""); err != nil {
			t.Fatal(err)
		}
	}
	store.fetch(a, "keyed")
	visit("a front with other keys", stranger, true)
	store = newTokenStore()
	store.fetch(a, "keyed")
	visit("a front with the same keys", b, false)

	store = newTokenStore()
	store.fetch(a, "keyed")
	if err := b.SetKeys(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	visit("a front that has gone on", b, true)
	if err := a.SetKeys(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	store = newTokenStore()
	store.fetch(a, "keyed")
	visit("two fronts that have gone on", b, false)
}

// New keys disturb no connection, and let all clients in that come meanwhile, however
// long it takes them.
func TestQUICRekey(t *testing.T) {
	t.Parallel()
	keys, next := ring(t)
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) { o.Timeouts.Handshake = patience })
	f.SetRekeyHold(patience)
	client := f.openQUIC(f.dialQUIC())
	leg := login(client, n, "alice")
	stop, failed := make(chan struct{}), make(chan error, 4)
	for range cap(failed) {
		go func() { failed <- f.keepDialling(stop) }()
	}
	for i, k := range []secrets.Keys{keys, next, next, keys, next} {
		if err := f.SetKeys(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		converse(client, leg, fmt.Sprint("key ", i))
	}
	close(stop)
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Errorf("a client was turned away: %v", err)
		}
	}
	if err := f.SetKeys(t.Context(), secrets.Keys{}); err == nil {
		t.Error("no keys are keys")
	}
	second := f.openQUIC(f.dialQUIC())
	login(second, n, "bob").close()
	f.ended("node-lost")
}

// A handshake that is slow is waited for. One that does not go on is not.
func TestQUICRekeySlow(t *testing.T) {
	t.Parallel()
	keys, next := ring(t)
	f := startFront(t, &picker{}, func(o *proxy.Options) { o.Timeouts.Handshake = patience })
	f.SetRekeyHold(patience)
	slow := f.dialSlowly(time.Second)
	if err := f.SetKeys(t.Context(), keys); err != nil {
		t.Fatal(err)
	}
	if err := slow(); err != nil {
		t.Errorf("a slow client was turned away: %v", err)
	}
	f.ended("no-stream")

	f.SetRekeyHold(time.Second)
	stopped := f.dialSlowly(patience)
	if err := f.SetKeys(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	f.ended("too-many") // as quic-go has it
	_ = stopped()
}

// dialSlowly begins to open a connection, for which the client takes so long, or until end
// is called. The handshake is under way then.
func (f *front) dialSlowly(takes time.Duration) (end func() error) {
	f.t.Helper()
	begun, stop, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	config := f.clientTLS("xmpp-client")
	config.VerifyConnection = func(tls.ConnectionState) error {
		close(begun)
		select {
		case <-stop:
		case <-time.After(takes):
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	go func() {
		defer cancel()
		conn, err := quic.DialAddr(ctx, f.addr("quic"), config, &quic.Config{HandshakeIdleTimeout: patience})
		if err == nil {
			err = conn.CloseWithError(0, "")
		}
		ended <- err
	}()
	select {
	case <-begun:
	case <-ctx.Done():
		f.t.Fatal("no handshake")
	}
	return func() error {
		close(stop)
		return <-ended
	}
}

// keepDialling opens connections until stop is closed, or one fails.
func (f *front) keepDialling(stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		conn, err := quic.DialAddr(ctx, f.addr("quic"), f.clientTLS("xmpp-client"), &quic.Config{HandshakeIdleTimeout: patience})
		cancel()
		if err != nil {
			return err
		}
		if err := conn.CloseWithError(0, ""); err != nil {
			return err
		}
		if r := <-f.records; r["reason"] != "no-stream" {
			return fmt.Errorf("a connection was logged that was not ours: %v", r)
		}
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

// Session tickets are good at all fronts with the same keys, on TCP and QUIC, and
// give no 0-RTT anywhere: what a client says first could be said again by others.
func TestQUICTicketsElsewhere(t *testing.T) {
	t.Parallel()
	keys, _ := ring(t)
	a := startKeyed(t, &picker{}, keys, "a")
	var b *front
	for _, shared := range []bool{true, false} {
		k := keys
		if !shared {
			k, _ = ring(t)
		}
		b = startKeyed(t, &picker{}, k, "b")
		cache := ticketCache{tls.NewLRUClientSessionCache(4), make(chan struct{}, 10)}
		for i, f := range []*front{a, b} {
			config := f.clientTLS("xmpp-client")
			config.ClientSessionCache = cache
			// A ticket remembers whom it was from; these two have certificates of their own.
			config.InsecureSkipVerify = true
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			conn, err := quic.DialAddrEarly(ctx, f.addr("quic"), config, nil)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-conn.HandshakeComplete():
			case <-ctx.Done():
				t.Fatal("no handshake")
			}
			state := conn.ConnectionState()
			if want := i == 1 && shared; state.TLS.DidResume != want || state.Used0RTT {
				t.Errorf("front %d, shared %t: resumed is %t, 0-RTT %t", i, shared, state.TLS.DidResume, state.Used0RTT)
			}
			select {
			case <-cache.tickets:
			case <-ctx.Done():
				t.Fatal("no ticket came")
			}
			if err := conn.CloseWithError(0, ""); err != nil {
				t.Fatal(err)
			}
		}
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

package proxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"imlb/proxy"
	"imlb/proxy/limit"
)

// apply makes a change to the options of a front that was started with them.
func (f *front) apply(opts *proxy.Options) {
	f.t.Helper()
	f.learn(opts.Pools)
	if err := f.Apply(f.t.Context(), *opts); err != nil {
		f.t.Fatal(err)
	}
}

// startChanging starts a front and returns a copy of its options to be changed.
func startChanging(t *testing.T, picker proxy.Picker, change func(*proxy.Options)) (*front, *proxy.Options) {
	t.Helper()
	var opts proxy.Options
	f := startFront(t, picker, func(o *proxy.Options) {
		host := ownHost()
		for i := range o.Listeners {
			o.Listeners[i].Address = host + ":0"
		}
		if change != nil {
			change(o)
		}
		opts = *o
	})
	opts.Listeners = slices.Clone(opts.Listeners)
	return f, &opts
}

// talk sends a stanza each way.
func talk(t *testing.T, client, leg *peer, i int) {
	t.Helper()
	stanza := fmt.Sprintf("<message id='%d'/>", i)
	client.send(stanza)
	leg.expect(stanza)
	leg.send(stanza)
	client.expect(stanza)
}

// hosts counts the loopback addresses that tests have taken for themselves.
var hosts atomic.Uint32

// ownHost returns a loopback address of the test's own: on those that all share,
// a port that was closed may be somebody else's a moment later. Other processes may
// test at the same time.
func ownHost() string {
	n := hosts.Add(1)
	return fmt.Sprintf("127.%d.%d.%d", 18+os.Getpid()%200, n>>8&0xff, n&0xff)
}

// freePort returns an address on which nothing listens.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", ownHost()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// refusesTCP checks that nobody listens on an address.
func refusesTCP(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err == nil {
		conn.Close()
		t.Errorf("%s still accepts", addr)
	}
}

// Live sessions of every protocol go on exchanging stanzas while another pool,
// another listener, rates, limits and the certificate change, again and again.
func TestApplyAroundLiveSessions(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f, opts := startChanging(t, pick, func(o *proxy.Options) {
		o.Timeouts.Identify = time.Minute // the WebSocket logs in nobody, all the time
	})
	type pair struct{ client, leg *peer }
	quic := f.dialQUIC()
	ws := f.dialWS()
	var pairs []pair
	for i, client := range []*peer{f.dialTLS(), f.dialStartTLS(), f.openQUIC(quic), f.openQUIC(quic)} {
		pairs = append(pairs, pair{client, login(client, n, fmt.Sprint("user", i))})
	}
	ws.send("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example.com' version='1.0'/>")
	before := f.Addrs()

	changed := make(chan struct{})
	var talking sync.WaitGroup
	for _, p := range pairs {
		talking.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-changed:
					return
				default:
					talk(t, p.client, p.leg, i)
				}
			}
		})
	}
	other, addr := startNode(t, "other"), freePort(t)
	for i := range 10 {
		o := *opts
		o.Listeners = slices.Clone(opts.Listeners)
		o.TLS = &tls.Config{Certificates: opts.TLS.Certificates, MinVersion: tls.VersionTLS12}
		o.Limits.MaxPreAuth = 20<<10 + i
		for l := range o.Listeners {
			o.Rules.Listeners = map[string]limit.Listener{o.Listeners[l].Name: rateOf(float64(100+i), 100)}
		}
		o.Pools = map[string]proxy.Pool{"nodes": opts.Pools["nodes"]}
		if i%2 == 0 {
			o.Pools["more"] = proxy.Pool{Picker: &picker{nodes: map[string][]proxy.Node{"": {other.at()}}}}
			o.Listeners = append(o.Listeners, proxy.Listener{
				Name: "more", Protocol: proxy.XMPPS, Address: addr, Pool: "more",
			})
		}
		f.apply(&o)
		if i%2 == 0 {
			conn, err := tls.Dial("tcp", addr, f.clientTLS("xmpp-client"))
			if err != nil {
				t.Fatal(err)
			}
			client := newPeer(t, conn)
			leg := login(client, other, "carol")
			talk(t, client, leg, i)
			f.leaves(client, leg)
		} else {
			refusesTCP(t, addr)
		}
	}
	close(changed)
	talking.Wait()
	after := f.Addrs()
	for name, a := range before {
		if after[name].String() != a.String() {
			t.Errorf("listener %s went from %s to %s", name, a, after[name])
		}
	}
	for i, p := range pairs {
		talk(t, p.client, p.leg, i)
		f.leaves(p.client, p.leg)
	}
	if _, err := ws.token(); err != nil {
		t.Errorf("the WebSocket broke: %v", err)
	}
	ws.close()
	f.ended("client-closed")
}

// Options that are wrong, or need a port that cannot be had, change nothing, and
// the error tells all of it.
func TestApplyRefused(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f, opts := startChanging(t, pick, nil)
	client := f.dialTLS()
	leg := login(client, n, "alice")
	before := f.Status()

	wrong := *opts
	wrong.Domains = []string{"a@b"}
	wrong.Listeners = slices.Clone(opts.Listeners)
	wrong.Listeners[0].Pool = "x"
	wrong.Rules.Listeners = map[string]limit.Listener{wrong.Listeners[1].Name: rateOf(1, 0)}
	err := f.Apply(t.Context(), wrong)
	for _, want := range []string{`domain "a@b"`, `no pool "x"`, "a burst of at least 1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}

	busy, free := startNode(t, "").ln.Addr().String(), freePort(t)
	taken := *opts
	taken.Domains = []string{"example.org"}
	taken.Listeners = append(slices.Clone(opts.Listeners[1:]),
		proxy.Listener{Name: "free", Protocol: proxy.XMPP, Address: free, Pool: "nodes"},
		proxy.Listener{Name: "busy", Protocol: proxy.XMPPS, Address: busy, Pool: "nodes"},
		proxy.Listener{Name: "nowhere", Protocol: proxy.QUIC, Address: "127.0.0.1:x", Pool: "nodes"})
	err = f.Apply(t.Context(), taken)
	for _, want := range []string{"listener busy: ", "listener nowhere: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	refusesTCP(t, free)
	if after := f.Status(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("status went from\n%+v to\n%+v", before, after)
	}
	talk(t, client, leg, 1)
	f.dialTCP("xmpp").close() // the listener that was to be removed
	f.ended("probe")
	f.leaves(client, leg)
}

// A listener takes a new name, protocol and pool without its port being closed,
// and two of them may change places.
func TestApplySameSocket(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	a, b := freePort(t), freePort(t)
	f, opts := startChanging(t, pick, func(o *proxy.Options) {
		o.Listeners = []proxy.Listener{
			{Name: "a", Protocol: proxy.XMPP, Address: a, Pool: "nodes"},
			{Name: "b", Protocol: proxy.XMPPS, Address: b, Pool: "nodes"},
		}
	})
	opts.Listeners = []proxy.Listener{
		{Name: "b", Protocol: proxy.XMPP, Address: a, Pool: "nodes"},
		{Name: "xmpps", Protocol: proxy.XMPPS, Address: b, Pool: "nodes"},
	}
	f.apply(opts)
	client := f.dialTCP("b")
	client.send(streamOpen)
	client.expect(frontHeader + tlsOffer)
	client.close()
	if r := f.ended("client-closed"); r["listener"] != "b" {
		t.Errorf("logged %v", r)
	}
	opts.Listeners[0].Protocol, opts.Listeners[1].Protocol = proxy.XMPPS, proxy.XMPP
	opts.Listeners[0].Name, opts.Listeners[1].Name = "xmpps", "xmpp"
	f.apply(opts)
	client = f.dialTLS()
	leg := login(client, n, "alice")
	f.leaves(client, leg)
}

// A socket is kept, too, between a protocol that is carried by loops from the start
// and one that is not, in both directions.
func TestApplyBetweenOpaqueAndXMPP(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f, opts := startChanging(t, pick, func(o *proxy.Options) {
		o.Listeners = []proxy.Listener{{Name: "x", Protocol: proxy.TCP, Address: freePort(t), Pool: "nodes", Identify: bySource()}}
	})
	opaque := func() {
		t.Helper()
		client := f.dialTCP("x")
		client.send("up")
		leg := n.leg()
		leg.recv("up")
		client.close()
		leg.end()
		leg.Close()
		f.ended("client-closed")
	}
	opaque()
	opts.Listeners[0].Protocol, opts.Listeners[0].Name = proxy.XMPPS, "xmpps"
	f.apply(opts)
	client := f.dialTLS()
	leg := login(client, n, "alice")
	f.leaves(client, leg)
	opts.Listeners[0].Protocol, opts.Listeners[0].Name = proxy.TCP, "x"
	f.apply(opts)
	opaque()
}

// What is changed holds for sessions that come later; those that are there keep
// what they came under.
func TestApplyToNewSessions(t *testing.T) {
	t.Parallel()
	one, pick := onlyNode(t)
	f, opts := startChanging(t, pick, nil)
	waiting := f.dialTLS()
	waiting.send(streamOpen)
	waiting.expect(frontHeader + frontOffer)

	two := startNode(t, "two")
	opts.Pools = map[string]proxy.Pool{
		"nodes": opts.Pools["nodes"],
		"other": {Picker: &picker{nodes: map[string][]proxy.Node{"": {two.at()}}}},
	}
	opts.Domains = []string{"example.org", "example.com"}
	opts.Mechanisms = []string{"PLAIN"}
	for i := range opts.Listeners {
		opts.Listeners[i].Pool = "other"
	}
	f.apply(opts)

	waiting.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>biwsbj1hbGljZSxyPWFiYw==</auth>")
	leg := one.accept().offer()
	leg.element()
	waiting.close()
	leg.close()
	f.record()

	conn := f.dialQUIC()
	for _, client := range []*peer{f.dialTLS(), f.openQUIC(conn)} {
		client.send(streamOpen)
		client.expect(frontHeader + plainOffer)
		client.send(plain("alice", "secret"))
		leg := two.accept().offer()
		leg.letsIn(client, plain("alice", "secret"))
		f.leaves(client, leg)
	}
}

// The sessions of a pool and a listener that are removed go on until they end,
// and a session of the pool that waits for its login is still placed by it.
func TestApplyRemoves(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f, opts := startChanging(t, pick, nil)
	quic := f.dialQUIC()
	client, stream := f.dialTLS(), f.openQUIC(quic)
	leg, streamLeg := login(client, n, "alice"), login(stream, n, "bob")
	late := f.dialTLS()
	late.send(streamOpen)
	late.expect(frontHeader + frontOffer)
	tlsAddr := f.addr("xmpps")

	opts.Pools = map[string]proxy.Pool{"other": {Picker: &picker{}}}
	opts.Listeners = []proxy.Listener{{Name: "xmpp", Protocol: proxy.XMPP, Address: "127.0.0.1:0", Pool: "other"}}
	f.apply(opts)
	refusesTCP(t, tlsAddr)
	if st := f.Status(); len(st.Listeners) != 1 || st.Sessions != 3 {
		t.Errorf("status %+v", st)
	}
	talk(t, client, leg, 1)
	talk(t, stream, streamLeg, 1)
	late.send(plain("carol", "secret"))
	lateLeg := n.accept().offer()
	lateLeg.letsIn(late, plain("carol", "secret"))
	for _, p := range []struct{ client, leg *peer }{{client, leg}, {stream, streamLeg}, {late, lateLeg}} {
		f.leaves(p.client, p.leg)
	}
}

// A QUIC listener that is removed and comes back on the same port, while its
// connections live, serves old and new ones.
func TestApplyQUICComesBack(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f, opts := startChanging(t, pick, nil)
	with, without := *opts, *opts
	without.Listeners = slices.DeleteFunc(slices.Clone(opts.Listeners), func(l proxy.Listener) bool { return l.Protocol == proxy.QUIC })
	quic := f.dialQUIC()
	client, addr := f.openQUIC(quic), f.addr("quic")
	leg := login(client, n, "alice")
	for i := range 3 {
		f.apply(&without)
		talk(t, client, leg, i)
		f.apply(&with)
		if now := f.addr("quic"); now != addr {
			t.Fatalf("came back on %s, was on %s", now, addr)
		}
		talk(t, client, leg, i)
	}
	second := f.openQUIC(f.dialQUIC())
	secondLeg := login(second, n, "bob")
	f.leaves(client, leg)
	talk(t, second, secondLeg, 1)
	if err := quic.CloseWithError(0, ""); err != nil {
		t.Fatal(err)
	}
	talk(t, second, secondLeg, 2)
	f.leaves(second, secondLeg)
}

// rateOf is a limit on the connections of a listener in a second.
func rateOf(perSecond float64, burst int) limit.Listener {
	return limit.Listener{Scope: limit.Scope{Rate: limit.Rate{PerSecond: perSecond, Burst: burst, MaxWait: time.Second}}}
}

// limitRate limits the first listener.
func limitRate(o *proxy.Options, perSecond float64, burst int) {
	o.Rules.Listeners = map[string]limit.Listener{o.Listeners[0].Name: rateOf(perSecond, burst)}
}

// A changed rate does not give out a new burst.
func TestApplyRate(t *testing.T) {
	t.Parallel()
	f, opts := startChanging(t, &picker{}, func(o *proxy.Options) {
		limitRate(o, 0.001, 1)
	})
	probe := func(want string) {
		t.Helper()
		client := f.dialTCP("xmpp")
		if want == "rate-limited" {
			client.eof()
		} else {
			client.send(streamOpen)
			client.expect(frontHeader + tlsOffer)
			client.close()
		}
		f.ended(want)
	}
	probe("client-closed")
	probe("rate-limited")
	limitRate(opts, 0.001, 5)
	f.apply(opts)
	probe("rate-limited")
	opts.Rules = limit.Rules{}
	f.apply(opts)
	probe("client-closed")
	probe("client-closed")
	limitRate(opts, 0.001, 1)
	f.apply(opts)
	probe("client-closed")
	probe("rate-limited")
}

// A session ticket from before a change is good after it.
func TestApplyKeepsTickets(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f, opts := startChanging(t, pick, nil)
	config := f.clientTLS("xmpp-client")
	config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for _, resumed := range []bool{false, true} {
		conn, err := tls.Dial("tcp", f.addr("xmpps"), config)
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState().DidResume; got != resumed {
			t.Errorf("resumed is %t, want %t", got, resumed)
		}
		client := newPeer(t, conn)
		leg := login(client, n, "alice") // reads the ticket, too
		f.leaves(client, leg)
		cert, ca := certificate(t)
		for _, c := range opts.TLS.Certificates {
			ca.AddCert(parsed(t, c))
		}
		f.ca, config.RootCAs = ca, ca
		opts.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		f.apply(opts)
	}
	// New connections see the new certificate, QUIC ones, too.
	state := f.dialQUIC().ConnectionState().TLS
	if !state.PeerCertificates[0].Equal(parsed(t, opts.TLS.Certificates[0])) {
		t.Error("QUIC still shows the old certificate")
	}
}

// The same holds for QUIC.
func TestApplyKeepsQUICTickets(t *testing.T) {
	t.Parallel()
	f, opts := startChanging(t, &picker{}, nil)
	config := f.clientTLS("xmpp-client")
	cache := ticketCache{tls.NewLRUClientSessionCache(4), make(chan struct{}, 10)}
	config.ClientSessionCache = cache
	for _, resumed := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		conn, err := quic.DialAddr(ctx, f.addr("quic"), config, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState().TLS.DidResume; got != resumed {
			t.Errorf("resumed is %t, want %t", got, resumed)
		}
		select {
		case <-cache.tickets:
		case <-ctx.Done():
			t.Fatal("no ticket came")
		}
		if err := conn.CloseWithError(0, ""); err != nil {
			t.Fatal(err)
		}
		opts.TLS = &tls.Config{Certificates: opts.TLS.Certificates, MinVersion: tls.VersionTLS12}
		f.apply(opts)
	}
}

// ticketCache lets a test know of tickets that came.
type ticketCache struct {
	tls.ClientSessionCache
	tickets chan struct{}
}

func (c ticketCache) Put(key string, state *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, state)
	if state != nil { // nil takes one away
		c.tickets <- struct{}{}
	}
}

// Changes, a look at the state and a shutdown may come at the same time.
func TestApplyAtOnce(t *testing.T) {
	t.Parallel()
	f, opts := startChanging(t, &picker{}, nil)
	f.dialTCP("xmpp").close()
	f.ended("probe") // so it serves
	one, two := *opts, *opts
	two.Listeners = opts.Listeners[:1]
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			o := one
			if i%2 == 0 {
				o = two
			}
			if err := f.Apply(t.Context(), o); err != nil && !errors.Is(err, proxy.ErrStopping) {
				t.Error(err)
			}
			_, _ = f.Status(), f.Addrs()
		})
	}
	all.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := f.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	all.Wait()
	if err := f.Apply(t.Context(), one); !errors.Is(err, proxy.ErrStopping) {
		t.Errorf("applied to a front that stopped: %v", err)
	}
}

// A front that does not serve yet can be changed once it listens.
func TestApplyBeforeServe(t *testing.T) {
	t.Parallel()
	_, opts := startChanging(t, &picker{}, nil)
	srv, err := proxy.New(*opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Apply(t.Context(), *opts); err == nil {
		t.Error("applied before Listen")
	}
	if err := srv.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	addr := srv.Addrs()["xmpp"].String()
	next := *opts
	next.Listeners = opts.Listeners[2:]
	if err := srv.Apply(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	refusesTCP(t, addr)
	next.Listeners = opts.Listeners[:1]
	if err := srv.Apply(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if got := srv.Addrs(); len(got) != 1 {
		t.Errorf("listens on %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 2 {
		if err := srv.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}
}

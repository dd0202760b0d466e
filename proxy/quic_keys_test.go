package proxy_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"imlb/proxy"
	"imlb/proxy/limit"
	"imlb/proxy/secrets"
)

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
	wantReset(t, conn)
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

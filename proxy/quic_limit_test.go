package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/quic-go/quic-go"

	"imlb/proxy"
	"imlb/proxy/limit"
)

// limited starts a front whose QUIC listener has limits of its own.
func limited(t *testing.T, pick proxy.Picker, l limit.Listener, change func(*proxy.Options)) *front {
	t.Helper()
	return startFront(t, pick, func(o *proxy.Options) {
		o.Rules.Listeners = map[string]limit.Listener{"quic": l}
		if change != nil {
			change(o)
		}
	})
}

// tryQUIC dials and returns why there is no connection.
func (f *front) tryQUIC(addr string) (*quic.Conn, error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := quic.DialAddr(ctx, addr, f.clientTLS("xmpp-client"), &quic.Config{HandshakeIdleTimeout: patience})
	if err == nil {
		f.t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	}
	return conn, err
}

// refusedQUIC returns an error unless a connection is refused before it stands
// (RFC 9000 §20.1), or as soon as it does.
func (f *front) refusedQUIC(addr string) error {
	f.t.Helper()
	conn, err := f.tryQUIC(addr)
	if err == nil {
		err = closed(conn)
	}
	return wantRefusal(err)
}

// wantRefusal returns an error unless that is how a limit ends a connection.
func wantRefusal(err error) error {
	var transport *quic.TransportError
	var app *quic.ApplicationError
	switch {
	case errors.As(err, &transport) && transport.Remote && transport.ErrorCode == quic.ConnectionRefused:
	case errors.As(err, &app) && app.Remote && app.ErrorCode == 2:
	default:
		return fmt.Errorf("the connection ended with %v, want a refusal", err) //nolint:errorlint // may be nil
	}
	return nil
}

// closed waits for the end of a connection and returns why it has ended; nil if it
// does not.
func closed(conn *quic.Conn) error {
	select {
	case <-conn.Context().Done():
		return context.Cause(conn.Context())
	case <-time.After(patience):
		return nil
	}
}

// Whom the lists refuse gets no connection, and leaves a line and a count.
func TestQUICDenied(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	denied := limit.Listener{Access: limit.Access{Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	f := limited(t, &picker{}, denied, func(o *proxy.Options) { o.Registerer = registry })
	for range 3 {
		var refused *quic.TransportError
		if _, err := f.tryQUIC(f.addr("quic")); !errors.As(err, &refused) || refused.ErrorCode != quic.ConnectionRefused {
			t.Errorf("the client was told %v, want CONNECTION_REFUSED", err)
		}
		if r := f.ended("denied"); r["limit"] != "denied" || r["transport"] != "quic" || r["listener"] != "quic" {
			t.Errorf("logged %v", r)
		}
	}
	for name, want := range map[string]float64{"imlb_proxy_refusals_total": 3, "imlb_proxy_sessions_ended_total": 3} {
		if got := sum(t, registry, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// sum returns the sum of a counter's values, of those that have all these label values.
func sum(t *testing.T, registry *prometheus.Registry, name string, values ...string) (total float64) {
	t.Helper()
	if _, err := testutil.GatherAndCount(registry, name); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			got := make([]string, 0, len(m.GetLabel()))
			for _, l := range m.GetLabel() {
				got = append(got, l.GetValue())
			}
			if !slices.ContainsFunc(values, func(v string) bool { return !slices.Contains(got, v) }) {
				total += m.GetCounter().GetValue()
			}
		}
	}
	return total
}

// However many come at a time, no more connections stay than the limits admit, with
// streams or without.
func TestQUICFlood(t *testing.T) {
	t.Parallel()
	const clients, burst = 40, 2
	for name, tt := range map[string]struct {
		listener limit.Listener
		change   func(*proxy.Options)
	}{
		"rate":                    {listener: limit.Listener{Scope: limit.Scope{Rate: limit.Rate{PerSecond: 0.001, Burst: burst}}}},
		"connections":             {listener: limit.Listener{Scope: limit.Scope{Concurrent: burst}}},
		"unauthenticated":         {listener: limit.Listener{Scope: limit.Scope{Unauthenticated: burst}}},
		"connections of a source": {change: func(o *proxy.Options) { o.Rules.Source.Concurrent = burst }},
		"rate of a source":        {change: func(o *proxy.Options) { o.Rules.Source.Rate = limit.Rate{PerSecond: 0.001, Burst: burst} }},
		"connections of all":      {change: func(o *proxy.Options) { o.Rules.Global.Concurrent = burst }},
	} {
		t.Run(name, func(t *testing.T) { // one after the other: each keeps all processors busy
			f := limited(t, &picker{}, tt.listener, tt.change)
			ends := make(chan error, clients)
			for range clients {
				go func() {
					conn, err := f.tryQUIC(f.addr("quic"))
					if err == nil {
						<-conn.Context().Done()
						err = context.Cause(conn.Context())
					}
					ends <- err
				}()
			}
			for range clients - burst {
				select {
				case err := <-ends:
					if err := wantRefusal(err); err != nil {
						t.Error(err)
					}
				case <-time.After(patience):
					t.Fatalf("more than %d connections are open", burst)
				}
				if r := f.record()["reason"]; r != "rate-limited" && r != "too-many" {
					t.Errorf("logged %s", r)
				}
			}
			if n := f.Limits(time.Now(), 0).Global.Connections; n != burst {
				t.Errorf("%d connections are counted, want %d", n, burst)
			}
		})
	}
}

// counts waits until that is what is counted of the QUIC listener.
func (f *front) counts(what string, connections, unauthenticated int) {
	f.t.Helper()
	f.countsOf("quic", what, connections, unauthenticated)
}

// countsOf waits until that is what is counted of a listener.
func (f *front) countsOf(listener, what string, connections, unauthenticated int) {
	f.t.Helper()
	for by := time.Now().Add(patience); ; runtime.Gosched() {
		s := f.Limits(time.Now(), 0).Listeners[listener]
		if s.Connections == connections && s.Unauthenticated == unauthenticated {
			return
		}
		if time.Now().After(by) {
			f.t.Fatalf("%s: %+v, want %d connections, %d unauthenticated", what, s, connections, unauthenticated)
		}
	}
}

// A connection has a place, which its first session takes over and gives back. Others
// have their own.
func TestQUICPlace(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := limited(t, pick, limit.Listener{Scope: limit.Scope{
		Concurrent: 2, Unauthenticated: 1, Rate: limit.Rate{PerSecond: 0.001, Burst: 4},
	}}, nil)
	counts := f.counts
	counts("nothing", 0, 0)
	conn := f.dialQUIC() // the first turn
	counts("a connection without a stream", 1, 1)
	alice := f.openQUIC(conn)
	leg := login(alice, n, "alice")
	counts("a session on it", 1, 0)
	other := f.dialQUIC() // the second turn
	counts("another connection", 2, 1)
	if err := f.refusedQUIC(f.addr("quic")); err != nil {
		t.Error(err)
	}
	f.ended("too-many")
	if err := other.CloseWithError(0, ""); err != nil {
		t.Fatal(err)
	}
	f.ended("no-stream")
	counts("one is closed", 1, 0)
	bob := f.openQUIC(conn) // the third turn
	atBob := login(bob, n, "bob")
	counts("two sessions on one connection", 2, 0)
	leave := func(client, leg *peer) {
		f.leaves(client, leg)
	}
	leave(alice, leg)
	counts("one session", 1, 0)
	leave(bob, atBob)
	counts("a connection that has no session any more", 1, 0)
	alice = f.openQUIC(conn) // the fourth turn
	leg = login(alice, n, "alice")
	counts("a session again", 1, 0)
	bob = f.openQUIC(conn)
	bob.send(streamOpen)
	f.ended("rate-limited")
	leave(alice, leg)
}

// The place of a connection's last session is the connection's afterwards: nobody else
// takes it, and what the client was sent last is there to be read.
func TestQUICKeepsPlace(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := limited(t, pick, limit.Listener{Scope: limit.Scope{Concurrent: 2, Unauthenticated: 1}}, nil)
	conn := f.dialQUIC()
	alice := f.openQUIC(conn)
	leg := login(alice, n, "alice")
	f.dialQUIC() // takes the place of who has not logged in
	f.counts("another connection", 2, 1)
	f.leaves(alice, leg)
	f.counts("a connection that has no session any more", 2, 1)
	if err := f.refusedQUIC(f.addr("quic")); err != nil {
		t.Error(err)
	}
	f.ended("too-many")
	if err := context.Cause(conn.Context()); err != nil {
		t.Errorf("the connection has ended: %v", err)
	}
}

// Of connections that nobody uses there is a bounded number. Those that were there for
// longest have to go, and who opens a stream stays.
func TestQUICCrowd(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) {
		o.Timeouts.Handshake = time.Hour // no time is what ends them
	})
	first := f.dialQUIC()
	alice := f.openQUIC(f.dialQUIC())
	leg := login(alice, n, "alice")
	var dials sync.WaitGroup
	for range 4 {
		dials.Go(func() {
			for range proxy.QUICUnused / 4 {
				if _, err := f.tryQUIC(f.addr("quic")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	dials.Wait()
	if err := wantRefusal(closed(first)); err != nil {
		t.Error(err)
	}
	if r := f.ended("too-many"); r["source"] == "" || r["cause"] == "" {
		t.Errorf("logged %v", r)
	}
	if got := f.Limits(time.Now(), 0).Global; got.Unauthenticated != proxy.QUICUnused {
		t.Errorf("counted are %+v, want %d without a session", got, proxy.QUICUnused)
	}
	converse(alice, leg, "alice")
}

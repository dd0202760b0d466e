//go:build linux

package load

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"imlb/test/bench/proc"
)

// streamClient drives connections by a goroutine each.
type streamClient struct {
	spec    Spec
	window  *window
	pattern *Pattern
	text    *Pattern
	tls     *tls.Config // nil: plain TCP
	opened  atomic.Uint64

	webSocket bool // on plain TCP

	mu    sync.Mutex
	tally tally
}

func newStreamClient(spec Spec, w *window, secure bool) (*streamClient, error) {
	c := &streamClient{spec: spec, window: w, pattern: NewPattern(), text: NewTextPattern()}
	if !secure {
		return c, nil
	}
	roots, err := readRoots(spec.Roots)
	if err != nil {
		return nil, err
	}
	c.tls = clientTLS(roots)
	return c, nil
}

func readRoots(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the runner's
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate", file)
	}
	return roots, nil
}

// clientTLS asks everybody for the same: without a say in it Go and OpenSSL would
// agree on different key exchanges, one of them a good deal dearer.
func clientTLS(roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519},
		RootCAs:          roots,
		ServerName:       "localhost",
	}
}

// agreed tells whether the handshake came out as everybody's has to.
func agreed(state tls.ConnectionState) error {
	if state.CipherSuite != tls.TLS_AES_128_GCM_SHA256 || state.CurveID != tls.X25519 {
		return fmt.Errorf("TLS with %s and %v", tls.CipherSuiteName(state.CipherSuite), state.CurveID)
	}
	return nil
}

// dial connects, in TLS or as a WebSocket if the client is for that. Nothing on the connection may take
// longer than the whole measurement.
func (c *streamClient) dial(ctx context.Context, cache tls.ClientSessionCache) (net.Conn, uint64, error) {
	seed := c.opened.Add(1)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: source(seed).AsSlice()}, Timeout: stall, ControlContext: lateBind}
	conn, err := dialer.DialContext(ctx, "tcp4", c.spec.Addr.String())
	if err != nil {
		return nil, 0, err
	}
	if err := conn.SetDeadline(time.Now().Add(c.longest())); err != nil {
		return nil, 0, err
	}
	if c.webSocket {
		conn, err = openWebSocket(conn, c.spec.Addr)
		return conn, seed, err
	}
	if c.tls == nil {
		return conn, seed, nil
	}
	config := c.tls.Clone()
	config.ClientSessionCache = cache
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("TLS: %w", err), conn.Close())
	}
	return secure, seed, agreed(secure.ConnectionState())
}

func (c *streamClient) longest() time.Duration {
	opening := time.Duration(c.spec.Sessions) * 5 * time.Millisecond
	return c.spec.Warmup + c.spec.Window + c.spec.Settle + 2*stall + opening
}

// workers runs n clients until all have ended; the first that fails ends them all.
func (c *streamClient) workers(ctx context.Context, n int, client func(context.Context, *tally) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for range n {
		group.Go(func() error {
			var t tally
			err := client(ctx, &t)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.tally.add(&t)
			return err
		})
	}
	return group.Wait()
}

// roundTrips plays ping-pong on one connection.
func (c *streamClient) roundTrips(ctx context.Context, t *tally) error {
	conn, seed, err := c.dial(ctx, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	talk := newTalk(conn, c.pattern, seed, c.spec.Size)
	if err := talk.greet(echo); err != nil {
		return err
	}
	c.window.connect()
	for !c.window.over() {
		if err := c.timed(ctx, t, talk.roundTrip); err != nil {
			return err
		}
	}
	return nil
}

// timed does one unit of work, and counts it if it ends within the window.
func (c *streamClient) timed(ctx context.Context, t *tally, work func() error) error {
	start := c.window.now()
	if err := work(); err != nil {
		return err
	}
	if c.window.measuring() {
		t.units++
		t.latency.Record(c.window.now() - start)
	}
	return ctx.Err()
}

// handshakes connects, has one message echoed, and closes, again and again.
func (c *streamClient) handshakes(ctx context.Context, t *tally) error {
	c.window.connect()
	for !c.window.over() {
		if err := c.timed(ctx, t, func() error { return c.once(ctx, nil) }); err != nil {
			return err
		}
	}
	return nil
}

// resumptions are handshakes that have to go by the ticket of the one before.
func (c *streamClient) resumptions(ctx context.Context, t *tally) error {
	cache := tls.NewLRUClientSessionCache(1)
	if err := c.once(ctx, cache); err != nil {
		return err
	}
	c.window.connect()
	for !c.window.over() {
		if err := c.timed(ctx, t, func() error { return c.resume(ctx, cache) }); err != nil {
			return err
		}
	}
	return nil
}

func (c *streamClient) once(ctx context.Context, cache tls.ClientSessionCache) error {
	conn, seed, err := c.dial(ctx, cache)
	if err != nil {
		return err
	}
	defer conn.Close()
	return newTalk(conn, c.pattern, seed, c.spec.Size).ask()
}

var errNotResumed = errors.New("the TLS session was not resumed")

func (c *streamClient) resume(ctx context.Context, cache tls.ClientSessionCache) error {
	conn, seed, err := c.dial(ctx, cache)
	if err != nil {
		return err
	}
	defer conn.Close()
	if secure, ok := conn.(*tls.Conn); !ok || !secure.ConnectionState().DidResume {
		return errNotResumed
	}
	return newTalk(conn, c.pattern, seed, c.spec.Size).ask()
}

// bulkDown reads on one connection what the backend pours.
func (c *streamClient) bulkDown(ctx context.Context, t *tally) error {
	conn, seed, err := c.dial(ctx, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	talk := newTalk(conn, c.pattern, seed, pieceSize)
	if err := talk.greet(pour); err != nil {
		return err
	}
	c.window.connect()
	for !c.window.over() && ctx.Err() == nil {
		n, err := talk.take()
		if err != nil {
			return err
		}
		if c.window.measuring() {
			t.bytes += uint64(n) //nolint:gosec // a length
		}
	}
	return ctx.Err()
}

// opening is how many of the idle connections are opened at a time.
const opening = 32

// idle opens connections that then say nothing, and reads what they cost the proxy.
// In the end each is asked whether it still works.
func (c *streamClient) idle(ctx context.Context) (Result, error) {
	if err := c.prime(ctx); err != nil {
		return Result{}, err
	}
	before, err := proc.ReadMemory(c.spec.PIDs)
	if err != nil {
		return Result{}, err
	}
	talks, err := c.openIdle(ctx, c.spec.Sessions)
	defer closeAll(talks)
	if err != nil {
		return Result{}, err
	}
	if err := pause(ctx, c.spec.Settle); err != nil {
		return Result{}, err
	}
	after, err := proc.ReadMemory(c.spec.PIDs)
	if err != nil {
		return Result{}, err
	}
	for i, t := range talks {
		if err := t.roundTrip(); err != nil {
			return Result{}, fmt.Errorf("idle connection %d: %w", i, err)
		}
	}
	return Result{Metrics: perSession(after.Sub(before), len(talks))}, nil
}

func perSession(m proc.Memory, sessions int) map[string]float64 {
	kib := func(bytes int64) float64 { return float64(bytes) / 1024 / float64(sessions) }
	return map[string]float64{"anonymous": kib(m.Anonymous), "rss": kib(m.RSS)}
}

// prime opens and closes some, so that what a proxy gets once and keeps is not
// counted for sessions.
func (c *streamClient) prime(ctx context.Context) error {
	talks, err := c.openIdle(ctx, 2*opening)
	closeAll(talks)
	if err != nil {
		return err
	}
	return pause(ctx, c.spec.Warmup)
}

func (c *streamClient) openIdle(ctx context.Context, n int) ([]*talk, error) {
	talks := make([]*talk, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(opening)
	for i := range talks {
		group.Go(func() error {
			conn, seed, err := c.dial(ctx, nil)
			if err != nil {
				return fmt.Errorf("idle connection %d: %w", i, err)
			}
			talks[i] = newTalk(conn, c.pattern, seed, c.spec.Size)
			return talks[i].greet(echo)
		})
	}
	return talks, group.Wait()
}

func closeAll(talks []*talk) {
	for _, t := range talks {
		if t != nil {
			t.Close()
		}
	}
}

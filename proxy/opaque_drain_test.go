package proxy_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/coder/websocket"

	"imlb/proxy"
)

// everywhere runs a test of how sessions end when the front stops, for everything that can
// carry one.
func everywhere(t *testing.T, change func(*proxy.Options), run func(t *testing.T, f *front, n *node, dial func() *stream)) {
	t.Helper()
	secure := func(version uint16) func(f *front) *stream {
		return func(f *front) *stream {
			config := f.clientTLS()
			config.MaxVersion = version
			return f.dialSecure(config)
		}
	}
	bare := proxy.WebSocket{Subprotocols: []string{""}}
	packed := bare
	packed.Compress = true
	for name, c := range map[string]struct {
		listener proxy.Listener
		dial     func(f *front) *stream
	}{
		"tcp":    {proxy.Listener{Protocol: proxy.TCP}, (*front).dial},
		"tls1.2": {proxy.Listener{Protocol: proxy.TLS}, secure(tls.VersionTLS12)},
		"tls1.3": {proxy.Listener{Protocol: proxy.TLS}, secure(tls.VersionTLS13)},
		"quic":   {proxy.Listener{Protocol: proxy.QUIC, ALPN: []string{"chat"}}, (*front).openOpaqueQUIC},
		"ws":     {proxy.Listener{Protocol: proxy.WS, WebSocket: bare}, func(f *front) *stream { return f.dialOpaqueWS("").stream() }},
		"ws compressed": {proxy.Listener{Protocol: proxy.WS, WebSocket: packed}, func(f *front) *stream {
			o := f.wsOptions(nil)
			o.CompressionMode, o.CompressionThreshold = websocket.CompressionNoContextTakeover, 1
			return f.dialWith("ws", "/xmpp-websocket", o).stream()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), c.listener, change)
			run(t, f, n, func() *stream { return c.dial(f) })
		})
	}
}

// opened is a session of which both ends have heard of each other.
func opened(n *node, dial func() *stream) (*stream, *leg) {
	n.t.Helper()
	client := dial()
	client.send("hello")
	leg := n.leg()
	leg.recv("hello")
	return client, leg
}

// stops stops a front, and waits until a session that is quiet has heard of it.
func (f *front) stops(n *node, dial func() *stream) (stopped <-chan error) {
	f.t.Helper()
	quiet, leg := opened(n, dial)
	done := make(chan error, 1)
	go func() { done <- f.Shutdown(context.WithoutCancel(f.t.Context())) }()
	quiet.over()
	quiet.Close()
	leg.end()
	f.ended("shutdown")
	return done
}

// patient gives a front that stops all the time that a test has.
func patient(o *proxy.Options) { o.Timeouts.Shutdown = 2 * patience }

// A download that is under way when the front stops comes whole, however slow its client, and
// ends as its node ends it.
func TestOpaqueDrainedDownload(t *testing.T) {
	t.Parallel()
	const size, blocks = 64 << 10, 256 // more than all kernels between hold
	block := pattern(size)
	everywhere(t, patient, func(t *testing.T, f *front, n *node, dial func() *stream) {
		client, leg := opened(n, dial)
		leg.small()
		want := sha256.New()
		for range blocks {
			want.Write(block)
		}
		go func() {
			for range blocks {
				if _, err := leg.Write(block); err != nil {
					return
				}
			}
			leg.closeWrite()
		}()
		got := sha256.New()
		client.soon()
		if _, err := io.CopyN(got, client, size); err != nil {
			t.Fatal(err)
		}
		stopped := f.stops(n, dial)
		client.soon()
		if m, err := io.Copy(got, client); m != (blocks-1)*size || err != nil || string(got.Sum(nil)) != string(want.Sum(nil)) {
			t.Errorf("after the first block came %d bytes, %v", m, err)
		}
		client.Close()
		f.ended("node-closed")
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// An upload that is under way comes whole, and its client gets the answer.
func TestOpaqueDrainedUpload(t *testing.T) {
	t.Parallel()
	const size, blocks = 64 << 10, 256
	block := pattern(size)
	everywhere(t, patient, func(t *testing.T, f *front, n *node, dial func() *stream) {
		client, leg := opened(n, dial)
		leg.small()
		go func() {
			for range blocks {
				if _, err := client.Write(block); err != nil {
					return
				}
			}
		}()
		stopped := f.stops(n, dial)
		leg.soon()
		if m, err := io.CopyN(io.Discard, leg, blocks*size); err != nil {
			t.Fatalf("%d bytes came, %v", m, err)
		}
		leg.send("got it")
		client.recv("got it")
		client.Close()
		leg.end()
		leg.Close()
		f.record() // the client closed in the pause, or after it
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// One that does not come to its end in time must not look as if it had, to either side.
func TestOpaqueDrainedTooLong(t *testing.T) {
	t.Parallel()
	block := pattern(1 << 20)
	short := func(o *proxy.Options) { o.Timeouts.Shutdown = 5 * time.Second } // for the longest pause
	for name, slow := range map[string]bool{"fast": false, "slow": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everywhere(t, short, func(t *testing.T, f *front, n *node, dial func() *stream) {
				client, leg := opened(n, dial)
				refused := make(chan error, 1)
				go func() {
					for {
						if _, err := leg.Write(block); err != nil {
							refused <- err
							return
						}
					}
				}()
				begun, goOn, read := make(chan error, 1), make(chan struct{}), make(chan error, 1)
				client.soon()
				go func() {
					_, err := io.CopyN(io.Discard, client, 1<<20)
					if begun <- err; slow {
						<-goOn
					}
					_, err = io.Copy(io.Discard, client)
					read <- err
				}()
				if err := <-begun; err != nil {
					t.Fatal(err)
				}
				stopped := f.stops(n, dial)
				if r := f.ended("shutdown"); r["cause"] == "" {
					t.Errorf("logged %v", r)
				}
				close(goOn)
				if err := <-read; err == nil {
					t.Error("the client got an end in order")
				}
				<-refused
				if err := <-stopped; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A node that is slow to take what its client has said after it was told gets all of it, although
// nobody reads what it says itself.
func TestOpaqueDrainedSlowNode(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the system does not tell what a peer has acknowledged")
	}
	said := string(pattern(200 << 10)) // more than the node's kernel takes for one that does not read
	for name, c := range map[string]struct {
		listener proxy.Listener
		dial     func(f *front) *stream
	}{
		"tcp":  {proxy.Listener{Protocol: proxy.TCP}, (*front).dial},
		"quic": {proxy.Listener{Protocol: proxy.QUIC, ALPN: []string{"chat"}}, (*front).openOpaqueQUIC},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), c.listener, patient)
			client, leg := opened(n, func() *stream { return c.dial(f) })
			stopped := make(chan error, 1)
			go func() { stopped <- f.Shutdown(context.WithoutCancel(t.Context())) }()
			client.end()
			leg.send("nobody hears that")
			client.send(said)
			client.closeWrite()
			for all := int64(len("hello") + len(said)); ; runtime.Gosched() { // the front has got all, and maybe the end
				if s := f.sessionsOf("one"); len(s) == 0 || s[0].In == all {
					break
				}
			}
			leg.recv(said)
			leg.end()
			leg.Close()
			f.ended("shutdown")
			if err := <-stopped; err != nil {
				t.Error(err)
			}
		})
	}
}

// A WebSocket's client that takes all that it is sent is told why it is cut off.
func TestWSDrainedTooLong(t *testing.T) {
	t.Parallel()
	short := func(o *proxy.Options) { o.Timeouts.Shutdown = 300 * time.Millisecond }
	for name, compress := range map[string]bool{"plain": false, "compressed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), proxy.Listener{
				Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{""}, Compress: compress},
			}, short)
			o := f.wsOptions(nil)
			o.CompressionMode = websocket.CompressionNoContextTakeover
			client, leg := f.dialWith("ws", "/xmpp-websocket", o), n.leg()
			go func() {
				for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
					if _, err := leg.Write([]byte("tick")); err != nil {
						tick.Stop()
						return
					}
				}
			}()
			if _, _, err := client.next(); err != nil {
				t.Fatal(err)
			}
			stopped := make(chan error, 1)
			go func() { stopped <- f.Shutdown(context.WithoutCancel(t.Context())) }()
			var err error
			for err == nil {
				_, _, err = client.next()
			}
			var why websocket.CloseError
			if !errors.As(err, &why) || why.Code != websocket.StatusServiceRestart || why.Reason != "shutdown" {
				t.Errorf("the client got %v", err)
			}
			f.ended("shutdown")
			if err := <-stopped; err != nil {
				t.Error(err)
			}
		})
	}
}

// A session that is cut off on its way to a loop is closed by one of the two.
func TestCutOffOnTheWayToALoop(t *testing.T) {
	t.Parallel()
	for range 100 {
		n := startNode(t, "one")
		pick := witnessOf(n)
		f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TLS}, nil)
		client := f.dialSecure(f.clientTLS())
		n.take() // the session goes to its loop now
		hurry, cancel := context.WithCancel(t.Context())
		cancel()
		_ = f.Shutdown(hurry) // which cannot wait
		client.over()
		pick.free(t)
	}
}

//go:build linux

package load_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imlb/test/bench/load"
	"imlb/test/bench/peers"
)

// syncBuffer is a buffer to which several write.
type syncBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// backend runs a backend for the time of a test, and tells what it said.
type backend struct {
	load.Addresses
	certs peers.Certs
	said  func() string // so far
	stop  func() (said string)
}

func startBackend(t *testing.T) backend {
	t.Helper()
	certs, err := peers.MakeCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var log syncBuffer
	ready := make(chan load.Addresses, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- load.RunBackend(ctx, certs.Cert, certs.Key, &log, func(a load.Addresses) error {
			ready <- a
			return nil
		})
	}()
	stop := sync.OnceValue(func() string {
		cancel()
		if err := <-ended; err != nil {
			t.Error("backend:", err)
		}
		return log.String()
	})
	t.Cleanup(func() { stop() })
	select {
	case a := <-ready:
		return backend{Addresses: a, certs: certs, said: log.String, stop: stop}
	case err := <-ended:
		ended <- nil
		t.Fatal("backend:", err)
	}
	return backend{}
}

func (b backend) spec(workload string, addr netip.AddrPort) load.Spec {
	return load.Spec{
		Workload: workload, Addr: addr, Roots: b.certs.Cert, PIDs: []int{os.Getpid()},
		Warmup: 20 * time.Millisecond, Window: 100 * time.Millisecond, Conns: 3, Size: 200, Rate: 1000, Sessions: 40,
	}
}

// runClient measures, in longer windows when the machine is too busy to get anything done.
func runClient(t *testing.T, spec load.Spec) load.Result {
	t.Helper()
	result, err := load.RunClient(t.Context(), spec)
	for err != nil && strings.Contains(err.Error(), "nothing was done within the window") && spec.Window < 10*time.Second {
		spec.Window *= 2
		result, err = load.RunClient(t.Context(), spec)
	}
	if err != nil {
		t.Fatalf("%s: %v", spec.Workload, err)
	}
	return result
}

// Every workload does something, and has its metrics.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	trips := []string{"rate", "cpu", "p50", "p99", "p99.9"}
	bulk := []string{"throughput", "cpu"}
	memory := []string{"anonymous", "rss"}
	for _, c := range []struct {
		workload string
		addr     netip.AddrPort
		metrics  []string
	}{
		{"round-trips", b.TCP, trips},
		{"paced", b.TCP, trips},
		{"connect", b.TCP, trips},
		{"bulk-down", b.TCP, bulk},
		{"bulk-up", b.TCP, bulk},
		{"idle", b.TCP, memory},
		{"tls-round-trips", b.TLS, trips},
		{"tls-handshakes", b.TLS, trips},
		{"tls-resumptions", b.TLS, trips},
		{"tls-bulk", b.TLS, bulk},
		{"tls-idle", b.TLS, memory},
		{"ws-round-trips", b.WebSocket, trips},
		{"ws-idle", b.WebSocket, memory},
		{"xmpp", b.SecureXMPP, trips},
		{"quic-round-trips", b.QUIC, trips},
	} {
		t.Run(c.workload, func(t *testing.T) {
			t.Parallel()
			result := runClient(t, b.spec(c.workload, c.addr))
			for _, m := range c.metrics {
				if _, ok := result.Metrics[m]; !ok || len(result.Metrics) != len(c.metrics) {
					t.Fatalf("metrics %v; want %v", result.Metrics, c.metrics)
				}
			}
		})
	}
	t.Cleanup(func() {
		if said := b.stop(); said != "" {
			t.Error(said)
		}
	})
}

func TestUnknownWorkload(t *testing.T) {
	t.Parallel()
	if _, err := load.RunClient(t.Context(), load.Spec{Workload: "chess"}); err == nil {
		t.Error("no error")
	}
}

// harm is what a bad proxy does to the bytes of a direction.
type harm func(data []byte, count int) []byte

// badProxy copies, with harm up or down.
func badProxy(t *testing.T, to netip.AddrPort, up, down harm) netip.AddrPort {
	t.Helper()
	return testProxy(t, to, func(to, from net.Conn) { spoil(to, from, up) }, func(to, from net.Conn) { spoil(to, from, down) })
}

// cuttingProxy copies byte by byte.
func cuttingProxy(t *testing.T, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	cut := func(to, from net.Conn) {
		defer to.Close()
		defer from.Close()
		_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 1))
	}
	return testProxy(t, to, cut, cut)
}

// testProxy has each direction carried by a func.
func testProxy(t *testing.T, to netip.AddrPort, up, down func(to, from net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var sessions sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		sessions.Wait()
	})
	sessions.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp4", to.String())
			if err != nil { // the backend has ended, and this connection came too late
				client.Close()
				continue
			}
			sessions.Go(func() { up(server, client) })
			sessions.Go(func() { down(client, server) })
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func spoil(to, from net.Conn, do harm) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for count := 0; ; {
		n, err := from.Read(buf)
		data := buf[:n]
		if do != nil {
			data = do(data, count)
		}
		count += n
		if _, werr := to.Write(data); werr != nil {
			return
		}
		if errors.Is(err, io.EOF) {
			_ = to.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, from)
		}
		if err != nil {
			return
		}
	}
}

// flip changes one byte, behind the hello and what is said at a login.
func flip(at int) harm {
	return func(data []byte, count int) []byte {
		if at >= count && at < count+len(data) {
			data[at-count] ^= 1
		}
		return data
	}
}

// drop loses one byte.
func drop(at int) harm {
	return func(data []byte, count int) []byte {
		if at >= count && at < count+len(data) {
			i := at - count
			return append(data[:i], data[i+1:]...)
		}
		return data
	}
}

// double sends one byte twice.
func double(at int) harm {
	return func(data []byte, count int) []byte {
		if at >= count && at < count+len(data) {
			i := at - count
			return append(data[:i+1:i+1], data[i:]...)
		}
		return data
	}
}

// noting notes that harm was done.
func noting(do harm, done *atomic.Bool) harm {
	if do == nil {
		return nil
	}
	return func(data []byte, count int) []byte {
		before := bytes.Clone(data)
		data = do(data, count)
		if !bytes.Equal(data, before) {
			done.Store(true)
		}
		return data
	}
}

// No byte may be wrong, whichever way it goes.
func TestHarmIsSeen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		workload string
		up, down harm
	}{
		"round trips, down":      {"round-trips", nil, flip(1000)},
		"round trips, up":        {"round-trips", flip(1000), nil},
		"round trips, hello":     {"round-trips", nil, flip(9)},
		"round trips, lost":      {"round-trips", nil, drop(1000)},
		"round trips, doubled":   {"round-trips", double(1000), nil},
		"paced, down":            {"paced", nil, flip(1000)},
		"paced, lost":            {"paced", nil, drop(1000)},
		"connect, hello":         {"connect", nil, flip(9)},
		"connect, down":          {"connect", nil, flip(100)},
		"connect, doubled":       {"connect", nil, double(199)},
		"bulk down":              {"bulk-down", nil, flip(100_000)},
		"bulk down, lost":        {"bulk-down", nil, drop(100_000)},
		"bulk up":                {"bulk-up", flip(100_000), nil},
		"bulk up, lost":          {"bulk-up", drop(100_000), nil},
		"idle":                   {"idle", nil, flip(100)},
		"WebSocket, down":        {"ws-round-trips", nil, flip(1000)},
		"WebSocket, up":          {"ws-round-trips", flip(1000), nil},
		"WebSocket, handshake":   {"ws-round-trips", nil, flip(100)},
		"WebSocket, lost":        {"ws-round-trips", nil, drop(1000)},
		"WebSocket, idle":        {"ws-idle", nil, flip(300)},
		"TLS, which sees itself": {"tls-round-trips", nil, flip(5000)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			to := b.TCP
			switch kind, _, _ := strings.Cut(c.workload, "-"); kind {
			case "tls":
				to = b.TLS
			case "ws":
				to = b.WebSocket
			}
			var done atomic.Bool
			spec := b.spec(c.workload, badProxy(t, to, noting(c.up, &done), noting(c.down, &done)))
			_, err := load.RunClient(t.Context(), spec)
			// A busy machine may not come that far, or so late that the window is over before
			// what is wrong comes back.
			for (!done.Load() || err == nil && b.said() == "") && spec.Window < 10*time.Second {
				spec.Window *= 2
				_, err = load.RunClient(t.Context(), spec)
			}
			if said := b.stop(); err == nil && said == "" || !done.Load() {
				t.Error("nobody saw it")
			}
		})
	}
}

// A proxy that does not answer fails the measurement, in bounded time.
func TestSilence(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	b := startBackend(t)
	for _, workload := range []string{"round-trips", "bulk-down", "connect", "ws-round-trips"} {
		t.Run(workload, func(t *testing.T) {
			t.Parallel()
			if _, err := load.RunClient(t.Context(), b.spec(workload, l.Addr().(*net.TCPAddr).AddrPort())); err == nil {
				t.Error("no error")
			}
		})
	}
}

// A proxy that is gone fails it, too.
func TestNobody(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	for _, workload := range []string{"round-trips", "paced", "connect", "bulk-up", "idle", "ws-round-trips", "ws-idle", "xmpp"} {
		t.Run(workload, func(t *testing.T) {
			t.Parallel()
			if _, err := load.RunClient(t.Context(), b.spec(workload, netip.MustParseAddrPort("127.0.0.1:1"))); err == nil {
				t.Error("no error")
			}
		})
	}
}

package test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// soakEnv says how many connections the soak opens and closes.
const soakEnv = "IMLB_TEST_SOAK"

// soakWorkers is how many of them are there at a time.
const soakWorkers = 64

// soakSize is how many connections there will be: what the environment says, and else
// few enough for a run of all tests.
func soakSize(t *testing.T) int {
	t.Helper()
	if text := os.Getenv(soakEnv); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n <= 0 {
			t.Fatalf("%s=%s: want a number of connections", soakEnv, text)
		}
		return n
	}
	if testing.Short() {
		return 2_000
	}
	return 20_000
}

// soakKind is one way to open and close a connection.
type soakKind struct {
	name     string
	weight   int // in a thousand
	listener string
	sessions int      // that the front counts for one of it; 1 when 0
	reasons  []string // one of which each of them ends with
	run      func(context.Context, *gate) error
}

// soakKinds are all kinds. The cheap ones make the mass.
func soakKinds() []soakKind {
	closed := []string{"client-closed"}
	politely := func(name string) func(context.Context, *gate) error {
		return func(ctx context.Context, g *gate) error { return g.polite()[name](ctx) }
	}
	kinds := []soakKind{
		{"half-closed by the client", 265, "tcp", 1, closed, politely("tcp")},
		{"closed by the client", 150, "tcp", 1, closed, overTCP("tcp", soakClosed)},
		{"closed by the node", 80, "tcp", 1, []string{"node-closed"}, overTCP("tcp", soakNodeCloses)},
		{"reset by the client", 100, "tcp", 1, []string{"client-reset"}, overTCP("tcp", soakReset[*net.TCPConn])},
		{"reset by the node", 100, "tcp", 1, []string{"node-lost"}, overTCP("tcp", soakNodeResets)},
		{"named in the first line", 40, "named", 1, closed, politely("named")},
		{"behind a proxy", 30, "behind", 1, []string{"client-closed", "client-reset"}, politely("behind")},
		{"mqtt", 50, "mqtt", 1, closed, politely("mqtt")},
		{"mqtt without a broker", 10, "nowhere", 1, []string{"dial-failed", "no-node"}, politely("nowhere")},
		{"mqtts", 5, "mqtts", 1, closed, politely("mqtts")},
		{"tls", 20, "tls", 1, closed, politely("tls")},
		{"tls, reset", 5, "tls", 1, []string{"client-reset"}, overTLS("tls", soakReset[*tls.Conn])},
		{"tls passed through", 5, "tls", 1, []string{"client-closed", "node-closed"}, politely("passed")}, // there are two ends in it
		{"ws", 8, "ws", 1, closed, politely("ws")},
		{"ws, cut off", 4, "ws", 1, []string{"client-closed", "client-reset"}, soakCutWS},
		{"wss", 4, "wss", 1, closed, politely("wss")},
		{"http that is no WebSocket", 4, "ws", 1, []string{"http"}, overTCP("ws", soakHTTP)},
		{"xmpp up to TLS", 6, "xmpp", 1, []string{"client-closed", "client-reset", "tls-failed"}, soakSTARTTLS},
		{"garbage in TLS", 4, "xmpps", 1, []string{"protocol-error", "client-reset"}, overTLS("xmpps", soakInTLS)},
		{"quic", 5, "quic", 3, closed, func(ctx context.Context, g *gate) error { return g.echoQUIC(ctx, 3) }},
	}
	kinds = append(kinds, soakXMPPKinds()...)
	for name, share := range map[string]int{"mqtt": 30, "behind": 20, "tls": 10, "xmpp": 6, "xmpps": 6, "ws": 8} {
		kinds = append(kinds, soakKind{"scan of " + name, share, name, 1, []string{"probe"},
			func(ctx context.Context, g *gate) error { return soakScan(ctx, g, name) }})
	}
	for name, reasons := range map[string][]string{
		"mqtt": {"protocol-error"}, "behind": {"proxy-header"}, "tls": {"tls-failed"},
		"xmpp": {"protocol-error", "client-reset"}, "xmpps": {"tls-failed"}, "ws": {"http"},
	} {
		kinds = append(kinds, soakKind{"garbage at " + name, 1, name, 1, reasons, overTCP(name, soakGarbage)})
	}
	slices.SortFunc(kinds, func(a, b soakKind) int { return strings.Compare(a.name, b.name) })
	return kinds
}

// TestSoak opens and closes connections of all kinds and then looks for what is left
// of them in the front: nothing, and every one of them counted once.
func TestSoak(t *testing.T) {
	total := soakSize(t)
	g := startGate(t, "handshake: 20s, identify: 20s, half_open: 20s", "error")
	s := &soak{gate: g, kinds: soakKinds(), rng: rand.New(rand.NewPCG(uint64(total), 1))}
	begin := time.Now()
	s.run(t, total/10) // fills pools and caches
	before := s.quiet(t)
	s.run(t, total-total/10)
	took := time.Since(begin)
	after := s.quiet(t)
	t.Logf("%d connections in %v\nbefore %+v\nafter  %+v", s.connections(), took.Round(time.Millisecond), before, after)
	s.wantCounted(t)
	s.wantNothingLeft(t, before, after)
}

// soak is what was done, and what ought to have come of it.
type soak struct {
	*gate
	kinds []soakKind
	rng   *rand.Rand
	done  []int // of each kind
}

// connections is how many there were.
func (s *soak) connections() (n int) {
	for i, k := range s.kinds {
		n += s.done[i] * k.sessions
	}
	return n
}

// run opens and closes n connections.
func (s *soak) run(t *testing.T, n int) {
	t.Helper()
	work := make(chan soakKind)
	var workers sync.WaitGroup
	var failures atomic.Int64
	for range soakWorkers {
		workers.Go(func() {
			for k := range work {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				if err := k.run(ctx, s.gate); err != nil && failures.Add(1) <= 20 {
					t.Errorf("%s: %v", k.name, err)
				}
				cancel()
			}
		})
	}
	for _, i := range s.draw(n) {
		work <- s.kinds[i]
	}
	close(work)
	workers.Wait()
	if n := failures.Load(); n > 20 {
		t.Errorf("and %d more", n-20)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// draw picks kinds by their weights until there are n connections.
func (s *soak) draw(n int) (picks []int) {
	if s.done == nil {
		s.done = make([]int, len(s.kinds))
	}
	sum := 0
	for _, k := range s.kinds {
		sum += k.weight
	}
	for n > 0 {
		at := s.rng.IntN(sum)
		i := slices.IndexFunc(s.kinds, func(k soakKind) bool {
			at -= k.weight
			return at < 0
		})
		s.done[i]++
		n -= s.kinds[i].sessions
		picks = append(picks, i)
	}
	return picks
}

// quiet waits for the end of all sessions, and returns the least that the process
// holds from then on, until its memory was collected some times: pools need two.
func (s *soak) quiet(t *testing.T) (least usage) {
	t.Helper()
	const collections = 3
	eventually(t, "the end of all sessions", func(context.Context) (bool, string) {
		open, ended := metric(t, s.admin, "imlb_proxy_sessions_open"), metric(t, s.admin, "imlb_proxy_sessions_ended_total")
		return open == 0 && int(ended) == s.connections(), fmt.Sprintf("%v open, %v of %d ended", open, ended, s.connections())
	})
	least, first := s.usage(t)
	limit := time.Now().Add(patience)
	for now := first; now < first+collections; {
		var u usage
		u, now = s.usage(t) // to be asked makes garbage
		least.goroutines, least.files = min(least.goroutines, u.goroutines), min(least.files, u.files)
		least.heap, least.resident = min(least.heap, u.heap), min(least.resident, u.resident)
		if time.Now().After(limit) {
			t.Fatalf("memory was collected %v times within %v, want %d", now-first, patience, collections)
		}
	}
	return least
}

// wantNothingLeft compares what the process holds with what it held.
func (s *soak) wantNothingLeft(t *testing.T, before, after usage) {
	t.Helper()
	if after.goroutines > before.goroutines+2 {
		t.Errorf("%d goroutines, there were %d", after.goroutines, before.goroutines)
	}
	if after.files > before.files {
		t.Errorf("%d open files, there were %d", after.files, before.files)
	}
	if most := before.heap + before.heap/4 + 1<<20; after.heap > most {
		t.Errorf("%d bytes on the heap, there were %d; want at most %d", after.heap, before.heap, most)
	}
	// What the race detector notes of memory stays with it. Garbage there may be as docs/architecture.md
	// says, and the first connections have left less of it than all.
	const garbage = 32 << 20
	if most := before.resident + before.resident/4 + garbage; !raceDetector && after.resident > most {
		t.Errorf("%d bytes resident, there were %d; want at most %d", after.resident, before.resident, most)
	}
}

// wantCounted compares the counters with what was done: each connection ended once, on
// its listener, for a reason of its kind.
func (s *soak) wantCounted(t *testing.T) {
	t.Helper()
	if open := metric(t, s.admin, "imlb_proxy_sessions_open"); open != 0 {
		t.Errorf("imlb_proxy_sessions_open is %v", open)
	}
	if active := metric(t, s.admin, "imlb_proxy_sessions_active"); active != 0 {
		t.Errorf("imlb_proxy_sessions_active is %v", active)
	}
	sum, least, most := make(map[string]int), make(map[[2]string]int), make(map[[2]string]int)
	for i, k := range s.kinds {
		n := s.done[i] * k.sessions
		sum[k.listener] += n
		for _, r := range k.reasons {
			most[[2]string{k.listener, r}] += n
		}
		if len(k.reasons) == 1 {
			least[[2]string{k.listener, k.reasons[0]}] += n
		}
	}
	ended := func(labels ...string) int {
		return int(metric(t, s.admin, "imlb_proxy_sessions_ended_total", labels...))
	}
	label := func(key, value string) string { return key + `="` + value + `"` }
	if got, want := ended(), s.connections(); got != want {
		t.Errorf("%d sessions have ended, want %d", got, want)
	}
	for listener, want := range sum {
		if got := ended(label("listener", listener)); got != want {
			t.Errorf("%s: %d sessions have ended, want %d", listener, got, want)
		}
		explained := 0
		for _, key := range slices.SortedFunc(maps.Keys(most), func(a, b [2]string) int { return strings.Compare(a[1], b[1]) }) {
			if key[0] != listener {
				continue
			}
			got := ended(label("listener", listener), label("reason", key[1]))
			explained += got
			t.Logf("%-8s %-18s %7d", listener, key[1], got)
			if got < least[key] || got > most[key] {
				t.Errorf("%s: %d sessions ended with %s, want %d to %d", listener, got, key[1], least[key], most[key])
			}
		}
		if explained != want {
			t.Errorf("%s: %d sessions ended for reasons that none of their kinds has", listener, want-explained)
		}
	}
}

// over makes a connection, has do use it, and closes it.
func over[C net.Conn](dial func(context.Context, *gate) (C, error), do func(C) error) func(context.Context, *gate) error {
	return func(ctx context.Context, g *gate) error {
		conn, err := dial(ctx, g)
		if err != nil {
			return err
		}
		defer conn.Close()
		return do(conn)
	}
}

func overTCP(listener string, do func(*net.TCPConn) error) func(context.Context, *gate) error {
	return over(func(ctx context.Context, g *gate) (*net.TCPConn, error) { return g.dial(ctx, listener) }, do)
}

func overTLS(listener string, do func(*tls.Conn) error) func(context.Context, *gate) error {
	return over(func(ctx context.Context, g *gate) (*tls.Conn, error) { return g.dialTLS(ctx, listener, endedName) }, do)
}

// soakClosed leaves after the echo, the other side knowing of nothing.
func soakClosed(conn *net.TCPConn) error { return exchange(conn, "echo") }

func soakNodeCloses(conn *net.TCPConn) error {
	if _, err := conn.Write([]byte{wantClose}); err != nil {
		return err
	}
	return expectEnd(conn)
}

func soakReset[C net.Conn](conn C) error {
	if err := exchange(conn, "echo"); err != nil {
		return err
	}
	return reset(conn)
}

func soakNodeResets(conn *net.TCPConn) error {
	if _, err := conn.Write([]byte{wantReset}); err != nil {
		return err
	}
	if _, err := io.ReadAll(conn); !isReset(err) {
		return fmt.Errorf("want a reset, got %w", err)
	}
	return nil
}

// soakCutWS leaves a WebSocket without a word.
func soakCutWS(ctx context.Context, g *gate) error {
	ws, err := g.dialWS(ctx, "ws", "mqtt")
	if err != nil {
		return err
	}
	defer ws.CloseNow()
	if err := ws.Write(ctx, websocket.MessageBinary, []byte(mqttConnect("bob"))); err != nil {
		return err
	}
	_, got, err := ws.Read(ctx)
	if err == nil && string(got) != mqttAccepted {
		err = fmt.Errorf("read %.60q", got)
	}
	return err
}

func soakHTTP(conn *net.TCPConn) error {
	if _, err := io.WriteString(conn, "GET /none HTTP/1.1\r\nHost: ended.test\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	return skipTo(conn, "404")
}

// soakSTARTTLS leaves where the handshake would begin.
func soakSTARTTLS(ctx context.Context, g *gate) error {
	conn, err := g.startTLS(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

func soakInTLS(conn *tls.Conn) error {
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		return err
	}
	return skipTo(conn, streamFooter)
}

// soakScan closes without a word.
func soakScan(ctx context.Context, g *gate, listener string) error {
	conn, err := g.dial(ctx, listener)
	if err != nil {
		return err
	}
	return conn.Close()
}

// soakGarbage sends what is nothing, and waits for the end of it.
func soakGarbage(conn *net.TCPConn) error {
	if _, err := io.WriteString(conn, strings.Repeat("\x00\xff garbage \r\n", 20)); err != nil {
		return err
	}
	_ = conn.CloseWrite()
	_, err := io.Copy(io.Discard, conn)
	if isReset(err) {
		return nil
	}
	return err
}

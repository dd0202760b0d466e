package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"imlb/proxy"
	"imlb/proxy/identify"
)

// bySource identifies by address alone, so that nothing has to come first.
func bySource() proxy.Identify {
	return proxy.Identify{Chain: identify.Chain{{Name: "source", Identifier: identify.Source{}}}}
}

// byLine identifies by the line LOGIN user.
func byLine(t testing.TB, more ...identify.Step) proxy.Identify {
	t.Helper()
	p, err := identify.NewPattern(identify.PatternConfig{Expr: `^LOGIN (?P<user>\S+)\r?\n`})
	if err != nil {
		t.Fatal(err)
	}
	return proxy.Identify{Chain: append(identify.Chain{{Name: "pattern", Identifier: p}}, more...)}
}

// startOpaque starts a front with one listener, which is called x.
func startOpaque(t testing.TB, pick proxy.Picker, l proxy.Listener, change func(*proxy.Options)) *front {
	t.Helper()
	return startFront(t, pick, func(o *proxy.Options) {
		l.Name, l.Pool = "x", "nodes"
		if l.Address == "" {
			l.Address = "127.0.0.1:0"
		}
		if l.Identify.Chain == nil {
			l.Identify = bySource()
		}
		o.Listeners = []proxy.Listener{l}
		if change != nil {
			change(o)
		}
	})
}

// witness is a picker that notes for whom it is asked.
type witness struct {
	picker

	asking sync.Mutex
	asked  []string
}

func witnessOf(nodes ...*node) *witness {
	w := &witness{}
	w.nodes = map[string][]proxy.Node{"": nil}
	for _, n := range nodes {
		w.nodes[""] = append(w.nodes[""], n.at())
	}
	return w
}

func (w *witness) Pick(ctx context.Context, user string, tried []string) (proxy.Choice, error) {
	w.asking.Lock()
	w.asked = append(w.asked, user)
	w.asking.Unlock()
	return w.picker.Pick(ctx, user, tried)
}

// users are those that were asked for.
func (w *witness) users() []string {
	w.asking.Lock()
	defer w.asking.Unlock()
	return append([]string(nil), w.asked...)
}

// free checks that every choice was released.
func (w *witness) free(t testing.TB) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.live != 0 {
		t.Errorf("%d choices were not released", w.live)
	}
}

// stream is a test's end of a connection that carries bytes.
type stream struct {
	net.Conn
	t testing.TB
}

func newStream(t testing.TB, conn net.Conn) *stream {
	t.Cleanup(func() { conn.Close() })
	return &stream{Conn: conn, t: t}
}

// dial returns a client on TCP.
func (f *front) dial() *stream {
	f.t.Helper()
	conn, err := net.DialTimeout("tcp", f.addr("x"), patience)
	if err != nil {
		f.t.Fatal(err)
	}
	return newStream(f.t, conn)
}

// dialSecure returns a client on TLS, after its handshake.
func (f *front) dialSecure(config *tls.Config) *stream {
	f.t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", f.addr("x"), config)
	if err != nil {
		f.t.Fatal(err)
	}
	return newStream(f.t, conn)
}

func (s *stream) send(what string) {
	s.t.Helper()
	if _, err := s.Write([]byte(what)); err != nil {
		s.t.Fatalf("send %.40q: %v", what, err)
	}
}

func (s *stream) soon() {
	s.t.Helper()
	if err := s.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
}

// recv reads what must come next.
func (s *stream) recv(want string) {
	s.t.Helper()
	s.soon()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(s, got); err != nil {
		s.t.Fatalf("got %.80q and %v, want %.80q", got[:n], err, want)
	}
	if string(got) != want {
		s.t.Fatalf("got %.80q, want %.80q", got, want)
	}
}

// end reads to the end in order.
func (s *stream) end() {
	s.t.Helper()
	s.soon()
	if rest, err := io.ReadAll(s); err != nil || len(rest) > 0 {
		s.t.Fatalf("got %.80q and %v, want the end", rest, err)
	}
}

// hangsUp has a client close its connection, which ends its session in order.
func (f *front) hangsUp(client *stream, leg *leg) map[string]string {
	f.t.Helper()
	client.Close()
	leg.end()
	leg.Close()
	return f.ended("client-closed")
}

// broken reads to the reset.
func (s *stream) broken() {
	s.t.Helper()
	s.soon()
	rest, err := io.ReadAll(s)
	if len(rest) > 0 || !errors.Is(err, syscall.ECONNRESET) {
		s.t.Fatalf("got %.80q and %v, want a reset", rest, err)
	}
}

// over reads to the end, whatever it is like, and returns what came.
func (s *stream) over() string {
	s.t.Helper()
	s.soon()
	rest, err := io.ReadAll(s)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Fatalf("got %.80q and no end", rest)
	}
	return string(rest)
}

func (s *stream) closeWrite() {
	s.t.Helper()
	if err := s.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		s.t.Fatal(err)
	}
}

// tcp is the connection under everything else.
func (s *stream) tcp() *net.TCPConn {
	conn := s.Conn
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	return conn.(*net.TCPConn)
}

// reset breaks the connection.
func (s *stream) reset() {
	s.t.Helper()
	if err := s.tcp().SetLinger(0); err != nil {
		s.t.Fatal(err)
	}
	if err := s.tcp().Close(); err != nil {
		s.t.Fatal(err)
	}
}

// leg is a node's end of a session.
type leg struct {
	*stream
	raw    []byte             // the PROXY header
	header *proxyproto.Header // nil for none
}

// take returns the next connection of the front, with nothing read of it.
func (n *node) take() *stream {
	n.t.Helper()
	if err := n.ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		n.t.Fatal(err)
	}
	conn, err := n.ln.Accept()
	if err != nil {
		n.t.Fatal(err)
	}
	return newStream(n.t, conn)
}

// leg returns the next connection of the front, after its PROXY header of version 2,
// of which not a byte more is read.
func (n *node) leg() *leg {
	n.t.Helper()
	s := n.take()
	s.soon()
	raw := make([]byte, 16)
	if _, err := io.ReadFull(s, raw); err != nil {
		n.t.Fatalf("PROXY header: %v", err)
	}
	rest := make([]byte, binary.BigEndian.Uint16(raw[14:]))
	if _, err := io.ReadFull(s, rest); err != nil {
		n.t.Fatalf("PROXY header: %v", err)
	}
	l := &leg{stream: s, raw: slices.Concat(raw, rest)}
	var err error
	if l.header, err = proxyproto.Read(bufio.NewReader(bytes.NewReader(l.raw))); err != nil {
		n.t.Fatal(err)
	}
	return l
}

// tlv returns a field of the PROXY header, nil if it is not there.
func (l *leg) tlv(kind byte) []byte {
	l.t.Helper()
	tlvs, err := l.header.TLVs()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, v := range tlvs {
		if byte(v.Type) == kind {
			return v.Value
		}
	}
	return nil
}

// idle checks that a node has no connection waiting.
func (n *node) idle() {
	n.t.Helper()
	if err := n.ln.(*net.TCPListener).SetDeadline(time.Now()); err != nil {
		n.t.Fatal(err)
	}
	if conn, err := n.ln.Accept(); err == nil {
		conn.Close()
		n.t.Error("the node has a connection that it should not have")
	}
}

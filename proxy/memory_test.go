package proxy_test

import (
	"context"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/coder/websocket"
	"github.com/pires/go-proxyproto"

	"imlb/proxy"
	"imlb/proxy/loop"
)

// What a session on a WebSocket takes of the front while it is idle: no goroutine, and no
// buffer but those of crypto/tls.
func TestIdleWebSocketMemory(t *testing.T) {
	if !loop.CanDetach {
		t.Skip("loops are made of goroutines here")
	}
	for name, c := range map[string]struct {
		protocol proxy.Protocol
		xmpp     bool
		ceiling  int64
	}{
		"opaque in ws":  {proxy.WS, false, 5 << 10},
		"opaque in wss": {proxy.WSS, false, 14 << 10},
		"XMPP in wss":   {proxy.WSS, true, 14 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), proxy.Listener{
				Protocol: c.protocol, WebSocket: proxy.WebSocket{Subprotocols: []string{"xmpp", "mqtt"}},
			}, nil)
			var held []int
			defer func() {
				for _, fd := range held {
					syscall.Close(fd)
				}
			}()
			begin := func(subprotocol string) {
				ws := f.heldWS(t, c.protocol, subprotocol)
				n := &node{t: forgetful{t}, name: n.name, ln: n.ln}
				var leg *peer
				if c.xmpp {
					leg = loginWS(&peer{t: forgetful{t}, ws: ws.Conn}, n)
				} else {
					leg = n.accept()
					leg.send("x")
					if _, msg, err := ws.Read(t.Context()); string(msg) != "x" {
						t.Fatal(msg, err)
					}
				}
				held = append(held, ws.let(), keep(t, leg.conn.(*proxyproto.Conn).Raw()))
				leg.conn.Close()
			}
			subprotocol := map[bool]string{true: "xmpp", false: "mqtt"}[c.xmpp]
			const sessions = 200
			for range 20 { // what all sessions share
				begin(subprotocol)
			}
			memory, routines := memoryInUse(), runtime.NumGoroutine()
			for range sessions {
				begin(subprotocol)
			}
			each := (memoryInUse() - memory) / sessions
			t.Logf("%d bytes for each session", each)
			if each > c.ceiling && !raceEnabled {
				t.Errorf("an idle session takes %d bytes, more than %d", each, c.ceiling)
			}
			if more := runtime.NumGoroutine() - routines; more > sessions/10 {
				t.Errorf("%d goroutines for %d sessions", more, sessions)
			}
		})
	}
}

// memoryInUse is that of heap and stacks, without what finalizers and pools hold up.
func memoryInUse() int64 {
	for range 5 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// forgetful is a test that keeps nothing in memory for its end.
type forgetful struct{ testing.TB }

func (forgetful) Cleanup(func()) {}

// heldWS is a client of which only the socket is left after let, which returns it.
type heldWS struct {
	*websocket.Conn
	let func() int
}

func (f *front) heldWS(t *testing.T, protocol proxy.Protocol, subprotocol string) heldWS {
	t.Helper()
	var under *mutable
	transport := &http.Transport{
		TLSClientConfig: f.clientTLS(),
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			under = &mutable{Conn: conn}
			return under, err
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, protocol.String()+"://"+f.addr("x")+"/xmpp-websocket", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{subprotocol},
	})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	return heldWS{Conn: ws, let: func() int {
		fd := keep(t, under.Conn)
		under.mute.Store(true)
		ws.CloseNow()
		return fd
	}}
}

// mutable is a connection that can be made to say nothing more.
type mutable struct {
	net.Conn
	mute atomic.Bool
}

func (m *mutable) Write(p []byte) (int, error) {
	if m.mute.Load() {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// keep returns a descriptor that keeps a socket open when its connection is closed.
func keep(t *testing.T, conn net.Conn) int {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if e := raw.Control(func(old uintptr) { fd, err = syscall.Dup(int(old)) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return fd
}

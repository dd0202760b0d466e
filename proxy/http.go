package proxy

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"imlb/proxy/ws"
)

// webSocketPath is where the WebSocket is unless the configuration says otherwise
// (RFC 7395 leaves it to discovery).
const webSocketPath = "/xmpp-websocket"

// subprotocolXMPP is the WebSocket subprotocol of RFC 7395.
const subprotocolXMPP = "xmpp"

// subprotocolMQTT is that of MQTT 3.1.1 and 5. Their messages are binary (§6 of both).
const subprotocolMQTT = "mqtt"

// httpServer serves the HTTP of one connection: the WebSocket upgrade, BOSH, and their
// discovery. A server of its own gives the connection the limits of its session,
// and an owner.
func (s *session) httpServer() *http.Server {
	t := s.terms.Timeouts.Handshake
	return &http.Server{
		Handler:           s.srv.http,
		ReadHeaderTimeout: t,
		ReadTimeout:       t,
		WriteTimeout:      t,
		IdleTimeout:       t,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.srv.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
}

// upgrade serves HTTP on conn until that is a WebSocket, or closed. BOSH sessions are others
// than s, which is but one of their connections.
func (s *session) upgrade(ctx context.Context, conn net.Conn) (upgraded, error) {
	c := &httpConn{
		Conn: conn, listener: &s.terms.listener, use: &boshUse{ctx: ctx, owner: s, member: make(chan struct{})},
		upgraded: make(chan upgraded, 1), closed: make(chan struct{}),
	}
	defer c.use.leave()
	server, served := s.httpServer(), make(chan struct{})
	server.ConnState = c.state
	go func() {
		defer close(served)
		_ = server.Serve(newSingle(c)) // always ends with ErrServerClosed
	}()
	defer func() {
		_ = server.Close() // leaves a WebSocket alone
		<-served
	}()
	// The limits of the server are for one request, and this for all of them.
	by := s.handshakeBy()
	late := time.NewTimer(time.Until(by))
	defer late.Stop()
	member := c.use.member
	for {
		select {
		case up := <-c.upgraded:
			return up, nil
		case <-c.closed: // maybe by the server, when it was late
			return upgraded{}, c.end(by)
		case <-member: // the client has logged in elsewhere, so it is no stranger here
			_ = s.ticket.LoggedIn(time.Now()) // without a name nothing is refused
			member = nil
		case <-late.C:
			if more := c.use.reprieve(); more > 0 {
				late.Reset(min(more, s.terms.Timeouts.Handshake))
				continue
			}
			_ = c.Close()
			return upgraded{}, c.end(by)
		case <-ctx.Done():
			c.use.farewell(server, c.closed)
			_ = c.Close()
			return upgraded{}, ctx.Err()
		}
	}
}

// httpConn is a connection in the hands of the HTTP server.
type httpConn struct {
	net.Conn
	listener *Listener
	use      *boshUse
	upgraded chan upgraded // holds one
	closed   chan struct{}
	once     sync.Once
	answered atomic.Bool // a request that was none for a WebSocket
}

// state is told what the server does with the connection.
func (c *httpConn) state(_ net.Conn, now http.ConnState) {
	if now == http.StateIdle {
		c.answered.Store(true)
	}
}

// end is why there is no WebSocket: the connection was closed, or there had to be one by
// then. A client that was answered has not asked for one.
func (c *httpConn) end(by time.Time) error {
	if c.answered.Load() || c.use.last.Load() != nil || time.Now().Before(by) {
		return net.ErrClosed
	}
	return os.ErrDeadlineExceeded
}

// Close closes the connection and lets its session know.
func (c *httpConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// connKey finds the httpConn of a request.
type connKey struct{}

// single is a net.Listener that accepts one connection.
type single struct {
	conn chan net.Conn // holds one
	addr net.Addr
	done chan struct{}
	once sync.Once
}

func newSingle(c net.Conn) *single {
	l := &single{conn: make(chan net.Conn, 1), addr: c.LocalAddr(), done: make(chan struct{})}
	l.conn <- c
	return l
}

// Accept returns the connection, and then waits for Close.
func (l *single) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *single) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr returns the address of the connection's end here.
func (l *single) Addr() net.Addr { return l.addr }

// secureWebSocket does TLS and waits for the upgrade.
func (s *session) secureWebSocket(ctx context.Context) error {
	conn, err := s.secure(ctx)
	if err != nil {
		return err
	}
	return s.webSocket(ctx, conn)
}

// webSocket waits for the upgrade on conn, and takes the session for what its
// subprotocol says.
func (s *session) webSocket(ctx context.Context, conn halfCloser) error {
	s.setTransport(s.terms.listener.Protocol.httpName())
	up, err := s.upgrade(ctx, conn)
	switch {
	case ctx.Err() != nil:
		return s.shutdown()
	case isTimeout(err):
		return s.clientError(ctx, err)
	case err != nil:
		return s.clientEnd(ReasonHTTP, err)
	}
	s.setTransport("ws")
	c := ws.New(conn, ws.Config{
		Early: up.early, Deflate: up.deflate, WriteTimeout: s.terms.Timeouts.Write, Backlog: s.wire,
		OnlyBinary: up.subprotocol == subprotocolMQTT,
	})
	if up.subprotocol == subprotocolXMPP {
		s.streamOn(newWSLeg(c, s.terms.Limits.beforeLogin(), s.terms.Timeouts.Write))
		return nil
	}
	s.facts.request, s.facts.subprotocol = up.request, up.subprotocol
	s.inner = newWire(&wsConn{Conn: c, session: s})
	return nil
}

// httpName is the transport of a connection that is no WebSocket yet.
func (p Protocol) httpName() string {
	if p == WS {
		return "http"
	}
	return "https"
}

// httpHandler serves what there is besides nothing. A path is taken as it was written: an
// http.ServeMux would lead clients from /a//b to /a/b, and those of WebSockets do not
// follow (RFC 6455 §4.1 leaves that to them).
func httpHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(connKey{}).(*httpConn)
		switch {
		case c != nil && c.binds(r.URL.Path):
			c.serveBOSH(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		case r.URL.Path == "/.well-known/host-meta":
			handleHostMeta(w, r)
		case r.URL.Path == "/.well-known/host-meta.json":
			handleHostMetaJSON(w, r)
		default:
			handleUpgrade(w, r)
		}
	})
}

// handleUpgrade makes the connection a WebSocket and hands it to its session.
func handleUpgrade(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(connKey{}).(*httpConn)
	if !ok || !c.listener.WebSocket.at(r.URL.Path) {
		http.NotFound(w, r)
		return
	}
	if up, ok := accept(w, r, &c.listener.WebSocket); ok {
		c.upgraded <- up
	}
}

// at tells whether the WebSocket is at a path.
func (o *WebSocket) at(path string) bool {
	return path == o.Path || strings.HasSuffix(o.Path, "/") && strings.HasPrefix(path, o.Path)
}

// The relations of the addresses of a WebSocket and of BOSH (XEP-0156 §3).
const (
	altWebSocket = "urn:xmpp:alt-connections:websocket"
	altBOSH      = "urn:xmpp:alt-connections:xbosh"
)

// hostMeta is the document of RFC 6415, in both its forms.
type hostMeta struct {
	XMLName xml.Name `json:"-" xml:"http://docs.oasis-open.org/ns/xri/xrd-1.0 XRD"`
	Links   []link   `json:"links" xml:"Link"`
}

type link struct {
	Rel  string `json:"rel" xml:"rel,attr"`
	Href string `json:"href" xml:"href,attr"`
}

// hostMetaFor describes the host that was asked, where the listener serves XMPP.
func hostMetaFor(r *http.Request) (hostMeta, bool) {
	c, ok := r.Context().Value(connKey{}).(*httpConn)
	if !ok || !slices.Contains(c.listener.WebSocket.Subprotocols, subprotocolXMPP) {
		return hostMeta{}, false
	}
	secure := "s"
	if c.listener.Protocol == WS && r.Header.Get("X-Forwarded-Proto") != "https" {
		secure = ""
	}
	meta := hostMeta{Links: []link{{Rel: altWebSocket, Href: "ws" + secure + "://" + r.Host + c.listener.WebSocket.Path}}}
	if c.listener.BOSH != nil {
		meta.Links = append(meta.Links, link{Rel: altBOSH, Href: "http" + secure + "://" + r.Host + c.listener.BOSH.Path})
	}
	return meta, true
}

func handleHostMeta(w http.ResponseWriter, r *http.Request) {
	meta, ok := hostMetaFor(r)
	if !ok {
		http.NotFound(w, r)
		return
	}
	body, err := xml.Marshal(meta)
	writeMeta(w, "application/xrd+xml", append([]byte(xml.Header), body...), err)
}

func handleHostMetaJSON(w http.ResponseWriter, r *http.Request) {
	meta, ok := hostMetaFor(r)
	if !ok {
		http.NotFound(w, r)
		return
	}
	body, err := json.Marshal(meta)
	writeMeta(w, "application/json", body, err)
}

func writeMeta(w http.ResponseWriter, kind string, body []byte, err error) {
	if err != nil {
		http.Error(w, "cannot describe the host", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Access-Control-Allow-Origin", "*") // XEP-0156 §3: for web clients
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(body) // the client may have gone
}

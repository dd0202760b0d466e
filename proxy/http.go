package proxy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"github.com/coder/websocket"
)

// webSocketPath is where the WebSocket is (RFC 7395 leaves it to discovery).
const webSocketPath = "/xmpp-websocket"

// httpFront serves the HTTP of an HTTPS listener: the WebSocket upgrade and its
// discovery. It is given connections whose TLS is up; one that becomes a
// WebSocket goes back to its session.
type httpFront struct {
	server *http.Server
	feed   *feed
	done   chan struct{} // closed when the server has stopped
}

func newHTTPFront(l *listener) *httpFront {
	f := &httpFront{feed: newFeed(l.tcp.Addr()), done: make(chan struct{})}
	t := l.srv.opts.Timeouts.Handshake
	f.server = &http.Server{
		Handler:           httpHandler(),
		ReadHeaderTimeout: t,
		ReadTimeout:       t,
		WriteTimeout:      t,
		IdleTimeout:       t,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(l.srv.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	return f
}

func (f *httpFront) start() {
	go func() {
		defer close(f.done)
		_ = f.server.Serve(f.feed) // always ends with ErrServerClosed
	}()
}

func (f *httpFront) stop() {
	_ = f.server.Close()
	<-f.done
}

// upgrade serves HTTP on conn until that is a WebSocket, or closed.
func (f *httpFront) upgrade(ctx context.Context, conn *tls.Conn) (*websocket.Conn, error) {
	c := &httpConn{Conn: conn, upgraded: make(chan *websocket.Conn, 1), closed: make(chan struct{})}
	if err := f.feed.put(ctx, c); err != nil {
		return nil, err
	}
	select {
	case ws := <-c.upgraded:
		return ws, nil
	case <-c.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		_ = c.Close()
		return nil, ctx.Err()
	}
}

// httpConn is a connection in the hands of the HTTP server.
type httpConn struct {
	net.Conn
	upgraded chan *websocket.Conn // holds one
	closed   chan struct{}
	once     sync.Once
}

// Close closes the connection and lets its session know.
func (c *httpConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// connKey finds the httpConn of a request.
type connKey struct{}

// feed is a net.Listener whose connections are put in.
type feed struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newFeed(addr net.Addr) *feed {
	return &feed{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (f *feed) put(ctx context.Context, c net.Conn) error {
	select {
	case f.conns <- c:
		return nil
	case <-f.done:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Accept returns the next connection that is put in.
func (f *feed) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (f *feed) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

// Addr returns the address of the real listener.
func (f *feed) Addr() net.Addr { return f.addr }

// webSocket does TLS and waits for the upgrade.
func (s *session) webSocket(ctx context.Context) error {
	conn, err := s.secure(ctx)
	if err != nil {
		return err
	}
	s.setTransport("https")
	ws, err := s.ln.http.upgrade(ctx, conn)
	switch {
	case ctx.Err() != nil:
		return s.shutdown()
	case err != nil:
		return &ending{reason: ReasonHTTP, cause: err}
	}
	s.setTransport("ws")
	s.client = newWSLeg(ctx, ws, s.wire, s.srv.opts.Limits.MaxPreAuth, s.srv.opts.Timeouts.Write)
	return nil
}

// httpHandler serves what there is besides nothing.
func httpHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+webSocketPath, handleUpgrade)
	mux.HandleFunc("GET /.well-known/host-meta", handleHostMeta)
	mux.HandleFunc("GET /.well-known/host-meta.json", handleHostMetaJSON)
	return mux
}

// handleUpgrade makes the connection a WebSocket and hands it to its session.
func handleUpgrade(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(connKey{}).(*httpConn)
	if !ok {
		http.Error(w, "no connection", http.StatusInternalServerError)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{"xmpp"},
		// Pages of any origin may connect: there is no cookie or other ambient
		// authority that they could borrow, every stream logs in for itself.
		InsecureSkipVerify: true,
	})
	if err != nil {
		return // Accept has answered
	}
	if ws.Subprotocol() != "xmpp" { // RFC 7395 §3.1
		_ = ws.Close(websocket.StatusPolicyViolation, "the subprotocol has to be xmpp")
		return
	}
	c.upgraded <- ws
}

// altWebSocket is the relation of a WebSocket address (XEP-0156 §3).
const altWebSocket = "urn:xmpp:alt-connections:websocket"

// hostMeta is the document of RFC 6415, in both its forms.
type hostMeta struct {
	XMLName xml.Name `json:"-" xml:"http://docs.oasis-open.org/ns/xri/xrd-1.0 XRD"`
	Links   []link   `json:"links" xml:"Link"`
}

type link struct {
	Rel  string `json:"rel" xml:"rel,attr"`
	Href string `json:"href" xml:"href,attr"`
}

func hostMetaFor(r *http.Request) hostMeta {
	return hostMeta{Links: []link{{Rel: altWebSocket, Href: "wss://" + r.Host + webSocketPath}}}
}

func handleHostMeta(w http.ResponseWriter, r *http.Request) {
	body, err := xml.Marshal(hostMetaFor(r))
	writeMeta(w, "application/xrd+xml", append([]byte(xml.Header), body...), err)
}

func handleHostMetaJSON(w http.ResponseWriter, r *http.Request) {
	body, err := json.Marshal(hostMetaFor(r))
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

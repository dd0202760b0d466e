package proxy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// webSocketPath is where the WebSocket is (RFC 7395 leaves it to discovery).
const webSocketPath = "/xmpp-websocket"

// httpServer serves the HTTP of one connection: the WebSocket upgrade and its
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

// upgrade serves HTTP on conn until that is a WebSocket, or closed.
func (s *session) upgrade(ctx context.Context, conn *tls.Conn) (*websocket.Conn, error) {
	c := &httpConn{Conn: conn, upgraded: make(chan *websocket.Conn, 1), closed: make(chan struct{})}
	server, served := s.httpServer(), make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(newSingle(c)) // always ends with ErrServerClosed
	}()
	defer func() {
		_ = server.Close() // leaves a WebSocket alone
		<-served
	}()
	// The limits of the server are for one request, and this for all of them.
	late := time.NewTimer(time.Until(s.rec.Started.Add(s.terms.Timeouts.Handshake)))
	defer late.Stop()
	select {
	case ws := <-c.upgraded:
		return ws, nil
	case <-c.closed:
		return nil, net.ErrClosed
	case <-late.C:
		_ = c.Close()
		return nil, os.ErrDeadlineExceeded
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

// webSocket does TLS and waits for the upgrade.
func (s *session) webSocket(ctx context.Context) error {
	conn, err := s.secure(ctx)
	if err != nil {
		return err
	}
	s.setTransport("https")
	ws, err := s.upgrade(ctx, conn)
	switch {
	case ctx.Err() != nil:
		return s.shutdown()
	case err != nil:
		return &ending{reason: ReasonHTTP, cause: err}
	}
	s.setTransport("ws")
	s.client = newWSLeg(ctx, ws, s.wire, s.terms.Limits.MaxPreAuth, s.terms.Timeouts.Write)
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

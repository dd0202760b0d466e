package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"

	"imlb/backend/xmpp"
	"imlb/proxy/identify"
	"imlb/proxy/loop"
)

// source finds out where the client really comes from: a trusted proxy says so in
// a PROXY header. It returns how long that client's turn has to be waited for.
func (s *session) source(ctx context.Context) (wait time.Duration, err error) {
	if err := s.readBy(ctx, s.handshakeBy(), ReasonHandshakeTimeout); err != nil {
		return 0, err
	}
	if !trusted(s.terms.listener.TrustedProxies, s.facts.source) {
		return 0, nil
	}
	h, fields, own, err := s.wire.proxyHeader()
	if err != nil {
		return 0, s.proxyError(ctx, err)
	}
	s.wire.used.Store(len(s.wire.seen) > 0) // the header was the proxy's, not the client's
	s.facts.received = fields
	if h.Command.IsLocal() { // the addresses of the connection are the true ones
		if s.check = own; own {
			return 0, nil
		}
		return 0, s.unknown()
	}
	s.rec.Via = s.rec.Source
	s.setEnds(h.SourceAddr, h.DestinationAddr)
	if wait, err = s.behind(); err == nil && wait > 0 {
		err = s.readBy(ctx, s.handshakeBy(), ReasonHandshakeTimeout)
	}
	return wait, err
}

// handshakeBy is when the transport has to stand. The time in which the client had to wait
// for its turns is not its own.
func (s *session) handshakeBy() time.Time {
	return s.rec.Started.Add(s.facts.held + s.terms.Timeouts.Handshake)
}

// maxProxyHeader is how long a PROXY header may be. Those with client certificates
// are the longest that are in use.
const maxProxyHeader = 16 << 10

// proxyHeader reads the header that must come first. own tells that the proxy says that the
// connection is its own; what comes by another way than TCP may be a client's.
func (w *wire) proxyHeader() (h *proxyproto.Header, fields []proxyproto.TLV, own bool, err error) {
	for {
		n, v := identify.ProxyHeader(w.seen, maxProxyHeader)
		switch {
		case v == identify.Found:
			own := identify.IsOwnProxyHeader(w.seen[:n])
			h, fields, err := parseProxyHeader(w.seen[:n])
			w.skip(n)
			if err == nil && h.Command.IsProxy() && (h.SourceAddr == nil || h.DestinationAddr == nil) {
				err = errProxyAddresses
			}
			return h, fields, own, err
		case v.None():
			if err := identify.ProxyHeaderError(w.seen, maxProxyHeader); err != nil {
				return nil, nil, false, err
			}
			return nil, nil, false, proxyproto.ErrNoProxyProtocol
		}
		if err := w.look(); err != nil {
			return nil, nil, false, err
		}
	}
}

// errProxyAddresses is what a PROXY header is refused for that should say where the client is.
var errProxyAddresses = errors.New("the PROXY header has no addresses")

// errProxyChecksum is what a PROXY header is refused for that was damaged on its way.
var errProxyChecksum = errors.New("the CRC32c of the PROXY header is wrong")

// parseProxyHeader parses a whole header. One without addresses of the Internet, of
// family UNSPEC or UNIX, counts as LOCAL: those of the connection are the true ones
// (PROXY protocol §2.2), as with UNKNOWN in version 1. The fields are parsed by themselves:
// together with them a header may be longer than what the parser takes.
func parseProxyHeader(header []byte) (*proxyproto.Header, []proxyproto.TLV, error) {
	if identify.CheckProxyHeader(header) != identify.Found {
		return nil, nil, errProxyChecksum
	}
	addresses, rest := identify.CutProxyHeader(identify.LocalProxyHeader(header))
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(addresses)))
	if err != nil {
		return nil, nil, err
	}
	fields, err := proxyproto.SplitTLVs(rest)
	return h, fields, err
}

// proxyError makes an ending of a failure to read the PROXY header.
func (s *session) proxyError(ctx context.Context, err error) *ending {
	var netErr net.Error
	switch {
	case !s.wire.used.Load() || isTimeout(err):
		return s.clientError(ctx, err)
	case errors.As(err, &netErr):
		return s.clientEnd(goneReason(err), err)
	}
	return &ending{reason: ReasonProxyHeader, cause: err}
}

// trusted tells whether addr is in one of the networks.
func trusted(networks []netip.Prefix, addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("") // or no network has it
	for _, n := range networks {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

// transport ends what has to be ended, until either s.client is a secured leg that
// expects a stream header, or s.inner is what carries an opaque session. A proxy's check
// comes as far as that, and never to a node.
func (s *session) transport(ctx context.Context) error {
	var err error
	switch s.terms.listener.Protocol {
	case TCP, MQTT:
		s.inner = s.wire
	case TLS, MQTTS:
		err = s.opaqueTLS(ctx)
	case XMPP:
		err = s.xmpp(ctx)
	case XMPPS:
		err = s.directTLS(ctx)
	case WS:
		err = s.webSocket(ctx, s.wire)
	case WSS:
		err = s.secureWebSocket(ctx)
	case QUIC:
		s.quicStream()
	}
	if err == nil && s.check {
		err = &ending{reason: ReasonProbe}
	}
	if err != nil {
		return err
	}
	s.rec.Opaque = s.inner != nil
	s.rec.Handshake = time.Since(s.rec.Started)
	s.srv.metrics.handshake.Observe(s.rec.Handshake.Seconds())
	return nil
}

// streamOn says what carries the XML stream.
func (s *session) streamOn(l leg) {
	s.client, s.xml = l, new(xmlPart)
}

// newLeg returns a leg for what comes before a login.
func (s *session) newLeg(conn halfCloser) *streamLeg {
	return newStreamLeg(conn, s.terms.Limits.beforeLogin(), s.terms.Timeouts.Write)
}

// quicStream takes the stream for what its connection has agreed on. QUIC is TLS.
func (s *session) quicStream() {
	s.route(s.facts.agreed())
	if s.facts.alpn == alpnXMPP {
		s.streamOn(s.newLeg(s.wire))
		return
	}
	s.inner = s.wire
}

// route leads the session to the pool of the route that matches best, and tells
// whether its TLS is left to the nodes.
func (s *session) route(hello identify.Hello) (passthrough bool) {
	l := &s.terms.listener
	i := identify.Route(l.matches(), hello)
	if i < 0 {
		return l.Passthrough
	}
	s.routed = &l.Routes[i]
	return l.Routes[i].Passthrough
}

// agreed is what a handshake that ended here has come to.
func (f *facts) agreed() identify.Hello {
	h := identify.Hello{ServerName: f.serverName}
	if f.alpn != "" {
		h.ALPN = []string{f.alpn}
	}
	return h
}

// opaqueTLS does TLS, or leaves it to the nodes.
func (s *session) opaqueTLS(ctx context.Context) error {
	s.setTransport("tls")
	if s.terms.listener.passesTLS() {
		passes, err := s.peekHello(ctx)
		if err != nil || passes {
			return err
		}
	}
	conn, err := s.secure(ctx)
	if err != nil {
		return err
	}
	if s.route(s.facts.agreed()) {
		// The handshake would have been the node's: its first message said less.
		return &ending{reason: ReasonTLSFailed, cause: errors.New("the handshake changed its route")}
	}
	s.inner = newWire(conn)
	return nil
}

// maxHello is how long a ClientHello may be. With post-quantum keys and client
// tickets they are some kilobytes.
const maxHello = 32 << 10

// peekHello looks at the first message of the client's handshake, and tells whether
// the handshake is the nodes'. Then s.inner is set.
func (s *session) peekHello(ctx context.Context) (passes bool, err error) {
	for {
		hello, _, v := identify.ParseClientHello(s.wire.seen, maxHello)
		switch {
		case v == identify.Found:
			if !s.route(hello) {
				return false, nil
			}
			s.setTransport("tls-passthrough")
			s.setHello(hello)
			s.inner = s.wire
			return true, nil
		case v.None():
			return false, &ending{reason: ReasonTLSFailed, cause: fmt.Errorf("the client did not begin with a ClientHello: %s", v)}
		}
		if err := s.wire.look(); err != nil {
			return false, s.clientError(ctx, err)
		}
	}
}

// setHello notes what a handshake that is left to the nodes began with.
func (s *session) setHello(h identify.Hello) {
	s.facts.serverName = h.ServerName
	if len(h.ALPN) > 0 {
		s.facts.alpn = h.ALPN[0]
	}
	s.rec.TLS = &RecordTLS{ServerName: s.facts.serverName, ALPN: s.facts.alpn}
}

// tlsHandshake is the first byte of TLS: the type of a handshake record (RFC 8446 §5.1).
const tlsHandshake = 0x16

// xmpp does STARTTLS, or TLS at once where the listener lets clients do that and
// this one does.
func (s *session) xmpp(ctx context.Context) error {
	if !s.terms.listener.DirectTLS {
		return s.startTLS(ctx)
	}
	if len(s.wire.seen) == 0 {
		if err := s.wire.look(); err != nil {
			return s.clientError(ctx, err)
		}
	}
	if s.wire.seen[0] == tlsHandshake {
		return s.directTLS(ctx)
	}
	return s.startTLS(ctx)
}

// directTLS does TLS from the first byte (XEP-0368).
func (s *session) directTLS(ctx context.Context) error {
	s.setTransport("tls")
	conn, err := s.secure(ctx)
	if err != nil {
		return err
	}
	s.streamOn(s.newLeg(conn))
	return nil
}

// nagleTime is how long a client waits that says nothing before its handshake is acknowledged. Others
// have said something by then, which needs no packet of its own. Some clients rely on it that an answer
// takes longer than to hear that the question is written: xmpp.js (0.14) on the same machine.
const nagleTime = 2 * time.Millisecond

// secure does the TLS handshake on the wire.
func (s *session) secure(ctx context.Context) (*tls.Conn, error) {
	shown := new(shownCertificate)
	conn := tls.Server(s.wire, s.terms.tls)
	if err := conn.HandshakeContext(context.WithValue(ctx, shownKey{}, shown)); err != nil {
		return nil, s.tlsError(ctx, err)
	}
	// The client has the last word of the handshake, mostly, and one that has left Nagle's
	// algorithm on says no more before it is acknowledged.
	if c, ok := s.wire.Conn.(*net.TCPConn); ok {
		time.AfterFunc(nagleTime, func() { loop.Acknowledge(c) }) // or it is closed, or has gone to a loop
	}
	s.facts.endPoint = shown.endPoint()
	s.setTLS(conn.ConnectionState())
	return conn, nil
}

// tlsError makes an ending of a handshake that failed.
func (s *session) tlsError(ctx context.Context, err error) *ending {
	switch {
	case ctx.Err() != nil:
		return s.shutdown()
	case isTimeout(err) || !s.wire.used.Load():
		return s.clientError(ctx, err)
	}
	return &ending{reason: ReasonTLSFailed, cause: err}
}

const (
	startTLSFeatures = "<stream:features><starttls xmlns='" + xmpp.NSTLS + "'><required/></starttls></stream:features>"
	startTLSProceed  = "<proceed xmlns='" + xmpp.NSTLS + "'/>"
	startTLSFailure  = "<failure xmlns='" + xmpp.NSTLS + "'/>"
)

// startTLS negotiates TLS on a stream in the clear (RFC 6120 §5), on which
// nothing else is possible.
func (s *session) startTLS(ctx context.Context) error {
	leg := s.newLeg(s.wire)
	s.streamOn(leg)
	h, err := s.readHeader(ctx)
	if err != nil {
		return err
	}
	if err := s.openStream(ctx, h, []byte(startTLSFeatures)); err != nil {
		return err
	}
	if err := s.awaitStartTLS(ctx); err != nil {
		return err
	}
	if err := s.send(ctx, []byte(startTLSProceed)); err != nil {
		return err
	}
	// What came with <starttls/> came in the clear, maybe from somebody else.
	leg.discard()
	s.setTransport("starttls")
	conn, err := s.secure(ctx)
	if err != nil {
		s.client = nil // the stream is over: nothing can be said in the clear
		_ = leg.Close()
		return err
	}
	leg.switchTo(conn)
	leg.Restart(s.terms.Limits.beforeLogin())
	s.greeted = false
	return nil
}

// awaitStartTLS reads the client's stream up to <starttls/>.
func (s *session) awaitStartTLS(ctx context.Context) error {
	for {
		raw, err := s.readElement(ctx)
		if err != nil {
			return err
		}
		e, err := xmpp.ParseElement(raw)
		switch {
		case err != nil:
			return s.clientError(ctx, err)
		case e.Is(xmpp.NSTLS, "starttls"):
			return nil
		case e.Is(xmpp.NSSASL, "auth"):
			// RFC 6120 §6.5.4: the mechanisms are there after TLS.
			if err := s.refuse(ctx, xmpp.SASLFrame{}, &xmpp.SASLError{Condition: xmpp.EncryptionRequired}); err != nil {
				return err
			}
		default:
			return unexpected(raw)
		}
	}
}

// readElement returns the client's next first-level element.
func (s *session) readElement(ctx context.Context) ([]byte, error) {
	for {
		tok, err := s.read(ctx)
		if err != nil {
			return nil, err
		}
		switch tok.Kind {
		case xmpp.KindElement:
			return tok.Raw, nil
		case xmpp.KindClose:
			return nil, s.clientEnd(ReasonClientClosed, nil)
		case xmpp.KindOpen:
			return nil, protocolError(&xmpp.StreamError{Condition: xmpp.BadFormat, Text: "a second stream header"})
		case xmpp.KindNone, xmpp.KindSpace:
		}
	}
}

// unexpected makes an ending of an element that may not come before the login:
// not-authorized for a stanza (RFC 6120 §4.9.3.12), unsupported-stanza-type for
// what is none (§4.9.3.24).
func unexpected(raw []byte) *ending {
	condition := xmpp.UnsupportedStanzaType
	if kindOf(raw) != kindOther {
		condition = xmpp.NotAuthorized
	}
	return protocolError(&xmpp.StreamError{Condition: condition})
}

// openStream answers the client's stream header h with ours and the features.
func (s *session) openStream(ctx context.Context, h xmpp.StreamHeader, features []byte) error {
	if err := s.sendHeader(h); err != nil {
		return s.clientError(ctx, err)
	}
	return s.send(ctx, features)
}

// readHeader reads the client's stream header and checks that the stream is for
// a domain of ours. What of it goes back to the client is canonical.
func (s *session) readHeader(ctx context.Context) (xmpp.StreamHeader, error) {
	tok, err := s.read(ctx)
	if err != nil {
		return xmpp.StreamHeader{}, err
	}
	if tok.Kind == xmpp.KindClose {
		return xmpp.StreamHeader{}, s.clientEnd(ReasonClientClosed, nil)
	}
	h, err := xmpp.ParseStreamHeader(tok.Raw)
	if err != nil {
		return h, s.clientError(ctx, err)
	}
	domain, err := serves(s.terms.Domains, h.To)
	if err != nil {
		return h, s.clientError(ctx, err)
	}
	s.xml.domain = domain
	from, err := xmpp.ParseJID(h.From)
	if err != nil || from.Domain() != domain {
		from = xmpp.JID{}
	}
	if s.login == nil {
		s.login = new(login)
	}
	s.lang = h.Lang
	h.From, s.from = from.String(), xmpp.JID{}
	if from.Local() != "" {
		s.from = from.Bare()
	}
	return h, nil
}

// serves returns the canonical form of a domain, or a *xmpp.StreamError if it is
// not one of those served.
func serves(domains []string, name string) (string, error) {
	if name == "" {
		return "", &xmpp.StreamError{Condition: xmpp.ImproperAddressing, Text: "the stream header has no 'to'"}
	}
	jid, err := xmpp.NewJID("", name, "")
	if err != nil {
		return "", &xmpp.StreamError{Condition: xmpp.ImproperAddressing, Text: err.Error()}
	}
	if len(domains) == 0 {
		return jid.Domain(), nil
	}
	for _, d := range domains {
		if d == jid.Domain() {
			return d, nil
		}
	}
	return "", &xmpp.StreamError{Condition: xmpp.HostUnknown}
}

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"

	"imlb/backend/xmpp"
)

// source finds out where the client really comes from: a trusted proxy says so in
// a PROXY header.
func (s *session) source(ctx context.Context) error {
	if err := s.readBy(ctx, s.rec.Started.Add(s.terms.Timeouts.Handshake), ReasonHandshakeTimeout); err != nil {
		return err
	}
	if !trusted(s.terms.listener.TrustedProxies, s.facts.source) {
		return nil
	}
	conn := proxyproto.NewConn(s.wire,
		proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(0))
	h, err := readProxyHeader(conn)
	if err != nil {
		return s.proxyError(ctx, err)
	}
	s.wire = &wire{Conn: conn, half: s.wire}
	if h.Command.IsLocal() {
		return nil // the proxy itself: its own addresses are the true ones
	}
	s.rec.Via = s.rec.Source
	s.setEnds(h.SourceAddr, h.DestinationAddr)
	return nil
}

// readProxyHeader reads the header that must come first on conn.
func readProxyHeader(conn *proxyproto.Conn) (*proxyproto.Header, error) {
	if _, err := conn.Read(nil); err != nil {
		return nil, err
	}
	h := conn.ProxyHeader()
	if h == nil || (h.Command.IsProxy() && (h.SourceAddr == nil || h.DestinationAddr == nil)) {
		return nil, proxyproto.ErrNoProxyProtocol
	}
	return h, nil
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
	ip := tcp.AddrPort().Addr().Unmap()
	for _, n := range networks {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

// transport ends what has to be ended, until s.client is a secured leg that
// expects a stream header.
func (s *session) transport(ctx context.Context) error {
	var err error
	switch s.terms.listener.Protocol {
	case XMPP:
		err = s.startTLS(ctx)
	case XMPPS:
		err = s.directTLS(ctx)
	case HTTPS:
		err = s.webSocket(ctx)
	case QUIC:
		s.client = s.newLeg(s.wire) // QUIC is TLS
	}
	if err != nil {
		return err
	}
	s.rec.Handshake = time.Since(s.rec.Started)
	s.srv.metrics.setup.WithLabelValues("handshake").Observe(s.rec.Handshake.Seconds())
	return nil
}

// newLeg returns a leg for what comes before a login.
func (s *session) newLeg(conn halfCloser) *streamLeg {
	return newStreamLeg(conn, s.terms.Limits.MaxPreAuth, s.terms.Timeouts.Write)
}

// directTLS does TLS from the first byte (XEP-0368).
func (s *session) directTLS(ctx context.Context) error {
	s.setTransport("tls")
	conn, err := s.secure(ctx)
	if err != nil {
		return err
	}
	s.client = s.newLeg(conn)
	return nil
}

// secure does the TLS handshake on the wire.
func (s *session) secure(ctx context.Context) (*tls.Conn, error) {
	conn, err := tlsServer(ctx, s.wire, s.terms.tls)
	if err != nil {
		return nil, s.tlsError(ctx, err)
	}
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
	s.client = leg
	if err := s.openStream(ctx, []byte(startTLSFeatures)); err != nil {
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
	leg.Restart(s.terms.Limits.MaxPreAuth)
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
			if err := s.refuse(ctx, "", &xmpp.SASLError{Condition: xmpp.EncryptionRequired}); err != nil {
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

// openStream reads the client's stream header, and answers with ours and the
// features.
func (s *session) openStream(ctx context.Context, features []byte) error {
	h, err := s.readHeader(ctx)
	if err != nil {
		return err
	}
	if err := s.sendHeader(h); err != nil {
		return s.clientError(ctx, err)
	}
	return s.send(ctx, features)
}

// readHeader reads the client's stream header and checks that the stream is for
// a domain of ours. What of it goes back to the client is canonical.
func (s *session) readHeader(ctx context.Context) (xmpp.StreamHeader, error) {
	tok, err := s.read(ctx)
	for err == nil && tok.Kind == xmpp.KindSpace {
		tok, err = s.read(ctx)
	}
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
	s.domain = domain
	from, err := xmpp.ParseJID(h.From)
	if err != nil || from.Domain() != domain {
		from = xmpp.JID{}
	}
	h.From = from.String()
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
	for _, d := range domains {
		if d == jid.Domain() {
			return d, nil
		}
	}
	return "", &xmpp.StreamError{Condition: xmpp.HostUnknown}
}

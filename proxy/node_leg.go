package proxy

import (
	"context"
	"errors"
	"time"

	"imlb/backend/xmpp"
)

// nodeLeg is the leg to a node that speaks XMPP: a connection and a stream.
type nodeLeg struct {
	*streamLeg
	link     *nodeConn
	user     xmpp.JID
	features *features // that it began with
	used     bool      // a login was tried on it
	ended    bool      // the node has ended its stream itself
	broken   bool      // the leg broke, and the node may not know what the client has
}

// close closes the leg and tells the picker that the session is gone from the
// node.
func (n *nodeLeg) close() {
	_ = n.Close()
	n.link.choice.release()
}

// hear has who waits for the node hear of the end of ctx, by the read deadline. What it returns ends
// that.
func (n *nodeLeg) hear(ctx context.Context) (deaf func()) {
	heard := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(heard)
		_ = n.link.conn.SetReadDeadline(past)
	})
	return func() {
		if !stop() {
			<-heard
		}
	}
}

// partTime is how long a node may take to end its stream that is not needed any more.
const partTime = 200 * time.Millisecond

// part ends the stream in order.
func (n *nodeLeg) part() {
	_ = n.link.conn.SetDeadline(time.Now().Add(partTime))
	if post(n, streamEnd()) == nil && n.CloseWrite() == nil {
		drained(n)
	}
}

// openNode makes a connection to a node a leg for user, up to the node's
// features.
func (s *session) openNode(link *nodeConn, user xmpp.JID) (*nodeLeg, error) {
	leg := newStreamLeg(link.conn, s.terms.Limits.fromNode(), s.terms.Timeouts.Write)
	n := &nodeLeg{streamLeg: leg, link: link, user: user}
	key := s.featureKey()
	err := n.open(s.clientLang(), func(e xmpp.Element) *features { return s.srv.offers.read(key, e) })
	if err != nil {
		return nil, s.openError(err, user.Domain())
	}
	s.srv.offers.learn(key, n.features)
	return n, nil
}

// clientLang is the language of the client's stream, which the node marks stanzas with that have
// none (RFC 6120 §8.1.5). After a login by SASL2 it hears of no other header.
func (s *session) clientLang() string {
	if s.login == nil {
		return ""
	}
	return s.lang
}

// openError makes an ending of a node's word that it does not serve the domain, where
// only the nodes know which they do: no other node and no later login will help. Another
// error is one that declines if it says nothing of the node.
func (s *session) openError(err error, domain string) error {
	var said *openRefusal
	spoke := errors.As(err, &said)
	switch {
	case spoke && said.Condition == xmpp.HostUnknown && len(s.terms.Domains) == 0:
		return protocolError(said.StreamError)
	case spoke && !said.ofItself(), !s.shouldServe(domain, spoke):
		return &declined{err}
	}
	return err
}

// shouldServe tells whether it is a node's fault when it does not serve the domain. Not where
// a client may have chosen what the node does not have: XMPP, on a listener that offers
// other protocols too, or the domain. spoke tells that the node has shown that it speaks XMPP;
// where the pool has ever offered its features for the domain, that is known as well.
func (s *session) shouldServe(domain string, spoke bool) bool {
	ours := len(s.terms.Domains) > 0 && (spoke || s.terms.listener.onlyXMPP())
	return ours || s.srv.offers.serves(s.poolName(), domain)
}

// declined is the error of a node that did not serve a client, where that may be
// for the client's sake.
type declined struct{ error }

func (d *declined) Unwrap() error { return d.error }

// openRefusal is the stream error that a node has in the place of features.
type openRefusal struct{ *xmpp.StreamError }

func (r *openRefusal) Unwrap() error { return r.StreamError }

// ofItself tells whether the node speaks of itself, and not of the client or its address:
// who has failed too many logins may get policy-violation from a healthy node.
func (r *openRefusal) ofItself() bool {
	switch r.Condition {
	case xmpp.SystemShutdown, xmpp.InternalServerError, xmpp.ResourceConstraint, xmpp.RemoteConnectionFailed,
		xmpp.HostUnknown, xmpp.HostGone:
		return true
	}
	return false
}

// errClosed: the node ended its stream before it offered its features.
var errClosed = errors.New("the node closed the stream")

// open opens the stream and waits for the node's features. The client has been
// offered those that a node began with before.
func (n *nodeLeg) open(lang string, read func(xmpp.Element) *features) error {
	h := xmpp.StreamHeader{To: n.user.Domain(), Lang: lang}
	if n.user.Local() != "" {
		h.From = n.user.String()
	}
	if err := post(n, header(h)); err != nil {
		return err
	}
	for {
		tok, err := await(n)
		switch {
		case err != nil:
			return err
		case tok.Kind == xmpp.KindClose:
			return errClosed
		case tok.Kind != xmpp.KindElement:
			continue
		}
		if e, ok := xmpp.ParseStreamError(tok.Raw); ok {
			return &openRefusal{e}
		}
		e, err := xmpp.ParseElement(tok.Raw)
		if err != nil || e.Local() != "features" {
			return errors.New("the node did not offer stream features")
		}
		n.features = read(e)
		return nil
	}
}

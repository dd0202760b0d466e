package proxy

import (
	"errors"

	"imlb/backend/xmpp"
)

// nodeSlack is how much longer than a client's a node's stanza may be: nodes add
// addresses, delays and ids to what clients sent.
const nodeSlack = 16 << 10

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

// openNode makes a connection to a node a leg for user, up to the node's
// features.
func (s *session) openNode(link *nodeConn, user xmpp.JID) (*nodeLeg, error) {
	leg := newStreamLeg(link.conn, s.terms.Limits.MaxStanza+nodeSlack, s.terms.Timeouts.Write)
	n := &nodeLeg{streamLeg: leg, link: link, user: user}
	key := s.featureKey()
	err := n.open(s.clientLang(), func(e xmpp.Element) *features { return s.srv.offers.read(key, e) })
	if err != nil {
		return nil, s.openError(err)
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
// only the nodes know which they do: no other node and no later login will help.
func (s *session) openError(err error) error {
	var refused *xmpp.StreamError
	if len(s.terms.Domains) == 0 && errors.As(err, &refused) && refused.Condition == xmpp.HostUnknown {
		return protocolError(refused)
	}
	return err
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
			return e
		}
		e, err := xmpp.ParseElement(tok.Raw)
		if err != nil || e.Local() != "features" {
			return errors.New("the node did not offer stream features")
		}
		n.features = read(e)
		return nil
	}
}

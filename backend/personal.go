package backend

import (
	"context"
	"errors"
	"fmt"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Private XML (XEP-0049) and vCards (XEP-0054) are kept as they were sent: nothing of
// them means anything to the server.

// privateXML answers a request to the user's private storage.
func (s *session) privateXML(ctx context.Context, q request) error {
	if q.payload.Local() != "query" {
		return xmpp.NewStanzaError(xmpp.BadRequest, "")
	}
	if q.header.Type == iqGet {
		return s.getPrivateXML(ctx, q)
	}
	return s.setPrivateXML(ctx, q)
}

// getPrivateXML returns what is kept under the namespace of the one element asked for,
// or that element if there is nothing.
func (s *session) getPrivateXML(ctx context.Context, q request) error {
	asked, err := onlyChild(q.payload)
	if err != nil {
		return err
	}
	space, err := ownNamespace(asked)
	if err != nil {
		return err
	}
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	doc, err := s.node.store.PrivateXMLIn(query, s.account.Owner, space)
	switch {
	case errors.Is(err, store.ErrNotFound):
		doc.XML = append(appendAttr([]byte("<"+asked.Local()), "xmlns", space), "/>"...)
	case err != nil:
		return fmt.Errorf("read private XML of %s: %w", s.account.User, err)
	}
	result := append([]byte("<query xmlns='"+xmpp.NSPrivate+"'>"), doc.XML...)
	q.reply(append(result, "</query>"...))
	return nil
}

func onlyChild(e xmpp.Element) (only xmpp.Element, err error) {
	count := 0
	for child := range e.Children() {
		only = child
		count++
	}
	if count != 1 {
		return only, xmpp.NewStanzaError(xmpp.BadRequest, "ask for one namespace")
	}
	return only, nil
}

// spaceMost bounds a namespace, in bytes: it is part of a key, which databases bound.
const spaceMost = 1023

// ownNamespace is what an element is kept under. It may not be that of the query.
func ownNamespace(e xmpp.Element) (string, error) {
	switch space := e.Space(); {
	case space == "" || space == xmpp.NSPrivate:
		return "", xmpp.NewStanzaError(xmpp.NotAcceptable, "the element has no namespace of its own")
	case len(space) > spaceMost:
		return "", xmpp.NewStanzaError(xmpp.PolicyViolation, "the namespace is too long")
	default:
		return space, nil
	}
}

// setPrivateXML stores elements by their namespace, each instead of what was there.
func (s *session) setPrivateXML(ctx context.Context, q request) error {
	docs, err := readPrivateXML(q.payload, s.node.opts.Limits.Stanza)
	if err == nil && len(docs) == 0 {
		err = xmpp.NewStanzaError(xmpp.NotAcceptable, "there is nothing to keep")
	}
	if err != nil {
		return err
	}
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	limits := s.node.opts.Limits
	err = s.node.store.SetPrivateXML(query, s.account.Owner, docs, store.Quota{Items: limits.PrivateSpaces, Bytes: limits.PrivateBytes})
	switch {
	case errors.Is(err, store.ErrFull):
		return xmpp.NewStanzaError(xmpp.PolicyViolation, "more than you may keep")
	case err != nil:
		return fmt.Errorf("store private XML of %s: %w", s.account.User, err)
	}
	q.reply(nil)
	return nil
}

// readPrivateXML reads the elements of a query, those of one namespace together; the error is
// a *xmpp.StanzaError.
func readPrivateXML(query xmpp.Element, limits xmpp.Limits) ([]store.PrivateXML, error) {
	var docs []store.PrivateXML
	place := make(map[string]int)
	for child := range query.Children() {
		space, err := ownNamespace(child)
		if err != nil {
			return nil, err
		}
		if !standsAlone(child.Raw(), limits) {
			return nil, xmpp.NewStanzaError(xmpp.NotAcceptable, "the element does not declare its prefixes")
		}
		i, known := place[space]
		if !known {
			i = len(docs)
			place[space] = i
			docs = append(docs, store.PrivateXML{Space: space})
		}
		docs[i].XML = append(docs[i].XML, child.Raw()...)
	}
	return docs, nil
}

// standsAlone tells whether an element is whole without what was around it: it declares
// all prefixes that it uses.
func standsAlone(raw []byte, limits xmpp.Limits) bool {
	tok, rest, err := xmpp.NewFrameScanner(limits).Next(raw)
	return err == nil && tok.Kind == xmpp.KindElement && len(rest) == 0
}

// ownVCard answers a request for, or with, the user's vCard. One that was never set is
// empty (XEP-0054 §3.1).
func (s *session) ownVCard(ctx context.Context, q request) error {
	if q.payload.Local() != "vCard" {
		return xmpp.NewStanzaError(xmpp.BadRequest, "")
	}
	if q.header.Type == iqSet {
		return s.setVCard(ctx, q)
	}
	card, err := s.vCard(ctx, s.account.Owner)
	if errors.Is(err, store.ErrNotFound) {
		card, err = []byte("<vCard xmlns='"+xmpp.NSVCard+"'/>"), nil
	}
	if err == nil {
		q.reply(card)
	}
	return err
}

func (s *session) vCard(ctx context.Context, owner store.OwnerID) ([]byte, error) {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	card, err := s.node.store.VCard(query, owner)
	if err != nil {
		return nil, fmt.Errorf("read a vCard: %w", err)
	}
	return card, nil
}

func (s *session) setVCard(ctx context.Context, q request) error {
	card := q.payload.Raw()
	if len(card) > s.node.opts.Limits.VCardBytes {
		return xmpp.NewStanzaError(xmpp.PolicyViolation, "the vCard is too big")
	}
	if !standsAlone(card, s.node.opts.Limits.Stanza) {
		return xmpp.NewStanzaError(xmpp.NotAcceptable, "the vCard does not declare its prefixes")
	}
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	if err := s.node.store.SetVCard(query, s.account.Owner, card); err != nil {
		return fmt.Errorf("store the vCard of %s: %w", s.account.User, err)
	}
	q.reply(nil)
	return nil
}

// serveUser does what is asked of another user, for whom the server answers (RFC 6121
// §8.5.2.1.3). Only contacts learn whether there is such a user.
func (s *session) serveUser(ctx context.Context, q request) error {
	get := q.header.Type == iqGet
	switch space := q.payload.Space(); {
	case space == xmpp.NSPrivate, !get && (space == xmpp.NSVCard || space == xmpp.NSRoster):
		return xmpp.NewStanzaError(xmpp.Forbidden, "it is somebody else's")
	case space == xmpp.NSVCard && q.payload.Local() == "vCard":
		return s.otherVCard(ctx, q)
	case get && space == xmpp.NSLast:
		return s.lastSeen(ctx, q)
	case get && (space == xmpp.NSDiscoInfo || space == xmpp.NSDiscoItems):
		return s.discoOther(ctx, q)
	default:
		return xmpp.NewStanzaError(xmpp.ServiceUnavailable, "")
	}
}

// otherVCard returns the vCard of another user. That it has none looks as if there was no
// such user (XEP-0054 §3.3).
func (s *session) otherVCard(ctx context.Context, q request) error {
	condition, account, err := s.findUser(ctx, q.to)
	if err != nil {
		return err
	}
	if condition != "" {
		return xmpp.NewStanzaError(condition, "")
	}
	card, err := s.vCard(ctx, account.Owner)
	if errors.Is(err, store.ErrNotFound) {
		return xmpp.NewStanzaError(xmpp.ServiceUnavailable, "")
	}
	if err == nil {
		q.reply(card)
	}
	return err
}

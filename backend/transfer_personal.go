package backend

import (
	"context"
	"errors"
	"slices"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// What users keep, in documents of XEP-0227: as the elements of their own protocols.

func exportBlocklist(ctx context.Context, s store.Store, owner store.OwnerID, dst []byte) ([]byte, error) {
	list, err := s.Blocklist(ctx, owner)
	if err != nil || len(list.Addresses) == 0 {
		return dst, err
	}
	dst = append(dst, "<blocklist xmlns='"+xmpp.NSBlocking+"'>"...)
	for _, address := range list.Addresses {
		dst = append(appendAttr(append(dst, "<item"...), "jid", address), "/>"...)
	}
	return append(dst, "</blocklist>"...), nil
}

func restoreBlocklist(ctx context.Context, s store.Store, owner store.OwnerID, e xmpp.Element) error {
	var addresses []string
	for item := range e.Children() {
		text, _ := item.Attr("jid")
		jid, err := xmpp.ParseJID(text)
		if err != nil {
			return xmpp.NewStanzaError(xmpp.JIDMalformed, "a blocked address is malformed")
		}
		addresses = append(addresses, jid.String())
	}
	_, err := s.UpdateBlocklist(ctx, owner, func([]string) []string { return addresses })
	return err
}

func exportPrivate(ctx context.Context, s store.Store, owner store.OwnerID, dst []byte) ([]byte, error) {
	docs, err := s.PrivateXML(ctx, owner)
	if err != nil || len(docs) == 0 {
		return dst, err
	}
	dst = append(dst, "<query xmlns='"+xmpp.NSPrivate+"'>"...)
	for _, doc := range docs {
		dst = append(dst, doc.XML...)
	}
	return append(dst, "</query>"...), nil
}

// restorePrivate adds to what an earlier element of the document has brought.
func restorePrivate(ctx context.Context, s store.Store, owner store.OwnerID, e xmpp.Element) error {
	docs, err := readPrivateXML(e, documentLimits)
	if err != nil {
		return err
	}
	earlier, err := s.PrivateXML(ctx, owner)
	if err != nil {
		return err
	}
	for i, doc := range docs {
		if at := slices.IndexFunc(earlier, func(other store.PrivateXML) bool { return other.Space == doc.Space }); at >= 0 {
			docs[i].XML = slices.Concat(earlier[at].XML, doc.XML)
		}
	}
	return s.SetPrivateXML(ctx, owner, docs, store.Quota{})
}

func exportVCard(ctx context.Context, s store.Store, owner store.OwnerID, dst []byte) ([]byte, error) {
	vcard, err := s.VCard(ctx, owner)
	if errors.Is(err, store.ErrNotFound) {
		return dst, nil
	}
	return append(dst, vcard...), err
}

func restoreVCard(ctx context.Context, s store.Store, owner store.OwnerID, e xmpp.Element) error {
	if !standsAlone(e.Raw(), documentLimits) {
		return xmpp.NewStanzaError(xmpp.NotAcceptable, "the vCard does not declare its prefixes")
	}
	return s.SetVCard(ctx, owner, e.Raw())
}

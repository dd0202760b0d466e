package backend

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

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
	var addresses, malformed []string
	for item := range e.Children() {
		text, _ := item.Attr("jid")
		if jid, err := xmpp.ParseJID(text); err == nil {
			addresses = append(addresses, jid.String())
		} else {
			malformed = append(malformed, strconv.Quote(text))
		}
	}
	err := block(ctx, s, owner, addresses)
	if err == nil && len(malformed) > 0 {
		err = xmpp.NewStanzaError(xmpp.JIDMalformed, "of the blocklist all but "+strings.Join(malformed, ", ")+" is taken")
	}
	return err
}

// block adds to a user's blocklist.
func block(ctx context.Context, s store.Store, owner store.OwnerID, addresses []string) error {
	_, err := s.UpdateBlocklist(ctx, owner, func(before []string) []string {
		all := slices.Concat(before, addresses)
		slices.Sort(all)
		return slices.Compact(all)
	})
	return err
}

func exportNothing(_ context.Context, _ store.Store, _ store.OwnerID, dst []byte) ([]byte, error) {
	return dst, nil
}

// restorePrivacyLists blocks whom the default list keeps out altogether, which is how other servers keep their
// blocklists. Nodes have no other use for privacy lists.
func restorePrivacyLists(ctx context.Context, s store.Store, owner store.OwnerID, e xmpp.Element) error {
	chosen, _ := e.Child(nsPrivacy, "default")
	name, _ := chosen.Attr("name")
	var blocked []string
	rest := false
	for list := range e.Children() {
		if n, _ := list.Attr("name"); !list.Is(nsPrivacy, "list") || n != name {
			rest = rest || list.Is(nsPrivacy, "list")
			continue
		}
		for item := range list.Children() {
			if jid, ok := keptOut(item); ok {
				blocked = append(blocked, jid.String())
			} else {
				rest = true
			}
		}
	}
	err := block(ctx, s, owner, blocked)
	if err == nil && rest {
		err = xmpp.NewStanzaError(xmpp.FeatureNotImplemented, "of privacy lists only whom the default one keeps out is taken")
	}
	return err
}

// keptOut returns the address that an item of a privacy list keeps from saying, and from being told, anything (XEP-0016 §2.1).
func keptOut(item xmpp.Element) (jid xmpp.JID, ok bool) {
	kind, _ := item.Attr("type")
	action, _ := item.Attr("action")
	for range item.Children() {
		return jid, false // it is about some kinds of stanzas
	}
	value, _ := item.Attr("value")
	jid, err := xmpp.ParseJID(value)
	return jid, err == nil && kind == "jid" && action == "deny"
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

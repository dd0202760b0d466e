package backend

import (
	"context"
	"fmt"
	"slices"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Archive preferences (XEP-0441). The store holds each message against them when it
// is appended: one that is not to be archived is delivered like any other, also after
// the next login, and then removed.

// prefsMost bounds the addresses in a user's lists.
const prefsMost = 1000

var archiveRules = []string{ //nolint:gochecknoglobals // A constant table.
	store.ArchiveAlways: "always", store.ArchiveNever: "never", store.ArchiveRoster: "roster",
}

func (s *session) getArchivePrefs(ctx context.Context, q request) error {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	p, err := s.node.store.ArchivePrefs(query, s.account.Owner)
	if err != nil {
		return fmt.Errorf("read archive preferences: %w", err)
	}
	q.reply(appendArchivePrefs(nil, p))
	return nil
}

// setArchivePrefs stores preferences and answers with those that are stored.
func (s *session) setArchivePrefs(ctx context.Context, q request) error {
	p, err := readArchivePrefs(q.payload)
	if err != nil {
		return err
	}
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	if err := s.node.store.SetArchivePrefs(query, s.account.Owner, p); err != nil {
		return fmt.Errorf("store archive preferences: %w", err)
	}
	return s.getArchivePrefs(ctx, q)
}

// readArchivePrefs reads a <prefs/>; the error is a *xmpp.StanzaError. A list that is
// missing is empty (XEP-0441 §2.1.2, §2.1.3).
func readArchivePrefs(e xmpp.Element) (p store.ArchivePrefs, err error) {
	rule, _ := e.Attr("default")
	i := slices.Index(archiveRules, rule)
	if i < 0 {
		return p, xmpp.NewStanzaError(xmpp.BadRequest, "default")
	}
	p.Default = store.ArchiveRule(i) //nolint:gosec // There are three.
	for child := range e.Children() {
		switch {
		case child.Is(xmpp.NSMAM, "always"):
			p.Always, err = appendAddresses(p.Always, child)
		case child.Is(xmpp.NSMAM, "never"):
			p.Never, err = appendAddresses(p.Never, child)
		}
		if err != nil {
			return p, err
		}
	}
	if len(p.Always)+len(p.Never) > prefsMost {
		return p, xmpp.NewStanzaError(xmpp.PolicyViolation, "too many addresses")
	}
	return p, nil
}

// appendAddresses appends the addresses in a list, as they are compared.
func appendAddresses(all []string, list xmpp.Element) ([]string, error) {
	for child := range list.Children() {
		if !child.Is(xmpp.NSMAM, "jid") {
			continue
		}
		jid, err := xmpp.ParseJID(child.Text())
		if err != nil {
			return nil, xmpp.NewStanzaError(xmpp.JIDMalformed, list.Local())
		}
		all = append(all, jid.String())
	}
	return all, nil
}

func appendArchivePrefs(dst []byte, p store.ArchivePrefs) []byte {
	dst = append(dst, "<prefs xmlns='"+xmpp.NSMAM+"' default='"+archiveRules[p.Default]+"'>"...)
	dst = appendAddressList(dst, "always", p.Always)
	dst = appendAddressList(dst, "never", p.Never)
	return append(dst, "</prefs>"...)
}

func appendAddressList(dst []byte, name string, addresses []string) []byte {
	if len(addresses) == 0 {
		return append(dst, "<"+name+"/>"...)
	}
	dst = append(dst, "<"+name+">"...)
	for _, a := range addresses {
		dst = append(dst, "<jid>"...)
		dst = xmpp.AppendEscaped(dst, a)
		dst = append(dst, "</jid>"...)
	}
	return append(dst, "</"+name+">"...)
}

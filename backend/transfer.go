package backend

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Accounts are taken out of a cluster, and brought in, as documents of XEP-0227: the
// role and state, the keys, the contacts, the messages that wait, the archive and what userSections names.
// What is in an archive keeps its ids, so that clients find what they have. Sessions,
// and messages that were delivered but are not in the archive, stay behind.

// The namespaces of XEP-0227, and the one of what it has no word for.
const (
	nsPIE      = "urn:xmpp:pie:0"
	nsPIEScram = "urn:xmpp:pie:0#scram"
	nsPIEMAM   = "urn:xmpp:pie:0#mam"
	nsXInclude = "http://www.w3.org/2001/XInclude"
	nsTransfer = "urn:imlb:transfer:0"
	nsPrivacy  = "jabber:iq:privacy" // XEP-0016
)

// section is a part of a user's data that is an element of its own beside others: a
// child of <user/>. Whoever adds a table for users adds one to userSections.
type section struct {
	space, local string
	// export appends the element, or nothing when the user has no such data.
	export func(ctx context.Context, s store.Store, owner store.OwnerID, dst []byte) ([]byte, error)
	// restore stores what an element holds, for a new account. An element that makes
	// no sense is a *xmpp.StanzaError, and is left out.
	restore func(ctx context.Context, s store.Store, owner store.OwnerID, e xmpp.Element) error
}

// userSections are in the order in which they are exported.
func userSections() []section {
	return []section{
		{xmpp.NSMAM, "prefs", exportPrefs, restorePrefs},
		{xmpp.NSBlocking, "blocklist", exportBlocklist, restoreBlocklist},
		{nsPrivacy, "query", exportNothing, restorePrivacyLists},
		{xmpp.NSPrivate, "query", exportPrivate, restorePrivate},
		{xmpp.NSVCard, "vCard", exportVCard, restoreVCard},
	}
}

func exportPrefs(ctx context.Context, s store.Store, owner store.OwnerID, dst []byte) ([]byte, error) {
	p, err := s.ArchivePrefs(ctx, owner)
	if err != nil || p.Default == store.ArchiveAlways && len(p.Always)+len(p.Never) == 0 {
		return dst, err
	}
	return appendArchivePrefs(dst, p), nil
}

func restorePrefs(ctx context.Context, s store.Store, owner store.OwnerID, e xmpp.Element) error {
	p, err := readArchivePrefs(e)
	if err != nil {
		return err
	}
	return s.SetArchivePrefs(ctx, owner, p)
}

// appendStanding appends an account's role and state. They are not among userSections,
// since an account that is replaced leaves its own to one whose document has none.
func appendStanding(dst []byte, role store.Role, state store.AccountState) []byte {
	dst = appendAttr(append(dst, "<account xmlns='"+nsTransfer+"'"...), "role", role.String())
	if state.Suspended {
		dst = appendAttr(dst, "suspended", "true")
	}
	if state.Reason != "" {
		dst = appendAttr(dst, "reason", state.Reason)
	}
	if !state.Until.IsZero() {
		dst = appendAttr(dst, "until", state.Until.UTC().Format(stampTemplate))
	}
	return append(dst, "/>"...)
}

// readStanding reads an <account/>. What it does not say is as for a new account.
func readStanding(e xmpp.Element) (role store.Role, state store.AccountState, err error) {
	if word, ok := e.Attr("role"); ok {
		if role, err = store.ParseRole(word); err != nil {
			return role, state, err
		}
	}
	suspended, _ := e.Attr("suspended")
	if state.Suspended, err = strconv.ParseBool(cmp.Or(suspended, "false")); err != nil {
		return role, state, fmt.Errorf("suspended is %q, not true or false", suspended)
	}
	if until, ok := e.Attr("until"); ok {
		if state.Until, err = time.Parse(time.RFC3339, until); err != nil {
			return role, state, fmt.Errorf("until is %q, not a time", until)
		}
	}
	state.Reason, _ = e.Attr("reason")
	return role, state, nil
}

// appendCredential appends keys (XEP-0227 §4.3).
func appendCredential(dst []byte, c store.Credential) []byte {
	dst = appendAttr(append(dst, "<scram-credentials xmlns='"+nsPIEScram+"'"...), "mechanism", c.Mechanism)
	dst = append(dst, "><iter-count>"...)
	dst = strconv.AppendInt(dst, int64(c.Iterations), 10)
	dst = append(dst, "</iter-count><salt>"...)
	dst = base64.StdEncoding.AppendEncode(dst, c.Salt)
	dst = append(dst, "</salt><server-key>"...)
	dst = base64.StdEncoding.AppendEncode(dst, c.ServerKey)
	dst = append(dst, "</server-key><stored-key>"...)
	dst = base64.StdEncoding.AppendEncode(dst, c.StoredKey)
	return append(dst, "</stored-key></scram-credentials>"...)
}

// importedIterations bounds the work in imported keys: each PLAIN login costs a node as much. It is the
// most that a node's document may ask for.
const importedIterations = 10_000_000

// readCredential reads a <scram-credentials/>. Keys that no password fits are an error.
func readCredential(e xmpp.Element) (c store.Credential, err error) {
	mechanism, _ := e.Attr("mechanism")
	c.Mechanism = keysOf(mechanism)
	if !isScram(mechanism) {
		return c, errors.New("the mechanism is not known here")
	}
	keys := map[string]*[]byte{"salt": &c.Salt, "server-key": &c.ServerKey, "stored-key": &c.StoredKey}
	for name, key := range keys {
		child, _ := e.Child(nsPIEScram, name)
		if *key, err = readKey(name, child.Text()); err != nil {
			return c, err
		}
	}
	size := scramHash(mechanism)().Size()
	if len(c.StoredKey) == base64.StdEncoding.EncodedLen(size) { // ejabberd encodes what it keeps as base64 once more
		for name, key := range keys {
			if *key, err = readKey(name, string(*key)); err != nil {
				return c, err
			}
		}
	}
	for _, name := range []string{"server-key", "stored-key"} {
		if n := len(*keys[name]); n != size {
			return c, fmt.Errorf("%s has %d bytes and not %d", name, n, size)
		}
	}
	count, _ := e.Child(nsPIEScram, "iter-count")
	c.Iterations, err = strconv.Atoi(count.Text())
	if err != nil || c.Iterations < 1 || c.Iterations > importedIterations {
		return c, fmt.Errorf("iter-count is %q, not a number from 1 to %d", count.Text(), importedIterations)
	}
	return c, nil
}

func readKey(name, text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) == 0 {
		return nil, fmt.Errorf("%s is not base64", name)
	}
	return key, nil
}

// readContact reads an <item/> of a roster (RFC 6121 §2.1.2).
func readContact(e xmpp.Element) (it store.RosterItem, err error) {
	address, _ := e.Attr("jid")
	jid, err := xmpp.ParseJID(address)
	if err != nil {
		return it, err
	}
	it = store.RosterItem{Contact: jid.Bare().String(), InRoster: true}
	it.Name, _ = e.Attr("name")
	ask, _ := e.Attr("ask")
	approved, _ := e.Attr("approved")
	it.Ask = ask == presenceSubscribe
	it.Approved = approved == "true" || approved == "1"
	for _, s := range []store.Subscription{store.SubscriptionTo, store.SubscriptionFrom, store.SubscriptionBoth} {
		if text, _ := e.Attr("subscription"); text == subscriptionText(s) {
			it.Subscription = s
		}
	}
	for child := range e.Children() {
		if child.Is(xmpp.NSRoster, "group") {
			it.Groups = append(it.Groups, child.Text())
		}
	}
	return it, nil
}

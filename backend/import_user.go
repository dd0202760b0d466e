package backend

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// incomingUser is a user whose data is being read.
type incomingUser struct {
	*importer

	jid       xmpp.JID
	temporary string // name of the account until it is complete
	password  string // if the document has it
	owner     store.OwnerID

	standing bool // the document says which role and state it has
	creds    []store.Credential
	unusable bool // the document has keys that are left out
	contacts map[string]store.RosterItem
	version  uint64 // of the roster
	timeline incomingTimeline
}

// begin makes the account.
func (u *incomingUser) begin(ctx context.Context) error {
	_, err := u.store.Account(ctx, u.jid.String())
	switch {
	case err == nil && !u.opts.Replace:
		return store.ErrExists
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return err
	}
	if err := u.abandon(ctx); err != nil { // of an import that was interrupted
		return err
	}
	a, err := u.store.CreateAccount(ctx, u.temporary, nil)
	if err != nil {
		return err
	}
	u.owner = a.Owner
	u.contacts = make(map[string]store.RosterItem)
	u.timeline = incomingTimeline{store: u.store, owner: a.Owner, user: u.jid, heldMost: u.opts.HeldBytes}
	return nil
}

// abandon erases the account that is not complete. What the caller's context bounds is
// over by then.
func (u *incomingUser) abandon(ctx context.Context) error {
	const patience = 30 * time.Second
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := u.store.DeleteAccount(ctx, u.temporary); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}

// finish stores what has been gathered, and lets the account appear.
func (u *incomingUser) finish(ctx context.Context) error {
	if err := u.timeline.finish(ctx); err != nil {
		return err
	}
	items := slices.Collect(maps.Values(u.contacts))
	for i, it := range items {
		if it.Subscription&store.SubscriptionFrom != 0 {
			items[i].PendingIn = nil // Prosody keeps requests that were answered
		}
	}
	if err := u.store.RestoreRoster(ctx, u.owner, items, max(u.version, uint64(len(items)))); err != nil {
		return err
	}
	if err := u.deriveKeys(); err != nil {
		return err
	}
	if err := u.store.SetCredentials(ctx, u.temporary, u.creds); err != nil {
		return err
	}
	return u.store.RenameAccount(ctx, u.temporary, u.jid.String(), u.other())
}

// other says what becomes of the account that is there.
func (u *incomingUser) other() store.Other {
	switch {
	case !u.opts.Replace:
		return store.KeepOther
	case u.standing:
		return store.EraseOther
	default:
		return store.SucceedOther
	}
}

// part reads a child of <user/>.
func (u *incomingUser) part(ctx context.Context, d *document, start opening) error {
	switch start.Name {
	case xml.Name{Space: nsTransfer, Local: "timeline"}:
		return errors.Join(u.timeline.span(start), d.skip())
	case xml.Name{Space: nsPIE, Local: "offline-messages"}:
		return d.children(start, func(start opening) error { return u.waiting(d, start) })
	case xml.Name{Space: nsPIEMAM, Local: "archive"}:
		return d.children(start, func(start opening) error { return u.archived(ctx, d, start) })
	case xml.Name{Space: xmpp.NSRoster, Local: "query"}:
		return u.roster(d, start)
	}
	return u.wholePart(ctx, d, start)
}

// wholePart reads a child of <user/> that is small enough to be read at once.
func (u *incomingUser) wholePart(ctx context.Context, d *document, start opening) error {
	restore := u.known(ctx, start.Name)
	if restore == nil {
		return u.leaveOut(d, start, u.jid.String())
	}
	e, ok, err := u.whole(d, start)
	if err != nil || !ok {
		return err
	}
	return restore(e)
}

// whole reads an element; ok is false if it is none that a user may have, which has been told.
func (u *incomingUser) whole(d *document, start opening) (e xmpp.Element, ok bool, err error) {
	e, err = d.element(start)
	if errors.Is(err, errNotForStreams) {
		u.tell("%s: %v", u.jid, err)
		return e, false, nil
	}
	return e, err == nil, err
}

// known returns what stores a part of that name, or nil.
func (u *incomingUser) known(ctx context.Context, name xml.Name) func(xmpp.Element) error {
	switch name {
	case xml.Name{Space: nsTransfer, Local: "account"}:
		return func(e xmpp.Element) error { return u.account(ctx, e) }
	case xml.Name{Space: nsPIEScram, Local: "scram-credentials"}:
		return u.credential
	case xml.Name{Space: xmpp.NSClient, Local: "presence"}, xml.Name{Space: nsPIE, Local: "presence"}: // Prosody's has no namespace of its own
		return u.request
	}
	for _, s := range userSections() {
		if name != (xml.Name{Space: s.space, Local: s.local}) {
			continue
		}
		return func(e xmpp.Element) error {
			err := s.restore(ctx, u.store, u.owner, e)
			if _, ok := asStanzaError(err); ok {
				u.tell("%s: <%s/>: %v", u.jid, s.local, err)
				return nil
			}
			return err
		}
	}
	return nil
}

// account takes the role and the state. That they make no sense is an error: the account
// would be one that may do too much.
func (u *incomingUser) account(ctx context.Context, e xmpp.Element) error {
	role, state, err := readStanding(e)
	if err != nil {
		return fmt.Errorf("<account/>: %w", err)
	}
	u.standing = true
	if err := u.store.SetRole(ctx, u.temporary, role); err != nil {
		return err
	}
	return u.store.SetState(ctx, u.temporary, state)
}

func (u *incomingUser) credential(e xmpp.Element) error {
	c, err := readCredential(e)
	if slices.ContainsFunc(u.creds, func(other store.Credential) bool { return other.Mechanism == c.Mechanism }) {
		err = errors.New("there are others before")
	}
	if err == nil {
		u.creds = append(u.creds, c)
	} else {
		u.unusable = true
		u.tell("%s: keys for %q: %v", u.jid, c.Mechanism, err)
	}
	return nil
}

// deriveKeys makes keys of the password if the document has no others, and says so if nobody can
// log in.
func (u *incomingUser) deriveKeys() (err error) {
	switch {
	case len(u.creds) > 0:
	case u.password != "":
		u.creds, err = DeriveCredentials(u.password, u.opts.ScramIterations)
	case u.unusable:
		u.tell("%s: none of the keys can be used; imlb user passwd gives a password", u.jid)
	}
	return err
}

// roster reads the contacts, one by one: all of them may be long.
func (u *incomingUser) roster(d *document, start opening) error {
	u.version, _ = strconv.ParseUint(attribute(start, "ver"), 10, 63) // another server's may be anything
	return d.children(start, func(start opening) error {
		if start.Name != (xml.Name{Space: xmpp.NSRoster, Local: "item"}) {
			return u.leaveOut(d, start, "the roster of "+u.jid.String())
		}
		e, ok, err := u.whole(d, start)
		if err == nil && ok {
			u.contact(e)
		}
		return err
	})
}

func (u *incomingUser) contact(e xmpp.Element) {
	it, err := readContact(e)
	if err == nil && it.Contact == u.jid.String() { // whom it could not remove either
		err = errors.New("it is the user")
	}
	if err != nil {
		u.tell("%s: a contact: %v", u.jid, err)
		return
	}
	it.PendingIn = u.contacts[it.Contact].PendingIn
	u.contacts[it.Contact] = it
}

// request reads a subscription request that waits for an answer.
func (u *incomingUser) request(e xmpp.Element) error {
	from, _ := e.Attr("from")
	kind, _ := e.Attr("type")
	if jid, err := xmpp.ParseJID(from); err == nil && kind == presenceSubscribe && len(e.Raw()) <= entryMost {
		contact := jid.Bare().String()
		it := u.contacts[contact]
		it.Contact, it.PendingIn = contact, inStream(e.Raw())
		u.contacts[contact] = it
	} else {
		u.tell("%s: a presence of type %q from %q", u.jid, kind, from)
	}
	return nil
}

// inStream returns a copy of a stanza as it is in a stream, which has its namespace.
func inStream(raw []byte) []byte {
	return xmpp.AppendWithAttrs(nil, raw, xmpp.Attr{Name: "xmlns"})
}

// waiting reads a message that is to be delivered (XEP-0227 §4.5).
func (u *incomingUser) waiting(d *document, start opening) error {
	e, ok, err := u.message(d, start)
	if err != nil || !ok {
		return err
	}
	return u.timeline.wait(e)
}

// message reads a <message/>; ok is false if it is none, which has been told.
func (u *incomingUser) message(d *document, start opening) (e xmpp.Element, ok bool, err error) {
	if start.Name != (xml.Name{Space: xmpp.NSClient, Local: "message"}) {
		return e, false, u.leaveOut(d, start, u.jid.String())
	}
	e, ok, err = u.whole(d, start)
	if ok && len(e.Raw()) > entryMost {
		u.tell("%s: a message of %d bytes is longer than nodes deliver", u.jid, len(e.Raw()))
		ok = false
	}
	return e, ok, err
}

// archived reads a <result/> (XEP-0227 §4.11).
func (u *incomingUser) archived(ctx context.Context, d *document, start opening) error {
	if start.Name != (xml.Name{Space: xmpp.NSMAM, Local: "result"}) {
		return u.leaveOut(d, start, u.jid.String())
	}
	var at time.Time
	var stanza xmpp.Element
	found := false
	forwarded := func(start opening) (err error) {
		if start.Name == (xml.Name{Space: xmpp.NSDelay, Local: "delay"}) {
			at, _ = time.Parse(time.RFC3339, attribute(start, "stamp"))
			return d.skip()
		}
		stanza, found, err = u.message(d, start)
		return err
	}
	err := d.children(start, func(start opening) error {
		if start.Name != (xml.Name{Space: xmpp.NSForward, Local: "forwarded"}) {
			return u.leaveOut(d, start, u.jid.String())
		}
		return d.children(start, forwarded)
	})
	if err != nil || !found {
		return err
	}
	err = u.timeline.add(ctx, attribute(start, "id"), at, stanza)
	if errors.Is(err, errAddress) {
		u.tell("%s: message %s of the archive: %v", u.jid, attribute(start, "id"), err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("message %s of the archive: %w", attribute(start, "id"), err)
	}
	return nil
}

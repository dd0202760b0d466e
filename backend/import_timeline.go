package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// importBatch is how many entries are stored in one transaction.
const importBatch = 500

// heldBytes is how much of the messages to be delivered is held in memory until the archive
// has been read, if the options do not say otherwise.
const heldBytes = 256 << 20

// incomingTimeline makes a timeline of an archive and of the messages to be delivered.
// In other servers' documents these overlap, or do not, and ids may be anything: then
// entries get new numbers. In ours ids are numbers, and stay.
type incomingTimeline struct {
	store store.Store
	owner store.OwnerID
	user  xmpp.JID

	ours                   bool // ids are numbers
	first, head, delivered uint64

	waiting  []waitingMessage
	heldMost int            // bytes that waiting may hold
	held     int            // bytes that it holds
	spool    *os.File       // for more than that; nil until there is
	spooled  int64          // bytes in it
	byName   map[string]int // places in waiting by what is also found in the archive
	undone   uint64         // number of the first entry that is to be delivered; 0: none so far
	last     store.Entry
	unstored []store.Entry
}

// waitingMessage is one that is to be delivered.
type waitingMessage struct {
	seq      uint64 // if it has one
	at       time.Time
	e        xmpp.Element // if it is held in memory
	from     int64        // where it is in the spool …
	size     int          // … if it is there
	archived bool         // it was also found in the archive
}

// hold keeps a message until it is its turn. Users can have others send them more than there is
// memory.
func (t *incomingTimeline) hold(m waitingMessage, e xmpp.Element) (err error) {
	if size := len(e.Raw()); t.held+size <= t.heldMost {
		t.held += size
		m.e = e
		t.waiting = append(t.waiting, m)
		return nil
	}
	if t.spool == nil {
		if t.spool, err = os.CreateTemp("", "imlb-import-*"); err != nil {
			return fmt.Errorf("make a file for messages that are to be delivered: %w", err)
		}
		_ = os.Remove(t.spool.Name()) // at once, where that can be done
	}
	m.from = t.spooled
	m.size, err = t.spool.WriteAt(e.Raw(), m.from)
	t.spooled += int64(m.size)
	t.waiting = append(t.waiting, m)
	return err
}

// heldMessage returns what hold has kept.
func (t *incomingTimeline) heldMessage(m waitingMessage) (xmpp.Element, error) {
	if m.size == 0 {
		return m.e, nil
	}
	raw := make([]byte, m.size)
	if _, err := t.spool.ReadAt(raw, m.from); err != nil {
		return xmpp.Element{}, err
	}
	return xmpp.ParseElement(raw)
}

// close removes the spool. That it cannot be removed does no harm to what was imported.
func (t *incomingTimeline) close() {
	if t.spool != nil {
		_ = t.spool.Close()
		_ = os.Remove(t.spool.Name())
	}
}

// span reads how far the timeline had come.
func (t *incomingTimeline) span(start opening) error {
	var errs []error
	for name, to := range map[string]*uint64{"first": &t.first, "head": &t.head, "delivered": &t.delivered} {
		n, err := strconv.ParseUint(attribute(start, name), 10, 63)
		*to = n
		errs = append(errs, err)
	}
	if t.last.Seq > 0 || len(t.waiting) > 0 {
		errs = append(errs, errors.New("it comes after messages"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("<timeline/>: %w", err)
	}
	t.ours = true
	return nil
}

// wait takes a message that is to be delivered. One of ours that is in the archive is
// known to be delivered later by its number.
func (t *incomingTimeline) wait(e xmpp.Element) error {
	if _, hidden := e.Child(nsTransfer, "hidden"); t.ours && !hidden {
		return nil
	}
	var m waitingMessage
	names := []string{messageName(e)}
	for child := range e.Children() {
		switch {
		case t.isOurID(child):
			id, _ := child.Attr("id")
			m.seq, _ = strconv.ParseUint(id, 10, 63)
			names = append(names, idName(id))
		case child.Is(xmpp.NSDelay, "delay"):
			stamp, _ := child.Attr("stamp")
			m.at, _ = time.Parse(time.RFC3339, stamp)
		}
	}
	if t.byName == nil {
		t.byName = make(map[string]int)
	}
	for _, name := range names {
		if name != "" {
			t.byName[name] = len(t.waiting)
		}
	}
	return t.hold(m, e)
}

// idName and messageName are what a message to be delivered may have in common with its
// copy in the archive: the id there, or sender and id.
func idName(id string) string { return "id " + id }

func messageName(e xmpp.Element) string {
	id, ok := e.Attr("id")
	from, _ := e.Attr("from")
	if !ok || from == "" {
		return ""
	}
	return "message " + from + " " + id
}

// isOurID tells whether a child of a message is its id in the user's archive.
func (t *incomingTimeline) isOurID(child xmpp.Element) bool {
	by, _ := child.Attr("by")
	return child.Is(xmpp.NSStanzaID, "stanza-id") && by == t.user.String()
}

// add takes a message of the archive.
func (t *incomingTimeline) add(ctx context.Context, id string, at time.Time, e xmpp.Element) error {
	if !t.ours {
		seq := t.last.Seq + 1
		for _, name := range []string{idName(id), messageName(e)} {
			if i, ok := t.byName[name]; ok && !t.waiting[i].archived {
				t.waiting[i] = waitingMessage{archived: true}
				t.isUndone(seq)
			}
		}
		return t.push(ctx, seq, at, e, false)
	}
	seq, err := strconv.ParseUint(id, 10, 63)
	if err != nil {
		return err
	}
	if err := t.addWaiting(ctx, seq); err != nil {
		return err
	}
	return t.push(ctx, seq, at, e, false)
}

// addWaiting adds those messages before a number that are not in the archive.
func (t *incomingTimeline) addWaiting(ctx context.Context, before uint64) error {
	for len(t.waiting) > 0 && t.waiting[0].seq < before {
		m := t.waiting[0]
		t.waiting = t.waiting[1:]
		e, err := t.heldMessage(m)
		if err == nil {
			err = t.push(ctx, m.seq, m.at, e, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *incomingTimeline) isUndone(seq uint64) {
	if t.undone == 0 {
		t.undone = seq
	}
}

// push adds an entry.
func (t *incomingTimeline) push(ctx context.Context, seq uint64, at time.Time, e xmpp.Element, hidden bool) error {
	if seq <= t.last.Seq {
		return fmt.Errorf("number %d follows %d", seq, t.last.Seq)
	}
	entry, err := t.entry(e)
	if err != nil {
		return err
	}
	entry.Seq, entry.Hidden = seq, hidden
	if entry.Time = at.UTC(); entry.Time.Before(t.last.Time) {
		entry.Time = t.last.Time
	}
	t.last = entry
	t.unstored = append(t.unstored, entry)
	if len(t.unstored) < importBatch {
		return nil
	}
	return t.flush(ctx)
}

func (t *incomingTimeline) flush(ctx context.Context) error {
	err := t.store.RestoreEntries(ctx, t.owner, t.unstored)
	t.unstored = nil
	return err
}

// entry says whose message it is, and takes out what the export has put in.
func (t *incomingTimeline) entry(e xmpp.Element) (store.Entry, error) {
	from, fromErr := addressOf(e, "from", t.user.Domainpart())
	to, toErr := addressOf(e, "to", t.user)
	if err := errors.Join(fromErr, toErr); err != nil {
		return store.Entry{}, fmt.Errorf("%w: %w", errAddress, err)
	}
	entry := store.Entry{Peer: from.Bare().String()}
	if from.Bare() == t.user && to.Bare() != t.user {
		entry.Peer, entry.Sent, entry.Resource = to.Bare().String(), true, from.Resource()
	}
	entry.Stanza = inStream(xmpp.AppendWithout(nil, e.Raw(), func(child xmpp.Element) bool {
		by, _ := child.Attr("from")
		return t.isOurID(child) || child.Space() == xmpp.NSFront || child.Is(nsTransfer, "hidden") || child.Is(xmpp.NSDelay, "delay") && by == t.user.Domain()
	}))
	return entry, nil
}

// errAddress: nobody can be found by an address of a message.
var errAddress = errors.New("a message has a malformed address")

func addressOf(e xmpp.Element, name string, otherwise xmpp.JID) (xmpp.JID, error) {
	text, ok := e.Attr(name)
	if !ok {
		return otherwise, nil
	}
	return xmpp.ParseJID(text)
}

// finish stores what is left, and the numbers.
func (t *incomingTimeline) finish(ctx context.Context) error {
	if t.ours {
		err := t.addWaiting(ctx, 1<<63)
		return errors.Join(err, t.flush(ctx), t.store.RestoreSpan(ctx, t.owner, t.first, t.head, t.delivered))
	}
	for _, m := range t.waiting {
		if m.archived {
			continue
		}
		e, err := t.heldMessage(m)
		if err != nil {
			return err
		}
		if m.at.IsZero() && t.last.Time.IsZero() {
			m.at = time.Now() // else it is as old as the one before it
		}
		t.isUndone(t.last.Seq + 1)
		hidden := hasHint(e.Raw(), "no-permanent-store")
		if err := t.push(ctx, t.last.Seq+1, m.at, e, hidden); err != nil && !errors.Is(err, errAddress) {
			return err
		}
	}
	delivered := t.last.Seq
	if t.undone > 0 {
		delivered = t.undone - 1
	}
	return errors.Join(t.flush(ctx), t.store.RestoreSpan(ctx, t.owner, 1, t.last.Seq, delivered))
}

package backend

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// bind2 gives the session a resource and all that is asked for along with it (XEP-0386
// 1.1), and returns the answer.
func (s *session) bind2(ctx context.Context, b xmpp.Bind2) (bound []byte, err error) {
	err = s.establish(ctx, s.address(b.Tag))
	if refusal, ok := asStanzaError(err); ok { // Bind 2 has no answer that says so
		return nil, &stopError{ReasonFull, &xmpp.StreamError{Condition: refusal.Condition, Text: refusal.Text}, nil}
	}
	if err != nil {
		return nil, err
	}
	s.endTwins()
	s.clearOffline(ctx)
	bound = append(bound, "<bound xmlns='"+xmpp.NSBind2+"'>"...)
	bound = s.appendMetadata(ctx, bound)
	if b.Carbons {
		s.wantCopies(true)
	}
	if b.Inactive {
		_ = s.csi("inactive") // it knows the word
	}
	if b.Enable != nil { // last, since it saves what the session is
		bound = append(bound, s.enableInline(ctx, *b.Enable)...)
	}
	return append(bound, "</bound>"...), nil
}

// address returns the full address of a client: its tag, if that can be part of one,
// and what the server makes (XEP-0386 §3.2.1).
func (s *session) address(tag string) xmpp.JID {
	id := stableResource(s.account.User, s.device)
	if tag != "" {
		if jid, err := s.jid.WithResource(tag + "/" + id); err == nil {
			return jid
		}
	}
	jid, _ := s.jid.WithResource(id) // it is always one
	return jid
}

// stableResource is the same for a client at each login, so that one that comes back takes
// its own place. It gives the client's id away to nobody, since that is random enough
// not to be guessed, and needs no secret that all nodes would have to share.
func stableResource(user, device string) string {
	if device == "" {
		return randomResource()
	}
	sum := sha256.Sum256([]byte("resource\x00" + user + "\x00" + device))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// endTwins ends what else there is of the same client here, under another tag (XEP-0386
// §3.2). What had the same resource was replaced.
func (s *session) endTwins() {
	if s.device == "" {
		return
	}
	for _, twin := range s.hub.twins(s) {
		s.node.endSession(twin.id)
	}
}

func (h *hub) twins(s *session) []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*session
	for _, other := range h.sessions {
		if other != s && other.device == s.device {
			all = append(all, other)
		}
	}
	return all
}

// boundPlace is where the timeline was when the client was bound by Bind 2. What was
// there before is what it reads from its archive, and is not sent to it (XEP-0386 §3.2),
// unless it is not in there.
type boundPlace struct {
	seq   uint64
	from  uint64    // all entries up to this one are in the archive, or received
	alone bool      // no other session could receive what was there
	at    time.Time // zero in a session that was resumed
}

// isRead tells whether the client has an entry from its archive, or sent it itself.
func (b boundPlace) isRead(e store.Entry) bool {
	return e.Seq <= b.seq && (e.Sent || !e.Hidden)
}

// leaves tells whether the client says nothing about an entry, which may be on its way to
// another session.
func (b boundPlace) leaves(seq uint64) bool { return seq <= b.seq && !b.alone }

// clearOffline takes what waits for the user as received, unless it is on its way to
// another session, or cannot be read from the archive.
func (s *session) clearOffline(ctx context.Context) {
	delivered := s.hub.atLeast(0)
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	hidden, err := s.node.store.Find(query, s.account.Owner, store.Range{
		After: delivered, Before: s.cur.pos + 1, Hidden: true, Limit: 1,
	})
	if err != nil {
		s.endBy(storeFailed(err)) // the session is known by now: run ends it
		return
	}
	s.cur.bound = boundPlace{seq: s.cur.pos, from: s.cur.pos, at: time.Now()}
	if len(hidden) > 0 {
		s.cur.bound.from = hidden[0].Seq - 1
	}
	s.hub.mu.Lock()
	s.cur.bound.alone = len(s.hub.sessions) == 1
	s.hub.mu.Unlock()
	if s.cur.bound.alone {
		s.hub.raise(s.cur.bound.from)
	}
}

// beginning returns where a client that becomes available begins to read, and since when
// it counts as being there: after what the user has received, or for the first time
// after Bind 2 where it was bound.
func (s *session) beginning(delivered uint64, available time.Time) (uint64, time.Time) {
	bound := s.cur.bound
	if s.cur.begun || bound.at.IsZero() {
		return max(delivered, bound.from), available
	}
	s.cur.begun = true
	return bound.from, bound.at
}

// appendMetadata says where the archive began and ended when the session was bound. It
// is a help that the client can do without.
func (s *session) appendMetadata(ctx context.Context, dst []byte) []byte {
	a, err := s.openArchive(ctx)
	if err == nil {
		a.head = min(a.head, s.cur.pos)
		var metadata []byte
		if metadata, err = a.metadata(ctx); err == nil {
			return append(dst, metadata...)
		}
	}
	s.node.opts.Logger.WarnContext(ctx, "describe an archive", slog.String("user", s.account.User), slog.Any("error", err))
	return dst
}

// enableInline begins XEP-0198 with a bound resource (§9.1), and returns the answer. The
// writer does not run yet.
func (s *session) enableInline(ctx context.Context, e xmpp.Element) []byte {
	s.in.enable() // nothing has begun before
	start := s.enabling(e)
	defer func() { s.saved, s.touched = start.state, false }()
	return s.startSM(ctx, start)
}

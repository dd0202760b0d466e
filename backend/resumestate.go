package backend

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// What a session is beside its record, as it is stored for whoever goes on with it.
type sessionState struct {
	Presence   string   `json:"presence,omitempty"`
	Priority   int      `json:"priority,omitempty"`
	Interested bool     `json:"interested,omitempty"` // in the roster
	Carbons    bool     `json:"carbons,omitempty"`
	Uncopied   uint64   `json:"uncopied,omitempty"` // entries up to this one were left to others, and there may be no copies of them
	Blocks     bool     `json:"blocks,omitempty"`   // has asked for the blocklist
	ShownBy    uint64   `json:"shown_by,omitempty"` // the blocklist's version, as far as it was known
	Bound      uint64   `json:"bound,omitempty"`    // of boundPlace
	BoundFrom  uint64   `json:"bound_from,omitempty"`
	BoundAlone bool     `json:"bound_alone,omitempty"`
	Directed   []string `json:"directed,omitempty"`
	Lang       string   `json:"lang,omitempty"`
	Mechanism  string   `json:"mechanism,omitempty"`
	Origin     *uint64  `json:"origin,omitempty"` // entries up to this one were there before the session was bound; nil: an earlier version does not say

	// Conn is the client's connection to its front, by the ID that the front gave it. A note of another
	// connection is about the time before.
	Conn string `json:"conn,omitempty"`

	// Since is what the client had counted when the session was resumed the last time.
	Since uint32 `json:"since,omitempty"`

	// The entries that the cursor does not meet, which were to be written first when the session
	// was resumed. The counts are the highest that they can have.
	Again []savedFlight `json:"again,omitempty"`

	// The entries that were written out of turn, to which the cursor may come once more. They are stored with the
	// point; an earlier version has them here.
	Early []savedFlight `json:"early,omitempty"`

	// Requests of the client whose answers may not have arrived. Of a session that was given up in order they are those that
	// were not answered yet: the others are among what it has left.
	Answers []savedAnswer `json:"answers,omitempty"`

	// Of a session that was given up in order, or whose client had gone before its node. Without it what has arrived is
	// reckoned from the stored point, and from what the front has noted.
	Left  *leftover `json:"left,omitempty"`
	Queue []string  `json:"queue,omitempty"` // stanzas that were not written yet
	// QueueAfter is of each the entry that it comes after.
	QueueAfter []uint64 `json:"queue_after,omitempty"`
}

// leftover is what was written to a client and may not have arrived.
type leftover struct {
	Sent    uint32        `json:"sent"`
	Cursor  uint64        `json:"cursor"`
	Past    uint64        `json:"past,omitempty"` // of the cursor
	Flights []savedFlight `json:"flights,omitempty"`
	Kept    []savedStanza `json:"kept,omitempty"`
	Lost    uint32        `json:"lost,omitempty"`
	HasLost bool          `json:"has_lost,omitempty"`
	Unheard bool          `json:"unheard,omitempty"` // nobody has asked for the session
	Passing bool          `json:"passing,omitempty"` // the client takes what is for the user, and its node could not begin to deliver that

	Told store.Versions `json:"told,omitzero"` // up to which changes the client is told of with all that is left
}

type savedFlight struct {
	Count uint32 `json:"n"`
	Seq   uint64 `json:"s,omitempty"`
	UpTo  uint64 `json:"u,omitempty"`
	Pos   uint64 `json:"p,omitempty"`
}

type savedStanza struct {
	Count uint32 `json:"n"`
	Raw   string `json:"x"`
	Seq   uint64 `json:"s,omitempty"` // of the entry that it is a copy of

	Answered bool `json:"a,omitempty"` // a request that the client has answered
}

func savedFlights(flights []flight) []savedFlight {
	saved := make([]savedFlight, len(flights))
	for i, f := range flights {
		saved[i] = savedFlight{f.count, f.seq, f.upTo, f.pos}
	}
	return saved
}

func savedKept(stanzas []kept) []savedStanza {
	saved := make([]savedStanza, len(stanzas))
	for i, k := range stanzas {
		saved[i] = savedStanza{Count: k.count, Raw: string(k.raw), Seq: k.seq, Answered: k.answered}
	}
	return saved
}

func (st sessionState) encode() ([]byte, error) {
	data, err := encodeJSON(st)
	if err != nil {
		return nil, fmt.Errorf("encode the state of a session: %w", err)
	}
	return data, nil
}

func decodeState(data []byte) (st sessionState, err error) {
	if err := json.Unmarshal(data, &st); err != nil {
		return st, fmt.Errorf("decode the state of a session: %w", err)
	}
	return st, nil
}

// addEarly adds what is stored with the point, in JSON.
func (st *sessionState) addEarly(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	var early []savedFlight
	if err := json.Unmarshal(data, &early); err != nil {
		return fmt.Errorf("decode what a client has received out of turn: %w", err)
	}
	for _, f := range early {
		if !slices.Contains(st.Early, f) {
			st.Early = append(st.Early, f)
		}
	}
	return nil
}

// encodeEarly is what addEarly takes; nil for nothing.
func encodeEarly(early []savedFlight) []byte {
	if len(early) == 0 {
		return nil
	}
	data, _ := json.Marshal(early) // numbers always can be
	return data
}

// unheard tells whether nobody has heard for a while what was said to the session, which nobody has had since parked.
func (st sessionState) unheard(parked time.Time) bool {
	return st.Left == nil || st.Left.Unheard || time.Since(parked) > yieldTime
}

// frontNote is what a front has seen of a session whose node it has lost (see the
// front's settle).
type frontNote struct {
	count uint32     // stanzas written to the client
	tail  []notation // of the last of them
	conn  string     // the client's connection to the front; "" if that is not known
}

// notation is what a front has read at the end of a stanza.
type notation struct {
	seq    uint64 // of an entry, 0 for none
	claims bool   // the client has all up to there that is for the user, if it has the stanza; else its session was there
	had    bool   // the client has all up to there that is for the user, but for what was left to others
	copied bool   // the stanza is a copy of the entry
	apart  bool   // the stanza is the entry, and says nothing of where the session was
}

// noteTail bounds the tail: fronts know that much of what a client has not acknowledged.
const noteTail = 4096

// parseNote reads "count NUL notation,notation,…", with a notation the number of an entry, or a place, which is one
// after '@', or '+' if the client has had all up to there, or '~' and '=' if the stanza is a copy, or after '!', if the entry was written
// out of turn, and what settle adds, which is "NUL connection".
func parseNote(data []byte) (n frontNote, err error) {
	count, tail, ok := bytes.Cut(data, []byte{0})
	if !ok {
		return n, fmt.Errorf("note of a front: no tail")
	}
	number, err := strconv.ParseUint(string(count), 10, 32)
	if err != nil {
		return n, fmt.Errorf("note of a front: %w", err)
	}
	n.count = uint32(number)
	tail, conn, _ := bytes.Cut(tail, []byte{0})
	n.conn = string(conn)
	for text := range bytes.SplitSeq(tail, []byte(",")) {
		if len(text) == 0 {
			continue
		}
		kind := text[0]
		marked := strings.IndexByte("@+~=!", kind) >= 0
		if marked {
			text = text[1:]
		}
		seq, err := strconv.ParseUint(string(text), 10, 64)
		if err != nil || len(n.tail) == noteTail {
			return n, fmt.Errorf("note of a front: its tail is %q", tail)
		}
		n.tail = append(n.tail, notation{
			seq: seq, claims: seq != 0 && !marked, had: kind == '+' || kind == '=', copied: kind == '~' || kind == '=', apart: kind == '!',
		})
	}
	return n, nil
}

// arrival is what a client that resumes has received, by its count.
type arrival struct {
	pos     uint64        // the client has all up to this entry that is for it
	claim   uint64        // the client has all up to this one that is for the user, or it was left to others
	claimed uint64        // the user has all up to this one; 0: nobody says so
	flights []flight      // that have arrived
	again   []uint64      // entries that have not, and that the cursor does not meet
	lost    []uint64      // entries that have not, and were written
	early   []savedFlight // entries that have, and that the cursor may meet
	past    uint64        // the client has what copies there are of entries up to this one, as far as a front knows
	stanzas []item        // that have not

	told store.Versions // up to which changes it has been told of when it has those
}

// has tells whether the client is known to have an entry.
func (a arrival) has(seq uint64) bool {
	return slices.ContainsFunc(a.flights, func(f flight) bool { return f.seq == seq })
}

// errCount is why a session cannot be resumed: the client and the session do not
// agree on what was sent, or too much of that was not kept. What the session has handled
// is known all the same.
type errCount struct {
	handled uint32
	cause   error
}

func (e errCount) Error() string { return e.cause.Error() }

func (e errCount) Unwrap() error { return e.cause }

var (
	errTooLittle  = errors.New("h is less than what was acknowledged")
	errTooMuch    = errors.New("h is more than what was sent")
	errMiscounted = errors.New("h is less than what was acknowledged, or more than what was sent")
	errLost       = errors.New("too much was not acknowledged")
)

// reckon says what has arrived when the client has counted h stanzas, by the stored point and what a
// front has noted. The less is known, the more is written again.
func (st sessionState) reckon(h uint32, point store.ResumePoint, note *frontNote) (a arrival, err error) {
	switch {
	case after(point.Count, h):
		return a, errTooLittle
	case st.Left != nil:
		a, err = st.Left.reckon(h, point, st.Carbons && st.Presence != "")
		a.told = later(st.Left.Told, point.Told)
	case note != nil && note.isOf(st.Conn) && !after(point.Count, note.count) && !after(h, note.count) && !note.older(st.Since, point.Count):
		a = note.reckon(h, point)
		a.told = point.Told
	default:
		a.pos, a.claim, a.told = point.Pos, point.Claimed, point.Told
	}
	for _, f := range st.Early {
		if !after(f.Count, h) {
			a.early = append(a.early, savedFlight{Count: h, Seq: f.Seq})
			a.flights = append(a.flights, flight{seq: f.Seq})
		}
	}
	for _, f := range unarrived(st.Again, h) {
		if slices.Contains(a.again, f.Seq) || a.has(f.Seq) {
			continue
		}
		if a.again = append(a.again, f.Seq); st.Left == nil { // else what was left says which of them were written
			a.lost = append(a.lost, f.Seq)
		}
	}
	return a, err
}

// isOf tells whether a note may be of a connection.
func (n frontNote) isOf(conn string) bool { return n.conn == conn || n.conn == "" || conn == "" }

// older tells whether a note is of the time before the session was resumed, when the client had counted since
// stanzas: it tells of some of those as well.
func (n frontNote) older(since, acked uint32) bool {
	first := n.count - uint32(len(n.tail)) //nolint:gosec // Modulo 2^32 on purpose.
	return after(since, first) && !after(since, acked)
}

// unarrived are those flights that a client has not received which has counted h stanzas.
func unarrived(flights []savedFlight, h uint32) []savedFlight {
	return slices.DeleteFunc(slices.Clone(flights), func(f savedFlight) bool { return !after(f.Count, h) })
}

// reckon is that of the state; copies tells whether the cursor copies what it comes to.
func (l leftover) reckon(h uint32, point store.ResumePoint, copies bool) (a arrival, err error) {
	switch {
	case after(h, l.Sent):
		return a, errTooMuch
	case l.HasLost && after(l.Lost, h):
		return a, errLost
	}
	a.pos, a.claim = max(point.Pos, l.Cursor), point.Claimed
	for _, f := range l.Flights {
		switch {
		case !after(f.Count, h):
			a.flights = append(a.flights, flight{f.Count, f.Seq, f.UpTo, f.Pos})
		case f.Seq != 0 && f.Pos == 0:
			a.again, a.lost = append(a.again, f.Seq), append(a.lost, f.Seq)
		case f.Seq != 0:
			a.pos, a.lost = min(a.pos, f.Seq-1), append(a.lost, f.Seq)
		}
	}
	for _, k := range l.Kept {
		if copies && k.Seq > l.Past && after(k.Count, h) {
			a.pos = min(a.pos, k.Seq-1) // the cursor copies it anew, and also if this node dies before the client has it
		}
	}
	for _, f := range l.Flights { // what was skipped stands, whatever was written before that and is no entry
		if !after(f.Count, h) || f.UpTo <= a.pos {
			a.claim = max(a.claim, f.UpTo)
		}
	}
	for _, k := range l.Kept {
		if after(k.Count, h) && (k.Seq <= max(a.pos, l.Past) || !copies) { // else the cursor copies it anew
			a.stanzas = append(a.stanzas, leftItem(k.Raw, l.before(k.Count)))
		}
	}
	return a, nil
}

// before is the last entry that was written in turn before a stanza, of those that may not have arrived.
func (l leftover) before(count uint32) (seq uint64) {
	for _, f := range l.Flights {
		if f.Pos != 0 && !after(f.Count, count) {
			seq = max(seq, f.Seq)
		}
	}
	return seq
}

// reckon finds the client's count among the last stanzas that the front has written. What these
// claim holds whatever came after them, and so does what the client has had. A place does not if the cursor went back.
func (n frontNote) reckon(h uint32, point store.ResumePoint) arrival {
	a := arrival{pos: point.Pos, claim: point.Claimed}
	for i, noted := range n.tail {
		count := n.count - uint32(len(n.tail)-1-i) //nolint:gosec // Modulo 2^32 on purpose.
		switch entry := noted.seq != 0 && !noted.copied; {
		case after(count, h):
			if entry {
				a.lost = append(a.lost, noted.seq)
			}
			if noted.apart {
				a.again = append(a.again, noted.seq)
			}
			continue
		case noted.claims:
			a.claimed = max(a.claimed, noted.seq)
		case noted.copied:
			a.past = max(a.past, noted.seq)
		case entry:
			a.early, a.flights = append(a.early, savedFlight{Count: h, Seq: noted.seq}), append(a.flights, flight{seq: noted.seq})
		}
		if noted.claims || noted.had {
			a.claim = max(a.claim, noted.seq)
		}
		if noted.claims || !noted.apart && after(count, point.Count) && after(count, point.Voided) {
			a.pos = max(a.pos, noted.seq)
		}
	}
	return a
}

// state is what has to be known to go on with the session; what it has not delivered is
// not in it.
func (s *session) state() sessionState {
	st := sessionState{Lang: s.stream.lang, Mechanism: s.mechanism, Origin: &s.origin, Conn: s.client.id, Since: s.since}
	st.Bound, st.BoundFrom, st.BoundAlone = s.cur.bound.seq, s.cur.bound.from, s.cur.bound.alone // not changed any more
	_, acked := s.unacked.counts()
	st.Again = unarrived(s.again, acked)
	st.Answers = s.unacked.owing()
	st.Uncopied = s.uncopied.Load()
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	st.Presence, st.Priority, st.ShownBy = string(s.presence), s.priority, s.hub.blocks.number()
	st.Interested, st.Carbons, st.Blocks = s.interested, s.carbons, s.blockPushes
	for to := range s.directed {
		st.Directed = append(st.Directed, to.String())
	}
	return st
}

// serves tells whether the client takes what is for the user.
func (st sessionState) serves() bool { return st.Presence != "" && st.Priority >= 0 }

// bound is where the client was bound by Bind 2.
func (st sessionState) bound() boundPlace {
	return boundPlace{seq: st.Bound, from: st.BoundFrom, alone: st.BoundAlone}
}

// directed is who was shown directed presence.
func (st sessionState) directed() map[xmpp.JID]struct{} {
	directed := make(map[xmpp.JID]struct{}, len(st.Directed))
	for _, text := range st.Directed {
		if to, err := xmpp.ParseJID(text); err == nil {
			directed[to] = struct{}{}
		}
	}
	return directed
}

// apply gives the session what another had, but for that its client was inactive: on the new
// stream it is not before it says so again (XEP-0352 §5.2). Its cursor is not running yet.
func (s *session) apply(st sessionState) {
	directed := st.directed()
	for _, to := range s.hub.blocklist().among(directed) { // who was blocked meanwhile was told that the session has gone
		delete(directed, to)
	}
	s.hub.mu.Lock()
	s.interested, s.carbons, s.blockPushes = st.Interested, st.Carbons, st.Blocks
	if st.Presence != "" {
		s.presence, s.priority = []byte(st.Presence), st.Priority
	}
	if len(directed) > 0 {
		s.directed = directed
	}
	s.hub.mu.Unlock()
	s.stream.lang = st.Lang
	s.cur.here = st.Presence != ""
	s.cur.live = st.serves()
	s.cur.carbons = st.Carbons
	s.uncopied.Store(st.Uncopied)
	s.cur.bound = st.bound()
}

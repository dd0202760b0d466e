package bosh

import (
	"slices"
	"time"
)

// A Session is what the requests of one client make together. It is for one goroutine at a
// time.
type Session struct {
	terms
	sid   string
	to    string // of the first request
	keys  keys
	hello hello // of the server, for the first answer or a later one

	next   int64   // the rid of the request that comes next
	open   []*slot // requests that were not answered, in their order
	early  []*slot // those that came before their turn
	events []event // what the requests brought, and was not taken
	unread int     // bytes of that
	kept   []kept  // answers that the client may ask for again, in their order

	out      []byte // elements that wait for the client
	ready    bool   // and may be given out
	sent     int    // elements that ever were to be
	given    int    // of which so many were given out
	received int    // and so many has the client received

	idle  time.Time     // since when no request is open; zero while one is
	pause time.Duration // that the client has asked for; 0 for none
	poll  time.Time     // when a request came last that was empty and answered so; zero for none

	over     bool   // no request brings anything any more
	closing  bool   // the client has ended it
	inactive bool   // the client is gone
	told     bool   // the client was told of the end
	ending   []byte // what it is told

	answers []Answer
}

// An Answer is the body that a request is answered with.
type Answer struct {
	To   *Request
	Body []byte
}

// slot is a request in a session.
type slot struct {
	*Request
	live  bool      // somebody waits for the answer
	left  int       // events of it that were not taken
	by    time.Time // when it has to be answered
	first bool      // it began the session
}

// kept is an answer that was given out.
type kept struct {
	rid  int64
	key  string // of its request
	body []byte
	upTo int // elements that were given out with it and before
}

// EventKind says what an Event is.
type EventKind uint8

// The kinds of events.
const (
	Opened  EventKind = 1 + iota // the client opens a stream, or opens it anew
	Payload                      // an element
	Closed                       // the client has ended the session in order
	Failed                       // or by what it must not do: Condition says so
)

// An Event is what a client has brought.
type Event struct {
	Kind      EventKind
	Request   *Request // of Opened; To is filled in
	Raw       []byte   // of Payload
	Condition string   // of Failed
}

type event struct {
	Event
	of *slot // nil for none
}

// New begins a session with its first request, which is held until there is something to
// answer. The error is an *Error.
func New(now time.Time, sid string, r *Request, l Limits) (*Session, error) {
	t, err := agree(r, l)
	if err != nil {
		return nil, err
	}
	s := &Session{terms: t, sid: sid, to: r.To, next: r.RID}
	first := &slot{Request: r, live: true, first: true}
	r.Restart = true // a stream is opened
	s.early = []*slot{first}
	s.takeEarly(now)
	s.advance(now)
	return s, nil
}

// Requests is how many requests the client may have under way.
func (s *Session) Requests() int { return s.requests() }

// ContentType is that of the session's answers.
func (s *Session) ContentType() string { return s.content }

// Answers returns what has to be given out now. Each request gets one answer.
func (s *Session) Answers() []Answer {
	all := s.answers
	s.answers = nil
	return all
}

// Receive takes a request of the client.
func (s *Session) Receive(now time.Time, r *Request) {
	s.idle = time.Time{}
	sl := &slot{Request: r, live: true}
	switch {
	case s.told:
		s.give(r, Terminal(ItemNotFound))
	case r.RID < s.next:
		s.repeat(now, sl)
	case s.closing:
		s.give(r, Terminal(ItemNotFound))
	case s.over:
		s.place(now, sl) // it may be told why
	case r.RID >= s.next+s.window(r):
		s.Fail(r, ItemNotFound)
	default:
		s.place(now, sl)
	}
	s.advance(now)
}

// window is how far ahead the rid of a request may be (§14.2). One more may be there that
// pauses or ends the session (§11).
func (s *Session) window(r *Request) int64 {
	n := int64(s.requests())
	if r.Terminate || r.Pause >= 0 {
		n++
	}
	return n
}

// place puts a new request where it belongs, and takes those whose turn has come.
func (s *Session) place(now time.Time, sl *slot) {
	at, found := slices.BinarySearchFunc(s.early, sl.RID, func(a *slot, rid int64) int { return int(a.RID - rid) })
	if found { // a copy, because the connection of the other one broke
		s.give(s.early[at].Request, Recoverable())
		s.early[at] = sl
		return
	}
	s.early = slices.Insert(s.early, at, sl)
	s.takeEarly(now)
}

// takeEarly takes the requests whose turn has come.
func (s *Session) takeEarly(now time.Time) {
	for len(s.early) > 0 && s.early[0].RID == s.next {
		sl := s.early[0]
		s.early = s.early[1:]
		s.next++
		s.open = append(s.open, sl)
		if s.over || s.closing {
			if s.keys.accept(sl.Request) {
				s.acknowledge(sl.Request)
			}
			continue
		}
		if condition := s.check(now, sl.Request); condition != "" {
			s.Fail(sl.Request, condition)
			return
		}
		s.take(now, sl)
	}
}

// check tells what a request that is in its order must not do; "" for nothing.
func (s *Session) check(now time.Time, r *Request) string {
	if !s.keys.accept(r) {
		return ItemNotFound
	}
	if len(s.open) > s.requests() && !r.Terminate && r.Pause < 0 {
		return PolicyViolation // §11
	}
	empty := r.empty()
	if s.polls() && empty && !s.poll.IsZero() && now.Sub(s.poll) < polling {
		return PolicyViolation // §12
	}
	s.poll = time.Time{}
	if empty {
		s.poll = now
	}
	return ""
}

// take takes what a request brings.
func (s *Session) take(now time.Time, sl *slot) {
	s.acknowledge(sl.Request)
	s.pause = 0
	if sl.pauses(s.maxPause) {
		s.pause = time.Duration(sl.Pause) * time.Second
	}
	sl.by = now.Add(s.wait)
	if sl.Restart {
		if sl.To == "" {
			sl.To = s.to
		}
		s.bring(sl, Event{Kind: Opened, Request: sl.Request})
	}
	for _, raw := range sl.Payloads {
		s.bring(sl, Event{Kind: Payload, Raw: raw})
	}
	sl.Payloads = nil
	if sl.Terminate {
		s.closing = true
		s.bring(sl, Event{Kind: Closed})
	}
}

// pauses tells whether a request asks for a pause that it may have (§10).
func (sl *slot) pauses(most time.Duration) bool {
	return sl.Pause >= 0 && sl.Pause <= int64(most/time.Second)
}

func (s *Session) bring(sl *slot, e Event) {
	sl.left++
	s.unread += len(e.Raw)
	s.events = append(s.events, event{e, sl})
}

// acknowledge notes which answers a request shows to have been received. See the package.
func (s *Session) acknowledge(r *Request) {
	upTo := r.RID - int64(s.requests())
	switch {
	case s.acks && r.Ack >= 0:
		upTo = r.Ack
	case s.acks, r.empty():
		upTo = r.RID - 1
	}
	for _, k := range s.kept {
		if k.rid <= upTo {
			s.received = max(s.received, k.upTo)
		}
	}
	if s.acks { // §9.2: nor does the client ask for them again
		s.kept = slices.DeleteFunc(s.kept, func(k kept) bool { return k.rid <= upTo })
	}
}

// repeat answers a request that has come before (§14.3).
func (s *Session) repeat(now time.Time, sl *slot) {
	for _, k := range s.kept {
		if k.rid == sl.RID && k.key == sl.Key {
			s.give(sl.Request, k.body)
			return
		}
	}
	for _, o := range s.open {
		if o.RID == sl.RID && o.Key == sl.Key {
			if o.live {
				s.give(o.Request, Recoverable())
			}
			o.Request, o.live, o.by = same(sl.Request, o.Request), true, now.Add(s.wait)
			return
		}
	}
	s.Fail(sl.Request, ItemNotFound)
}

// same returns a copy of a request as one whose payloads were taken.
func same(r, before *Request) *Request {
	r.Payloads, r.Restart, r.Terminate, r.Pause = nil, before.Restart, before.Terminate, before.Pause
	return r
}

// Gone says that nobody waits for the answer to a request any more.
func (s *Session) Gone(now time.Time, r *Request) {
	for _, o := range s.open {
		if o.Request == r {
			o.live = false
		}
	}
	s.early = slices.DeleteFunc(s.early, func(e *slot) bool { return e.Request == r })
	s.advance(now)
}

// Next returns what the client has brought next; false for nothing.
func (s *Session) Next(now time.Time) (Event, bool) {
	if len(s.events) == 0 {
		return Event{}, false
	}
	e := s.events[0]
	s.events[0] = event{}
	s.unread -= len(e.Raw)
	if s.events = s.events[1:]; len(s.events) == 0 {
		s.events = nil
	}
	if e.of != nil {
		if e.of.left--; e.of.left == 0 {
			s.advance(now)
		}
	}
	return e.Event, true
}

// Pending tells whether Next has something.
func (s *Session) Pending() bool { return len(s.events) > 0 }

// Send adds an element for the client, which needs nothing from around it, to what the next
// Flush gives out. It returns how many were sent so far.
func (s *Session) Send(raw []byte) int {
	s.sent++ // also of what is lost, which nothing shows to have been received
	if !s.over {
		s.out = append(s.out, raw...)
	}
	return s.sent
}

// Flush lets what was sent be given out, now or when there is a request.
func (s *Session) Flush(now time.Time) {
	s.ready = len(s.out) > 0
	s.advance(now)
}

// Queued is how many bytes wait for a request.
func (s *Session) Queued() int { return len(s.out) }

// Received is how many elements the client has received for sure.
func (s *Session) Received() int { return s.received }

// End ends the session by the server: what was sent is given out, and then the client is told
// why it ended, as soon as it asks. content goes with the condition; both may be empty. A
// client that has ended the session asks no more.
func (s *Session) End(now time.Time, condition string, content []byte) {
	if s.told || s.over {
		return
	}
	s.over = true
	s.ready = len(s.out) > 0
	s.ending = terminal(condition, content)
	if s.closing {
		s.ending, s.given = terminal("", s.out), s.sent
		s.out, s.ready = nil, false
	}
	s.advance(now)
	if s.closing && !s.told {
		s.cutTo(nil, "", "")
	}
}

// Cut ends the session at once, without a word of what was sent.
func (s *Session) Cut(condition string) {
	if !s.told {
		s.cutTo(nil, condition, condition)
	}
}

// Told tells whether the client was told that the session ended, or never will be.
func (s *Session) Told() bool { return s.told }

// Inactive tells whether the session ended because no request came.
func (s *Session) Inactive() bool { return s.inactive }

// Fail ends the session because of a request. The others are told that it was one of them.
func (s *Session) Fail(r *Request, condition string) {
	if s.told {
		s.give(r, Terminal(ItemNotFound))
		return
	}
	s.events = append(s.events, event{Event: Event{Kind: Failed, Condition: condition}})
	s.cutTo(r, condition, OtherRequest)
}

// cutTo ends the session with an answer to one request, which may be nil, and to the others.
func (s *Session) cutTo(r *Request, condition, others string) {
	if r != nil {
		s.give(r, Terminal(condition))
	}
	for _, list := range [...][]*slot{s.open, s.early} {
		for _, sl := range list {
			if sl.live && sl.Request != r {
				s.give(sl.Request, Terminal(others))
			}
		}
	}
	s.over, s.told = true, true
	s.open, s.early, s.out, s.ready = nil, nil, nil, false
}

func (s *Session) give(r *Request, body []byte) { s.answers = append(s.answers, Answer{r, body}) }

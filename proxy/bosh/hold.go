package bosh

import (
	"slices"
	"time"
)

// Which requests are answered when.

// advance answers the requests that have to be answered now.
func (s *Session) advance(now time.Time) {
	for len(s.open) > 0 && s.due(now, s.open[0]) {
		sl := s.open[0]
		s.open = s.open[1:]
		s.answer(sl)
		if s.told {
			s.cutTo(nil, "", "")
			return
		}
	}
	s.rest(now)
}

// maxUnread is up to how many bytes what a client has brought may wait to be taken while it is
// answered.
const maxUnread = 64 << 10

// due tells whether the first of the open requests has to be answered.
func (s *Session) due(now time.Time, sl *slot) bool {
	switch {
	case s.ending != nil && sl.live:
		return true
	case sl.left > 0: // or what the client may send is without bounds
		return s.ready && sl.live && !sl.Terminate && s.unread <= maxUnread
	case !sl.live: // what is in its answer may never arrive, so it only makes way
		return len(s.open) > 1
	case sl.Terminate: // answered with the end
		return false
	case s.ready, len(s.open) > s.hold, sl.pauses(s.maxPause):
		return true
	}
	return !now.Before(sl.by)
}

// answer answers the first of the open requests. The end is told by itself, because there are
// clients that look at nothing else then.
func (s *Session) answer(sl *slot) {
	var body []byte
	switch {
	case s.ending != nil && sl.live && !s.ready:
		body, s.told = s.ending, true
	case s.ready && sl.live && !sl.pauses(s.maxPause):
		body = s.appendAnswer(nil, sl, s.out)
		s.out, s.ready, s.given = nil, false, s.sent
		s.poll = time.Time{}
	default:
		body = s.appendAnswer(nil, sl, nil)
	}
	s.keep(kept{rid: sl.RID, key: sl.Key, body: body, upTo: s.given})
	if sl.live {
		s.give(sl.Request, body)
	}
}

// keep keeps an answer for as long as the client may ask for it again (§14.3).
func (s *Session) keep(k kept) {
	s.kept = append(s.kept, k)
	if over := len(s.kept) - s.requests(); over > 0 {
		s.kept = slices.Delete(s.kept, 0, over)
	}
}

// rest notes since when no request is open.
func (s *Session) rest(now time.Time) {
	for _, sl := range s.open {
		if sl.live {
			s.idle = time.Time{}
			return
		}
	}
	if s.idle.IsZero() {
		s.idle = now
	}
}

// patience is how long the client may have no request open.
func (s *Session) patience() time.Duration {
	if s.pause > 0 {
		return s.pause
	}
	return s.inactivity
}

// Deadline is when Tick has to be called; zero for never.
func (s *Session) Deadline() time.Time {
	switch {
	case s.told:
		return time.Time{}
	case !s.idle.IsZero() || len(s.open) == 0:
		return s.idle.Add(s.patience())
	}
	if sl := s.open[0]; sl.left == 0 && !sl.Terminate && !s.over && sl.live {
		return sl.by
	}
	return time.Time{}
}

// Tick does what is due by now.
func (s *Session) Tick(now time.Time) {
	if !s.told && !s.idle.IsZero() && !now.Before(s.idle.Add(s.patience())) {
		s.inactive = true
		s.cutTo(nil, "", ItemNotFound)
		return
	}
	s.advance(now)
}

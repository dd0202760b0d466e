package proxy

import (
	"bytes"
	"slices"
	"time"
)

// SessionInfo is what a front tells of a session that has logged in and lives on
// a node.
type SessionInfo struct {
	ID        string    `json:"id"` // as in the session log, here and at the node
	User      string    `json:"user"`
	Source    string    `json:"source"`
	Listener  string    `json:"listener"`
	Transport string    `json:"transport"`
	Pool      string    `json:"pool"`
	Node      string    `json:"node"`
	Since     time.Time `json:"since"` // when the client connected
	// Bytes from and to the client; of an XML stream up to the last pause in it.
	In  int64 `json:"bytes_in"`
	Out int64 `json:"bytes_out"`
}

// SessionQuery says which sessions are asked for. What is empty matches all.
type SessionQuery struct {
	User, Node, Pool string
	After            ID  // the last that is known already
	Limit            int // the most that are wanted, 1 at least
}

// Sessions returns the sessions that are logged in and match a query, the first of them in the order of their IDs,
// and whether there are more. However many match, it costs a front about as much as a copy of a list of
// all sessions.
func (s *Server) Sessions(q SessionQuery) (page []SessionInfo, more bool) {
	var first []*session
	for _, ss := range s.all() {
		if !ss.placed.Load() || !q.matches(ss) {
			continue
		}
		at, _ := slices.BinarySearchFunc(first, ss, byID)
		if len(first) == q.Limit {
			if more = true; at == q.Limit {
				continue
			}
			first = first[:q.Limit-1]
		}
		first = slices.Insert(first, at, ss)
	}
	for _, ss := range first {
		page = append(page, ss.info())
	}
	return page, more
}

// matches tells whether a session that is placed is asked for.
func (q *SessionQuery) matches(s *session) bool {
	is := func(want, got string) bool { return want == "" || want == got }
	return bytes.Compare(s.rec.ID[:], q.After[:]) > 0 && is(q.User, s.rec.User) && is(q.Node, s.rec.Node) && is(q.Pool, s.poolName())
}

func byID(a, b *session) int { return bytes.Compare(a.rec.ID[:], b.rec.ID[:]) }

// EndSession ends a session that is logged in, and tells whether there is one of that ID. An XML stream ends with the
// stream error policy-violation, a WebSocket with status 1008, and others are reset; the
// node's connection ends without the end of the stream, as when the front stops.
func (s *Server) EndSession(id ID) bool {
	for _, ss := range s.all() {
		if ss.rec.ID == id && ss.placed.Load() {
			ss.dismiss()
			return true
		}
	}
	return false
}

// all returns the sessions, logged in or not.
func (s *Server) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*session, 0, len(s.sessions))
	for ss := range s.sessions {
		all = append(all, ss)
	}
	return all
}

// info is what Sessions tells of a session that is placed: what does not change from
// then on, and how much it has carried.
func (s *session) info() SessionInfo {
	info := SessionInfo{
		ID:        s.rec.ID.String(),
		User:      s.rec.User,
		Source:    s.rec.Source,
		Listener:  s.rec.Listener,
		Transport: s.rec.Transport,
		Pool:      s.poolName(),
		Node:      s.rec.Node,
		Since:     s.rec.Started,
	}
	info.In, info.Out = s.moved()
	return info
}

// moved returns how many bytes have come from the client and gone to it so far, for who asks from another goroutine.
func (s *session) moved() (in, out int64) {
	if s.xml != nil {
		return s.xml.in.bytes.Load(), s.xml.out.bytes.Load()
	}
	s.mu.Lock()
	m, ok := s.carrier.(mover)
	in, out = s.rec.In.bytes, s.rec.Out.bytes
	s.mu.Unlock()
	if ok {
		return m.Bytes()
	}
	return in, out
}

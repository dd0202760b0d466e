package proxy

import (
	"iter"
	"time"
)

// SessionInfo is what a front tells of a session that has logged in and lives on
// a node.
type SessionInfo struct {
	ID       string    `json:"id"` // as in the session log, here and at the node
	User     string    `json:"user"`
	Node     string    `json:"node"`
	Listener string    `json:"listener"`
	Pool     string    `json:"pool"`
	Source   string    `json:"source"`
	Since    time.Time `json:"since"` // when the client connected
}

// Sessions returns the sessions that were logged in when the sequence is begun, in
// no order. It costs a front with many of them as much as a copy of a list, and
// holds no lock while the caller looks at one.
func (s *Server) Sessions() iter.Seq[SessionInfo] {
	return func(yield func(SessionInfo) bool) {
		for _, ss := range s.all() {
			if ss.placed.Load() && !yield(ss.info()) {
				return
			}
		}
	}
}

// SessionsOf returns the sessions on a node, as Sessions does.
func (s *Server) SessionsOf(node string) iter.Seq[SessionInfo] {
	return func(yield func(SessionInfo) bool) {
		for info := range s.Sessions() {
			if info.Node == node && !yield(info) {
				return
			}
		}
	}
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
// then on.
func (s *session) info() SessionInfo {
	return SessionInfo{
		ID:       s.rec.ID.String(),
		User:     s.rec.User,
		Node:     s.rec.Node,
		Listener: s.rec.Listener,
		Pool:     s.poolName(),
		Source:   s.rec.Source,
		Since:    s.rec.Started,
	}
}

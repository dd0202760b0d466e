package main

import (
	"slices"
	"time"

	"imlb/backend/xmpp"
	"imlb/balancer"
	"imlb/health"
)

// poolStatus is what /status tells of a pool.
type poolStatus struct {
	Name        string       `json:"name"`
	Known       bool         `json:"known"`
	Fit         int          `json:"fit"`               // nodes that placement gives new users
	Panic       bool         `json:"panic"`             // too few are fit to go by health
	StaleFor    float64      `json:"stale_for_seconds"` // how old what is known may be
	SourceError string       `json:"source_error,omitempty"`
	Cached      bool         `json:"cached"` // all that is known is from before the start
	Policy      string       `json:"policy"`
	Users       int          `json:"users"`
	Exceptions  int          `json:"exceptions"` // users elsewhere than the table says
	Sessions    int          `json:"sessions"`
	Waiting     int          `json:"waiting"` // logins that wait for room
	Nodes       []nodeStatus `json:"nodes"`
	Transitions []transition `json:"transitions"` // the last ones, oldest first
}

type nodeStatus struct {
	Name       string  `json:"name"`
	Address    string  `json:"address,omitempty"`
	Standing   string  `json:"standing"`
	Cause      string  `json:"cause,omitempty"`
	Verdict    string  `json:"verdict,omitempty"` // on a new user
	Weight     float64 `json:"weight"`
	Ramp       float64 `json:"ramp"` // part of its share that it takes
	Zone       string  `json:"zone,omitempty"`
	Backup     bool    `json:"backup,omitempty"`
	Partitions int     `json:"partitions"`
	Sessions   int     `json:"sessions"` // of this front
	Elsewhere  int     `json:"sessions_of_other_fronts"`
	Bound      int     `json:"bound"`           // most sessions in all that it may have now
	Limit      int     `json:"limit,omitempty"` // most that it ever may

	Checks          uint64   `json:"checks"`
	ChecksFailed    uint64   `json:"checks_failed"`
	Checked         string   `json:"checked,omitempty"`
	Failing         string   `json:"failing,omitempty"` // why the last check failed
	Ejections       uint64   `json:"ejections"`
	EjectedUntil    string   `json:"ejected_until,omitempty"`
	Penalty         float64  `json:"penalty"` // for coming and going
	SuppressedUntil string   `json:"suppressed_until,omitempty"`
	Transitions     uint64   `json:"transitions"`
	Mechanisms      []string `json:"mechanisms,omitempty"` // that it offers to log in with
}

type transition struct {
	At       string `json:"at"`
	Node     string `json:"node"`
	Standing string `json:"standing"`
	Cause    string `json:"cause"`
}

// status puts together what the monitor and the balancer know.
func (p *pool) status(now time.Time) poolStatus {
	watched, placed := p.monitor.Snapshot(), p.balancer.Snapshot()
	st := poolStatus{
		Name:       p.name,
		Known:      watched.Known,
		Panic:      watched.Panic,
		StaleFor:   watched.Source.Staleness(now).Seconds(),
		Cached:     watched.Source.Cached,
		Policy:     placed.Policy.String(),
		Users:      placed.Users,
		Exceptions: placed.Exceptions,
		Sessions:   placed.Sessions,
		Waiting:    placed.Waiting,
	}
	if watched.Source.Failing != nil {
		st.SourceError = watched.Source.Failing.Error()
	}
	p.mu.RLock()
	st.Fit = p.fit
	p.mu.RUnlock()
	for _, n := range watched.Nodes {
		st.Nodes = append(st.Nodes, statusOfNode(n, placed.Nodes))
	}
	for _, t := range p.monitor.Transitions() {
		st.Transitions = append(st.Transitions, transition{
			At: t.At.UTC().Format(time.RFC3339Nano), Node: t.Node, Standing: t.Standing.String(), Cause: t.Cause,
		})
	}
	return st
}

func statusOfNode(n health.Node, placed []balancer.NodeState) nodeStatus {
	st := nodeStatus{
		Name: n.Name, Address: n.Addr, Standing: n.Standing.String(), Cause: n.Cause,
		Weight: n.Weight, Ramp: n.Ramp, Zone: n.Zone, Backup: n.Meta[backupMeta] == "true", Limit: n.Capacity,
		Checks: n.Checks, ChecksFailed: n.ChecksFailed, Checked: moment(n.Checked),
		Ejections: n.Ejections, EjectedUntil: moment(n.EjectedUntil),
		Penalty: n.Penalty, SuppressedUntil: moment(n.SuppressedUntil),
		Transitions: n.Transitions, Mechanisms: n.Mechanisms,
	}
	if n.Failing != nil {
		st.Failing = n.Failing.Error()
	}
	if s, ok := placedNode(placed, n.Name); ok {
		st.Partitions, st.Sessions, st.Elsewhere, st.Bound, st.Verdict = s.Partitions, s.Sessions, s.External, s.Bound, s.Verdict.String()
	}
	return st
}

func placedNode(placed []balancer.NodeState, name string) (balancer.NodeState, bool) {
	i := slices.IndexFunc(placed, func(s balancer.NodeState) bool { return s.Name == name })
	if i < 0 {
		return balancer.NodeState{}, false
	}
	return placed[i], true
}

// moment writes a time for people and programs; nothing when there is none.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// explanation says where a user's next session would go, and why.
type explanation struct {
	Pool      string `json:"pool"`
	User      string `json:"user"`
	Partition uint16 `json:"partition"`
	Policy    string `json:"policy"`
	// Pinned is where the user has sessions of this front, and Sessions how many.
	Pinned   string `json:"pinned,omitempty"`
	Sessions int    `json:"sessions"`
	Shared   string `json:"shared,omitempty"` // where other fronts have the user
	// Node and Cause are the decision, or Refusal.
	Node       string      `json:"node,omitempty"`
	Cause      string      `json:"cause,omitempty"`
	Refusal    string      `json:"refusal,omitempty"`
	Candidates []candidate `json:"candidates"` // in the order in which they are asked
}

type candidate struct {
	Name      string  `json:"name"`
	Verdict   string  `json:"verdict"`
	Standing  string  `json:"standing,omitempty"`
	Why       string  `json:"why,omitempty"` // it stands so
	Tier      int     `json:"tier"`          // −1: it gets no new users
	Weight    float64 `json:"weight"`
	Zone      string  `json:"zone,omitempty"`
	Sessions  int     `json:"sessions"`
	Elsewhere int     `json:"sessions_of_other_fronts"`
	Bound     int     `json:"bound"`
}

// explain tells where the user's next session would go. In a pool of XMPP an address may be
// written in any way: the canonical bare one's. All other users are called what they are.
func (p *pool) explain(user string, xmppToo bool) any {
	if jid, err := xmpp.ParseJID(user); err == nil && xmppToo && jid.Local() != "" {
		user = jid.Bare().String()
	}
	e := p.balancer.Explain(user)
	out := explanation{
		Pool: p.name, User: e.User, Partition: e.Partition, Policy: p.balancer.Snapshot().Policy.String(),
		Pinned: e.Pinned, Sessions: e.Sessions, Shared: e.Shared, Node: e.Node,
		Candidates: make([]candidate, len(e.Candidates)),
	}
	if e.Node == "" {
		out.Refusal = e.Refusal.String()
	} else {
		out.Cause = e.Cause.String()
	}
	nodes := p.monitor.Snapshot().Nodes
	for i, s := range e.Candidates {
		out.Candidates[i] = candidateOf(s, nodes)
	}
	return out
}

func candidateOf(s balancer.NodeState, nodes []health.Node) candidate {
	c := candidate{
		Name: s.Name, Verdict: s.Verdict.String(), Tier: s.Tier, Weight: s.Weight, Zone: s.Zone,
		Sessions: s.Sessions, Elsewhere: s.External, Bound: s.Bound,
	}
	if i := slices.IndexFunc(nodes, func(n health.Node) bool { return n.Name == s.Name }); i >= 0 {
		c.Standing, c.Why = nodes[i].Standing.String(), nodes[i].Cause
	}
	return c
}

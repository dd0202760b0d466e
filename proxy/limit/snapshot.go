package limit

import (
	"net/netip"
	"slices"
	"time"
)

// Snapshot is what a Guard tells of itself.
type Snapshot struct {
	Global    GateStatus            `json:"global"`
	Listeners map[string]GateStatus `json:"listeners"`
	Sources   TableStatus           `json:"sources"`
	Users     TableStatus           `json:"users"`
	Claims    TableStatus           `json:"claims"` // users by source, before their login
	Top       []SourceStatus        `json:"top"`    // the sources with the most connections
}

// GateStatus is what is counted for a listener, or for all.
type GateStatus struct {
	Connections     int `json:"connections"`
	Unauthenticated int `json:"unauthenticated"`
	Waiting         int `json:"waiting"` // whose turn has not come, or was left unused
}

// TableStatus is what is counted for all sources, users, or claims.
type TableStatus struct {
	Entries     int    `json:"entries"`
	MaxEntries  int    `json:"max_entries"`
	Connected   int    `json:"connected"`   // entries with connections
	Waiting     int    `json:"waiting"`     // connections whose turn has not come, or was left unused
	Overflowing int    `json:"overflowing"` // connections in overflow entries
	Recycled    uint64 `json:"recycled"`    // entries reused with nothing lost
	Evicted     uint64 `json:"evicted"`     // entries reused with little lost, for the table was full
	Overflowed  uint64 `json:"overflowed"`  // times that a newcomer found no room
}

// SourceStatus is what is counted for one source.
type SourceStatus struct {
	Source          netip.Prefix `json:"source"`
	Connections     int          `json:"connections"`
	Unauthenticated int          `json:"unauthenticated"`
}

// Snapshot returns the state now, with the top sources, most connections first. It
// looks at all entries, a part of the table at a time, which nobody waits for
// longer than some microseconds; it is meant for people and not for hot paths.
func (g *Guard) Snapshot(now time.Time, top int) Snapshot {
	at := g.at(now)
	ranking := ranking{most: max(0, top), list: []SourceStatus{}}
	s := Snapshot{
		Global:    g.global.status(now),
		Listeners: make(map[string]GateStatus),
		Sources:   g.sources.status(at, ranking.add),
		Users:     g.users.status(at, nil),
		Claims:    g.pairs.status(at, nil),
	}
	s.Top = ranking.list
	for name, l := range g.rules.Load().listeners {
		s.Listeners[name] = l.gate.status(now)
	}
	return s
}

// status adds all entries up, and shows those with connections to visit, if there
// is one.
func (t *table) status(at int64, visit func(*entry)) TableStatus {
	var s TableStatus
	for i := range t.parts {
		t.parts[i].status(&s, at, visit)
	}
	return s
}

func (p *part) status(s *TableStatus, at int64, visit func(*entry)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Entries += int(p.used)
	s.MaxEntries += p.most
	s.Recycled += p.recycled
	s.Evicted += p.evicted
	s.Overflowed += p.overflowed
	s.Overflowing += int(max(p.overflow.live, p.overflow.unauth))
	s.Waiting += p.bounds.turns.waiting(p.overflow.turn, at)
	for e := range p.all {
		s.Waiting += p.bounds.turns.waiting(e.turn, at)
		if e.live+e.unauth == 0 {
			continue
		}
		s.Connected++
		if visit != nil {
			visit(e)
		}
	}
}

// ranking keeps the sources with the most connections.
type ranking struct {
	most int
	list []SourceStatus
}

func (r *ranking) add(e *entry) {
	n := int(e.live)
	if len(r.list) == r.most && (r.most == 0 || n <= r.list[r.most-1].Connections) {
		return
	}
	i, _ := slices.BinarySearchFunc(r.list, n, func(s SourceStatus, n int) int {
		if s.Connections >= n { // the list descends; equals keep their order
			return -1
		}
		return 1
	})
	r.list = slices.Insert(r.list[:min(len(r.list), r.most)], i, SourceStatus{e.prefix(), n, int(e.unauth)})
	r.list = r.list[:min(len(r.list), r.most)]
}

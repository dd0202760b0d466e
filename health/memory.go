package health

import (
	"maps"
	"slices"
	"time"
)

// memory decides what to believe of a source that answers wrongly when its agent
// restarts: it answers nothing, then too little, then that all is critical until its
// checks have run. It is pure: time is an argument.
type memory struct {
	hold  time.Duration
	known map[string]remembered
	empty bool // the last answer was
}

// remembered is an endpoint and how much of its last description is believed.
type remembered struct {
	listed  Endpoint  // as last listed
	healthy bool      // the verdict that is believed
	missing bool      // not in the last answer
	doubt   time.Time // until when neither loss nor a bad verdict is believed
}

func newMemory(hold time.Duration) *memory {
	return &memory{hold: hold, known: make(map[string]remembered)}
}

// distrust notes that the source failed, or lost its state.
func (m *memory) distrust(now time.Time) {
	for name, r := range m.known {
		r.doubt = now.Add(m.hold)
		m.known[name] = r
	}
}

// learn takes an answer.
func (m *memory) learn(now time.Time, answer []Endpoint) {
	if len(answer) == 0 && !m.empty {
		m.distrust(now)
	}
	m.empty = len(answer) == 0
	for name, r := range m.known {
		r.missing = true
		m.known[name] = r
	}
	for _, e := range answer {
		m.list(e)
	}
	m.expire(now)
}

// list takes one endpoint of an answer.
func (m *memory) list(e Endpoint) {
	r, known := m.known[e.Name]
	r.listed, r.missing = e, false
	if e.Healthy {
		r.doubt = time.Time{}
	}
	if !known || e.Healthy {
		r.healthy = e.Healthy
	}
	m.known[e.Name] = r
}

// expire believes what is no longer in doubt.
func (m *memory) expire(now time.Time) {
	for name, r := range m.known {
		if now.Before(r.doubt) {
			continue
		}
		if r.missing {
			delete(m.known, name)
			continue
		}
		r.healthy, r.doubt = r.listed.Healthy, time.Time{}
		m.known[name] = r
	}
}

// next returns when expire has something to do; zero when it has not.
func (m *memory) next() time.Time {
	var next time.Time
	for _, r := range m.known {
		if !r.doubt.IsZero() && (next.IsZero() || r.doubt.Before(next)) {
			next = r.doubt
		}
	}
	return next
}

// endpoints returns what is believed, sorted by name.
func (m *memory) endpoints() []Endpoint {
	endpoints := make([]Endpoint, 0, len(m.known))
	for _, name := range slices.Sorted(maps.Keys(m.known)) {
		e := m.known[name].listed
		e.Healthy = m.known[name].healthy
		endpoints = append(endpoints, e)
	}
	return endpoints
}

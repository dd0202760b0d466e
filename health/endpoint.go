package health

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"
)

// Endpoint is a node as its source describes it.
type Endpoint struct {
	// Name identifies the node over restarts and changes of address.
	Name string
	// Addr is where the node serves sessions, host:port.
	Addr string
	// Admin is where it answers questions about itself over HTTP, host:port;
	// empty when it does not.
	Admin string
	// Weight is its share relative to the others; with 0 it gets no new users.
	Weight float64
	// Zone is where it is.
	Zone string
	// Capacity is the most sessions that it wants; 0 when it does not say.
	Capacity int
	// Draining is set when it wants no new users.
	Draining bool
	// Healthy is the source's own verdict.
	Healthy bool
	// Meta is all that the source knows besides. It must not be changed.
	Meta map[string]string
}

// Equal says whether nothing differs.
func (e Endpoint) Equal(f Endpoint) bool {
	return e.Name == f.Name && e.Addr == f.Addr && e.Admin == f.Admin && e.Weight == f.Weight && e.Zone == f.Zone &&
		e.Capacity == f.Capacity && e.Draining == f.Draining && e.Healthy == f.Healthy && maps.Equal(e.Meta, f.Meta)
}

// Source says which nodes exist.
type Source interface {
	// Run calls publish with all nodes, sorted by name and each name once, as soon
	// as it knows them and whenever something about them has changed. The list
	// belongs to the receiver. Run returns nil when ctx is done, and an error when
	// it cannot go on; what may pass is retried for ever.
	Run(ctx context.Context, publish func([]Endpoint)) error
	// Status says how fresh the source's knowledge is.
	Status() SourceStatus
}

// SourceStatus says how fresh a source's knowledge is.
type SourceStatus struct {
	// Answered is when the source was last known to be up to date; zero before
	// the first answer.
	Answered time.Time
	// Lag is by how much that answer may have been behind already.
	Lag time.Duration
	// Failing is what went wrong since; nil when all is well. While it is nil,
	// what is known is up to date.
	Failing error
	// Failures counts failed queries since the last answer.
	Failures int
	// Cached is set while all that is known is from before the process started;
	// Answered is from then, too.
	Cached bool
	// CacheFailing is why what is known cannot be kept for the next start.
	CacheFailing error
	// Queries counts those that have ended, QueriesFailed those that failed, and
	// IndexResets how often the source has lost its state.
	Queries, QueriesFailed, IndexResets uint64
}

// Staleness returns how old what is known may be.
func (s SourceStatus) Staleness(now time.Time) time.Duration {
	if s.Failing == nil && !s.Cached || s.Answered.IsZero() {
		return s.Lag
	}
	return s.Lag + now.Sub(s.Answered)
}

// Static is a source whose nodes never change. It has no opinion on their health.
type Static []Endpoint

// Run publishes the nodes and waits for the end.
func (s Static) Run(ctx context.Context, publish func([]Endpoint)) error {
	endpoints := oneOfEach(slices.Clone(s))
	for i := range endpoints {
		endpoints[i].Healthy = true
	}
	publish(endpoints)
	<-ctx.Done()
	return nil
}

// Status returns that all is well.
func (s Static) Status() SourceStatus { return SourceStatus{} }

// oneOfEach sorts endpoints by name and keeps one of each, a healthy one if there
// is one; of equals the one whose address sorts first.
func oneOfEach(endpoints []Endpoint) []Endpoint {
	slices.SortFunc(endpoints, compareEndpoints)
	return slices.CompactFunc(endpoints, func(a, b Endpoint) bool { return a.Name == b.Name })
}

func compareEndpoints(a, b Endpoint) int {
	byHealth := 0
	switch {
	case a.Healthy && !b.Healthy:
		byHealth = -1
	case b.Healthy && !a.Healthy:
		byHealth = 1
	}
	return cmp.Or(cmp.Compare(a.Name, b.Name), byHealth, cmp.Compare(a.Addr, b.Addr))
}

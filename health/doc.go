// Package health knows which nodes exist and which of them are fit to serve.
//
// A [Source] says which nodes exist: a static list, or the instances of a Consul
// service. A [Monitor] watches a source, checks every node itself, takes reports
// from the data path, and tells whenever something changed that matters for
// placement.
//
// # The rule
//
// A node gets sessions when all of these hold:
//
//   - The source names it. Consul is not believed blindly: after a failed query, an
//     empty answer, or an index that went backwards, which all happen when an
//     agent restarts, nodes that are missing or critical keep their place until
//     they have been seen healthy again or a hold time is over.
//   - The source does not call it critical.
//   - Our own checks found it up: the first check decides at once, then Fall
//     failures in a row take it down and Rise successes bring it back.
//     A failed dial of the data path counts as a failed check and brings the next
//     check forward.
//
// A node that drains (by its Consul meta, by maintenance mode, or by its own
// answer) gets no new users, whatever else holds.
//
// Only placement follows from all this. No session is ended because a node left
// the list or failed a check.
package health

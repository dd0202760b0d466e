// Package health knows which nodes exist and which of them are fit to serve.
//
// A [Source] says which nodes exist: a static list, or the instances of a Consul
// service. A [Monitor] watches a source, checks every node itself, takes reports
// from the data path and orders from operators, and tells whenever something changed
// that matters for placement.
//
// # What is known of a node
//
//   - operator: what an operator says of it ([Override]).
//   - panic: of the nodes that should serve, so few are fit that health is ignored
//     rather than everybody sent to the survivors. Nodes that drain or are disabled do
//     not count, and nodes that were never checked count as fit.
//   - checks: what our own checks found. The first one decides at once, then Fall
//     failures in a row take a node down and Rise successes bring it up. A session
//     that it does not take counts as a failed check, and one that is lost there as
//     another of the next check if that fails; both bring the next check forward.
//   - source: the source's verdict. Consul is not believed blindly: after a failed query,
//     an empty answer, or an index that went backwards, which all happen when an
//     agent restarts, nodes that are missing or critical keep their place until they
//     have been seen healthy again or a hold time is over. The same holds for nodes
//     that are known from the disk cache only.
//   - marked: the source says that it drains, by its meta or maintenance mode.
//   - leaving: it says itself that it drains, in its last answer.
//   - ejected: its checks pass, but it does not take sessions ([OutlierRules]).
//   - refuses: nobody accepts connections at its session address, as a check has just
//     found, or a session in the last half minute. Not even panic sends users there.
//   - damped: it came and went too often ([DampingRules]).
//
// No more than Options.MaxEjected of a pool's nodes are ejected or damped at a time.
//
// # The rule
//
// The first line that fits decides; "·" is anything.
//
//	operator  panic  checks   refuses  source    marked  leaving  ejected  damped  | standing
//	disabled  ·      ·        ·        ·         ·       ·        ·        ·       | unfit
//	·         ·      unknown  ·        ·         ·       ·        ·        ·       | unchecked
//	·         no     ·        ·        ·         ·       ·        ·        yes     | draining
//	·         no     down     ·        ·         ·       ·        ·        ·       | unfit
//	·         yes    down     yes      ·         ·       ·        ·        ·       | unfit
//	·         no     ·        ·        critical  ·       no       ·        ·       | unfit
//	·         no     ·        ·        ·         ·       ·        yes      ·       | unfit
//	drain     ·      ·        ·        ·         ·       ·        ·        ·       | draining
//	·         ·      ·        ·        ·         yes     ·        ·        ·       | draining
//	·         ·      ·        ·        ·         ·       yes      ·        ·       | draining
//	·         ·      ·        ·        ·         ·       ·        ·        ·       | fit
//
// A damped node drains, whatever it is at the moment: users who have sessions there go on
// joining them while it can be reached, so that coming and going tears no user's
// sessions apart.
//
// A node that leaves is critical in Consul, for it is not ready for new users; those
// who have sessions there may still join them.
//
// A node's weight is the operator's, else what it says itself, else its source's.
//
// Only placement follows from all this. No session is ended because a node left
// the list or failed a check.
package health

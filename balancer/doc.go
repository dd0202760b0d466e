// Package balancer decides which node serves which user. It is a library of its
// own: it does no I/O, reads no clock and starts no goroutine.
//
// # From a user to a node
//
// A user belongs for ever to one of [Partitions] partitions (see [Partition]).
// For each partition every node has a score, drawn from the node's name and
// divided by its weight; the node with the lowest score owns the partition unless
// it is full. This is weighted rendezvous hashing with bounded loads, and it is
// what a [Table] holds: no node owns more than ⌈(1+ε)·its share⌉ partitions, and
// the table is a pure function of the nodes' names and weights. So processes that
// know the same nodes agree about every user with nothing shared between them, in
// whatever order they learnt of the nodes, and when a node goes only its own
// partitions move.
//
// Over that a [Balancer] keeps the live sessions in bounds: no node is given a
// session when it would then hold more than ⌈(1+ε)·average·weight⌉. A new user for
// whom the partition's owner has no room goes to the next-ranked node. A user
// who has a live session joins it, whatever the bound says.
//
// A node that has just come can take a growing part of its users ([Member.Ramp]).
// When no node can take a session, [Balancer.AcquireWait] has it wait for its turn.
// Operators who want another order in which nodes are asked choose a [Policy]; the
// rest stays as it is.
//
// # Several fronts
//
// Balancers with the same members agree on every user who is at home, with nothing
// shared. Two things make them act as one for the others too: the sessions that
// other fronts have put on nodes ([Balancer.SetTotals]), so that bounds and limits
// are those of all, and the users who live elsewhere ([Balancer.Exceptions],
// [Balancer.Import]). As long as what they have heard is old, a bound may be
// exceeded by what came since, and a user at home may be sent elsewhere by a front
// that sees no room there; the second session then lives apart from the first.
//
// # Moving sessions
//
// [Plan] says which live sessions to move when members change, and [Pacer] when,
// so that no node is rushed. To move them is up to the caller.
//
// # How scores are drawn
//
// Textbook rendezvous hashing draws the score of a (partition, node) pair by
// hashing the pair: 65,536 hashes and logarithms for each node. Here each node has
// a keyed permutation of the partitions instead, and the score of the partition at
// rank i of the node's permutation is the i-th of 65,536 quantiles of the
// exponential distribution, divided by the weight. For a single pair this is the
// same draw (an exponential variable whose rate is the weight, so that the lowest
// wins in proportion to its weight), and pairs of different nodes are independent
// of each other as before. Two things are gained. The partitions that a node has
// a chance of winning are found by walking its permutation from rank 0, a few
// hundred steps when there are a thousand nodes, instead of trying all of them.
// And the scores of one node no longer cluster by chance, which halves the
// variance of how many partitions nodes win.
//
// All of it is integer arithmetic, so the result is the same on every
// architecture.
package balancer

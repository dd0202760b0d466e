// Package identify learns who a user is from what a client sends first, and from
// what is known of its connection.
//
// It never authenticates. What it finds is a claim, good for choosing a node: all
// connections that make the same claim meet on one node, which then checks
// whatever it checks. Passwords are passed over, signatures are not verified.
//
// The package is pure: no I/O, no clock, no goroutines, no logging. An [Identifier]
// is immutable and serves any number of connections at once.
//
// # Bytes that trickle in
//
// The identifiers that read bytes are asked again and again with all the bytes
// that the client has sent so far. These are looked at and never consumed or
// retained: the caller sends them to the node, once, when the user is known.
//
//   - Nothing is allocated before a decision, except by the regular expression engine
//     for its pooled working memory.
//   - A verdict other than [More] stays the same whatever comes later, and does not
//     depend on how the bytes were cut on their way.
//   - With [More] comes the least length at which asking again makes sense. A caller
//     that asks earlier loses little: [MQTT] takes a fixed number of steps a call, [SNI]
//     one for each of at most 64 records, [Pattern] looks for line ends in what is new and
//     counts those before, and runs its expression once for each line in all.
//
// # Keys
//
// A key is valid UTF-8 of 1 to [MaxKey] bytes without control characters or line
// separators: safe in a log line, a label or a page. A name that is longer, as tokens are, has
// its SHA-256 for a key, in hexadecimal digits after "sha256:". Two connections are of one user
// when their keys are equal byte by byte; case and normal form are not touched,
// except in server names.
package identify

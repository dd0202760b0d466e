// Package secrets keeps the key material that all fronts of a cluster share, so
// that a client may come back to any of them: TLS session tickets, QUIC address
// validation tokens, stateless resets and connection ids.
//
// A [Ring] is the material: a few secrets with their times, the newest first, and
// one that stays. It lies in one entry of Consul's key-value store or in a file;
// with neither, each front has a ring of its own in memory. What is used are keys
// derived from it ([Keys]), never the material itself.
//
// The fronts rotate by themselves. Whoever sees first that the newest secret is
// older than [Policy].Period writes a new one by check-and-set, so one of them wins
// and the others learn of it. A new secret is known to all before anybody encrypts
// with it (Policy.Grace), and an old one stays good for decrypting until it is
// Policy.Kept periods old. That bounds what somebody learns who gets hold of the
// ring: what was encrypted before is lost to them, and to us.
//
// How the pieces fit: the ring and its rotation are pure, with the time as an
// argument; a [Store] is where a ring lies, with two methods; a [Keeper] is the only
// one with a clock. Consul's client stands here and not in package configs, because
// the entry is no configuration: the fronts write it, nobody edits or reviews it, and
// it must not get into a history.
//
// No text of this package, errors and logs included, contains key material, except
// [Ring.Marshal].
package secrets

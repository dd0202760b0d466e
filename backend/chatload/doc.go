// Package chatload puts load on XMPP servers, anybody's: it logs users in, lets them
// write to each other, read their archives or be there and quiet, checks that
// nothing is lost, doubled or out of order, and tells how long it took and
// what it cost.
//
// It is the engine of `imlb bench chat`. What it measures shares the machine with what
// it measures with, so it is frugal: two goroutines a session, stanzas cut by
// [xmpp.Scanner] and looked at as bytes, everything that waits for a connection
// written at once.
package chatload

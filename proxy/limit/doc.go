// Package limit bounds what clients can cost a front: how many connections come
// in a second and are open at a time, how many of those have not logged in, how
// many bytes they move, and how many passwords they may guess. It decides and
// never does: time is an argument, a wait is a number that the caller waits for,
// and a refusal is a [Reason] that the caller counts and logs.
//
// # A connection
//
// [Guard.Accept] admits a connection and returns its [Ticket], which the caller
// tells what becomes of it: [Ticket.Behind] when a PROXY header names another
// source, [Ticket.Identified] when it says who it is, [Ticket.AuthFailed] or
// [Ticket.LoggedIn] when a node has answered that, [Ticket.Took] when bytes were
// moved, and [Ticket.Done] when it is over. A wait that is returned comes before
// the step that was asked for; the connection is counted meanwhile.
//
// # What is counted where
//
//	limit            source, listener, global    user
//	Rate             taken by Accept             taken by LoggedIn, looked at by Identified
//	Concurrent       connections                 logged in connections
//	Unauthenticated  those not logged in         those not logged in that claim the user
//	                                             from the same source
//	In, Out          bytes of connections        bytes of logged in connections
//
// A name is only a claim until a node has said yes. So claims never use up what
// a user has: else whoever knows a name could keep its owner out. All logins that
// were identified before the first of them succeeds have seen the same rate;
// each still takes its turn, so those who come later wait for all of them.
// LoggedIn itself makes sure that Concurrent is never exceeded.
//
// Above its rate a connection gets the next turn that is free, if that is at most
// Rate.MaxWait away; so Rate.MaxWait × Rate.PerSecond wait at most. A turn is
// used up also by a connection that does not wait for it. A connection that any
// scope refuses takes nothing from the others.
//
// # Access
//
// An address that is on a Deny list, be it the global or the listener's, is
// refused. An Allow list that is not empty refuses all that are not on it; with
// two such lists an address must be on both. How long a prefix is plays no part.
// On Exempt sources neither the limits nor the failures of sources count, nor are
// they the source of a user's claims: for proxies and gateways that many share.
//
// # Failed logins
//
// Failures are counted by (user, source), by source, and by user. A count is
// forgotten when Backoff.Window has passed since its last failure. The delay after
// failure n is 0 up to Steps.Free, then First, 2·First, 4·First … up to Max.
//
//	failures of     delay over           delay longer        logins at     a success
//	                Steps.Free           than MaxWait        a time
//	user + source   Backoff.Pair         refused until over  one (1)       clears it
//	source          Backoff.Source       refused until over  any number    leaves it
//	user            Backoff.User         cannot be           any number    clears it
//	overflow (2)    at most User.Max     cannot be           any number    leaves it (3)
//
//	(1) once failures and logins under way exceed Pair.Free, and there was a failure
//	(2) what finds no room in its table, see below
//	(3) it is shared by others
//
// The login must wait until the longest of the three delays has passed since the
// respective last failure. So who guesses passwords of one user from one place is
// down to one guess per Pair.Max; who tries many users from one place to one per
// Source.Max for each unauthenticated connection that the source may have; and who
// guesses one user's from many places makes each login of that user wait for up to
// User.Max, its owner's included, and can do no more to its owner: unlike the other
// delays this one never refuses. Who shares the user's own source can keep the user
// out there, for Pair.Max after each failure, and nowhere else.
//
// # Memory
//
// Sources, users, and users' claims by source have a table each of at most
// Rules.MaxEntries entries of about 90 bytes. It grows as needed, and does not
// shrink. What happens to an entry without connections depends on what would be
// lost with it:
//
//	nothing: buckets full, no failures     it is the first to go, for the next new one
//	little: buckets at least half full,    it goes, longest idle first, when the table
//	  failures up to Steps.Free (a user's:   is full
//	  any, for they delay only)
//	more                                   it stays
//
// A newcomer looks at the eight that were idle for longest. When none can go all
// newcomers of that part of the table share its overflow entry. Which part (of up
// to 64) is chosen by a hash that clients cannot know. So attackers squeeze each
// other, and whom the table knows goes on undisturbed:
//
//	in overflow   share
//	sources       all limits of one source; refused with ReasonOverflowSource
//	claims        failures, which delay and do not refuse; not User.Unauthenticated
//	users         failures, as above; once logged in they have no limits of their own
//
// Entries with connections stay; therefore MaxEntries should be well over the
// number of connections that the front is for, as it is by default when
// Global.Concurrent is set.
package limit

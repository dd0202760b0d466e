// Package bosh is the server's side of BOSH (XEP-0124) and of XMPP over it (XEP-0206),
// without the HTTP: it is told which requests have come and what there is for the client,
// and says which request is answered with what.
//
// [Parse] reads a request. A [Session] is what the requests of one client make together. It
// puts them in the order of their rids, holds those that may wait, and keeps the answers that
// the client may ask for again. It starts nothing and knows no clock: time is an argument,
// [Session.Deadline] is when [Session.Tick] has something to do, and [Session.Answers] is what
// the caller has to give out after each call.
//
// # What a client has received
//
// That an answer was written to a connection says nothing of whether it has arrived, and a
// client may ask for it again on another connection. So an answer is kept (§14.3), and what was
// in it counts as received when a later request shows that: one of a client that acknowledges
// answers (§9.2) says so. Of another client, a request for which there was no room with the
// older one still under way shows it; and so does one that brings nothing and comes after the
// answer was given, because who has a request under way has no reason to make that (§11).
// What may have crossed the answer shows nothing.
//
// # What bounds it
//
// A request is not answered before all that it brought was taken, by [Session.Next], but when
// there is something for the client and little was not taken: else two that wait for each
// other to read would do so for ever. As a client has [Session.Requests] requests under way at
// most, that bounds what waits for the node. What waits for the client is bounded by who sends
// it: see [Session.Queued].
//
// # What is left out
//
// What a server may leave out, and a client has to expect: several streams in a session (§16), which
// would be offered by an attribute stream; see-other-uri (§17.2); requests that are compressed, or not
// in UTF-8 (§7.2); and to tell a client that answers may be lost (§9.2). A client that asks for
// more than one request to be held is told that there will be one (§7.2), and the attribute route is
// ignored, since the domains that are served are known (§7.1). Requests that are pipelined on a connection are
// answered in their order, and those behind one that is held are not known until it is answered: a
// client that has but one connection should ask for none to be held.
package bosh

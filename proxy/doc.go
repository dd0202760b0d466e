// Package proxy is the front: it ends the clients' transports, finds out who each
// user is, pins the user to a node, and carries the session between the two legs.
//
// # The path of a session
//
// A session is one connection of a client, with an XML stream or with what the front
// does not read: TCP (with STARTTLS or direct TLS), a WebSocket, or one bidirectional
// stream of a QUIC connection. Or it is what the HTTP requests of a client of BOSH make
// together, whose connections are accepted and recorded by themselves. Its
// steps are the lines of [session.serve]: limit, source (PROXY header in),
// transport, greet, identify, connect (pick, dial, PROXY header out),
// authenticate, relay. Each fills its fields of the session's [Record]. However
// a session ends, it ends with one [ending], from which one place tells the
// client (RFC 6120 §4.9), writes the log line and counts.
//
// # Who owns what
//
// A session on TCP, with or without TLS, WebSockets and stanzas, belongs to a loop of
// package loop once it is relayed, and holds neither a goroutine nor a buffer while it is
// idle. Up to there one goroutine owns it, which may block; while it waits for a node,
// another one waits for the client to leave. Opaque sessions on TCP that need no handshake
// begin on a loop. QUIC streams, BOSH, and opaque WebSockets that agreed on
// compression, keep two goroutines: the first reads the node, and waits for the second,
// which reads the client, before it goes on. The connection that carries the session is
// closed by the owner alone, except that [Server] closes it when its patience at shutdown
// is over.
//
// # How it changes
//
// A session is served by its [terms], the configuration at the time when it was
// accepted, which never change. [Server.Apply] makes new ones for the sessions to
// come. A listener is a socket and the terms that it gives out; it stays as long
// as the configuration has something on its address.
//
// # What is never done
//
// The front does not authenticate: credentials pass through to the node, and the
// name it reads is a claim until the node says yes. It never writes part of a
// stanza: what goes to either leg are whole tokens. So a node may die at any
// byte, and the client still gets a stream that is well-formed to its end.
package proxy

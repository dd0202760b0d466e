// Package ws is the server's side of the WebSocket protocol (RFC 6455) after its opening
// handshake, for connections that block and for those that do not.
//
// A [Conn] takes what it reads apart in place, however that is cut, and answers what is
// for the protocol and not for the session: pings, close frames, and what is against the
// rules. Between two reads it keeps nothing but the part of a header, or of a control
// frame, of which the rest has not come. If what is under it has nothing to read, it says
// so with the error that it got, and goes on when it is called again. So it is at home on
// connections of package loop as on others.
//
// permessage-deflate (RFC 7692) is without context takeover: nothing is kept from message
// to message. A compressed message that has come in part is kept in a coroutine, which ends
// with the message or with Close.
package ws

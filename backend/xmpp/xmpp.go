// Package xmpp is the wire language of XMPP: addresses (RFC 7622), streams and
// stanzas (RFC 6120), WebSocket framing (RFC 7395), SASL frames and errors.
//
// It is pure: bytes and values in, bytes and values out. It does no I/O, knows
// no clock, logs nothing and starts no goroutine, so that the front and the chat
// node share it although they share nothing else.
//
// The [Scanner] cuts a byte stream into whole first-level elements and is the only
// place that decides whether input is acceptable. All else ([ParseElement],
// [ParseHeader], the Append functions) looks at, or rewrites, the raw bytes of an
// element that a Scanner let through, without building a tree.
package xmpp

// Namespaces of the protocols that imlb speaks.
const (
	NSClient     = "jabber:client"
	NSServer     = "jabber:server"
	NSStream     = "http://etherx.jabber.org/streams"
	NSStreams    = "urn:ietf:params:xml:ns:xmpp-streams" // stream error conditions
	NSStanzas    = "urn:ietf:params:xml:ns:xmpp-stanzas" // stanza error conditions
	NSTLS        = "urn:ietf:params:xml:ns:xmpp-tls"
	NSSASL       = "urn:ietf:params:xml:ns:xmpp-sasl"
	NSSASL2      = "urn:xmpp:sasl:2"    // XEP-0388
	NSSASLCB     = "urn:xmpp:sasl-cb:0" // XEP-0440
	NSFast       = "urn:xmpp:fast:0"    // XEP-0484
	NSBind2      = "urn:xmpp:bind:0"    // XEP-0386
	NSFront      = "urn:imlb:front:0"   // what a node tells the front alone
	NSBind       = "urn:ietf:params:xml:ns:xmpp-bind"
	NSSession    = "urn:ietf:params:xml:ns:xmpp-session"
	NSFraming    = "urn:ietf:params:xml:ns:xmpp-framing" // RFC 7395
	NSRoster     = "jabber:iq:roster"
	NSRosterVer  = "urn:xmpp:features:rosterver"
	NSSub        = "urn:xmpp:features:pre-approval"         // RFC 6121 §3.4: <sub/>
	NSVersion    = "jabber:iq:version"                      // XEP-0092
	NSDiscoInfo  = "http://jabber.org/protocol/disco#info"  // XEP-0030
	NSDiscoItems = "http://jabber.org/protocol/disco#items" // XEP-0030
	NSCaps       = "http://jabber.org/protocol/caps"        // XEP-0115
	NSCaps2      = "urn:xmpp:caps"                          // XEP-0390
	NSHashes     = "urn:xmpp:hashes:2"                      // XEP-0300
	NSPrivate    = "jabber:iq:private"                      // XEP-0049
	NSVCard      = "vcard-temp"                             // XEP-0054
	NSBlocking   = "urn:xmpp:blocking"                      // XEP-0191
	NSBlocked    = "urn:xmpp:blocking:errors"               // XEP-0191
	NSReporting  = "urn:xmpp:reporting:1"                   // XEP-0377
	NSLimits     = "urn:xmpp:stream-limits:0"               // XEP-0478
	NSSM         = "urn:xmpp:sm:3"                          // XEP-0198
	NSPing       = "urn:xmpp:ping"                          // XEP-0199
	NSDelay      = "urn:xmpp:delay"                         // XEP-0203
	NSCarbons    = "urn:xmpp:carbons:2"                     // XEP-0280
	NSForward    = "urn:xmpp:forward:0"                     // XEP-0297
	NSHints      = "urn:xmpp:hints"                         // XEP-0334
	NSChatStates = "http://jabber.org/protocol/chatstates"  // XEP-0085
	NSReceipts   = "urn:xmpp:receipts"                      // XEP-0184
	NSMarkers    = "urn:xmpp:chat-markers:0"                // XEP-0333
	NSStanzaID   = "urn:xmpp:sid:0"                         // XEP-0359
	NSMAM        = "urn:xmpp:mam:2"                         // XEP-0313
	NSRSM        = "http://jabber.org/protocol/rsm"         // XEP-0059
	NSDataForm   = "jabber:x:data"                          // XEP-0004
	NSCSI        = "urn:xmpp:csi:0"                         // XEP-0352
	NSTime       = "urn:xmpp:time"                          // XEP-0202
	NSLast       = "jabber:iq:last"                         // XEP-0012
	NSXML        = "http://www.w3.org/XML/1998/namespace"
	NSXMLNS      = "http://www.w3.org/2000/xmlns/"
)

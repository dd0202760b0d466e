package xmpp

// Namespaces of what users and administrators do with accounts.
const (
	NSRegister        = "jabber:iq:register"                     // XEP-0077
	NSRegisterFeature = "http://jabber.org/features/iq-register" // XEP-0077 §8
	NSCommands        = "http://jabber.org/protocol/commands"    // XEP-0050
	NSAdmin           = "http://jabber.org/protocol/admin"       // XEP-0133
)

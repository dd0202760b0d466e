package xmpp

// What a client has sent comes to others with more around it: the addresses, the language of the
// stream, a delay, a number, and in copies and answers of the archive three more elements. If
// fronts took no more of nodes than nodes take of clients, a client could send what its
// recipient can never be given. So there are three steps:
//
//   - nodes take less of clients (ClientDepth, ClientAttrs) than a Scanner does by default. What
//     they make of it is within the default, so that everybody can read it;
//   - fronts take of nodes many times as much (FromNode), because there are other nodes, with
//     limits of their own, and answers that no stanza of a client bounds, such as rosters;
//   - nodes of imlb send no element that is longer than SentMost, which is less than what any
//     front takes.
const (
	// ClientDepth is how deep the elements of a client may be nested, for nodes.
	ClientDepth = 56
	// ClientAttrs is how many attributes a tag of a client may have, and prefixes that are declared
	// at one place, for nodes.
	ClientAttrs = 56
	// SentMost is how long an element is at most that a node of imlb sends, in bytes.
	SentMost = 8 << 20
)

// Those of what a front takes of a node. They are there to have an end: what is nested costs a
// scanner 24 bytes for each element that is open, and attributes are compared with each other. Some servers
// bound but the length of what they are sent by others; no stanza of 512 KiB has more levels.
const (
	nodeDepth = 100_000
	nodeAttrs = 512
)

// FromNode are the limits of what a front takes of a node, whose elements may have maxBytes.
func FromNode(maxBytes int) Limits {
	return Limits{MaxBytes: max(maxBytes, SentMost), MaxDepth: nodeDepth, MaxAttrs: nodeAttrs}
}

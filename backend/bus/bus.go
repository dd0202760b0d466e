// Package bus carries signals between chat nodes on core NATS.
//
// Nothing on the bus has to last: the database remembers, a signal only says
// that there is something to read, or carries what is never stored (presence,
// IQ, chat states). A lost signal costs latency, never a message.
//
// A node hears the signals of a partition (a fixed share of all users) only while
// it hosts it, because interest is what costs memory on a NATS server, and
// users of one partition are pinned to the same node.
package bus

// Kind says what a signal is about.
type Kind byte

// The kinds of signals.
const (
	// Entry: an entry was appended to the user's timeline. Seq is its number and
	// Data the stanza, so that a node that is up to date need not read it.
	Entry Kind = 1 + iota
	// Stanza: a stanza for the user's sessions that is not stored. Target is
	// the resource, empty for all.
	Stanza
	// Control: a word among nodes about the user's sessions; Data is defined by
	// package backend.
	Control
)

// Signal is one message on the bus.
type Signal struct {
	Kind      Kind
	Partition uint16
	User      string // canonical bare JID whose sessions are meant
	Target    string // resource, or empty
	Seq       uint64 // of an Entry; of a Stanza that is a request, who answers if nobody takes it; defined by package backend
	Data      []byte // belongs to the receiver
}

// Handler receives the signals of hosted partitions, one at a time for each
// partition and in the order in which each sender sent them. It must not block.
type Handler func(Signal)

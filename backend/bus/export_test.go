package bus

import "time"

// Wire format, for tests.
var (
	AppendSignal     = appendSignal
	DecodeSignal     = decodeSignal
	SignalSubject    = signalSubject
	SubjectPartition = subjectPartition
	DecodeBeat       = decodeBeat
)

// Crash ends the bus as the death of its process would: nobody is told.
func (b *Bus) Crash() {
	b.closing.Do(func() {
		b.conn.Close()
		close(b.done)
		b.running.Wait()
		b.stopServer()
	})
}

// CutConnection breaks the node's own connection, which then comes back.
func (b *Bus) CutConnection() error { return b.conn.ForceReconnect() }

// LinkTest drives what a node knows about its links.
type LinkTest struct{ links links }

// NewLinkTest knows no node.
func NewLinkTest() LinkTest { return LinkTest{links: make(links)} }

// Hear returns "good", "new" or "broke".
func (l LinkTest) Hear(node, seq uint64, at time.Time) string {
	switch l.links.hear(beat{node: nodeID(node), seq: seq, name: "n"}, at) {
	case linkNew:
		return "new"
	case linkBroke:
		return "broke"
	case linkGood:
		return "good"
	default:
		return "?"
	}
}

// Expire returns how many were forgotten.
func (l LinkTest) Expire(at time.Time) int { return len(l.links.expire(at)) }

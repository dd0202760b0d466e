package bus

import (
	"encoding/binary"
	"errors"
	"time"
)

// Every node beats: it publishes a number that goes up by one each time. Whoever
// hears a number that does not follow the last one, or a node that it did not
// know, cannot know what else has passed by unheard.
const (
	beatEvery = time.Second

	// silence is how long a node may stay unheard before it is forgotten.
	silence = 3 * beatEvery

	// goodbye is the number of a node's last beat.
	goodbye = 0
)

var errBeat = errors.New("malformed beat")

// nodeID tells one run of a node from every other.
type nodeID uint64

// beat is a sign of life. On the wire: node and seq, 8 bytes each, big
// endian; the name.
type beat struct {
	node nodeID
	seq  uint64
	name string
}

func (b beat) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(b.node))
	dst = binary.BigEndian.AppendUint64(dst, b.seq)
	return append(dst, b.name...)
}

func decodeBeat(p []byte) (beat, error) {
	if len(p) < 16 {
		return beat{}, errBeat
	}
	return beat{
		node: nodeID(binary.BigEndian.Uint64(p)),
		seq:  binary.BigEndian.Uint64(p[8:]),
		name: string(p[16:]),
	}, nil
}

// links is what a node knows about its links to the others. It has no clock.
type links map[nodeID]peer

type peer struct {
	name string
	seq  uint64
	at   time.Time // of the last beat
}

// What a beat says about the link that it came by.
type link byte

const (
	linkGood  link = iota
	linkNew        // the node was not known: it may not know us either
	linkBroke      // beats are missing
)

// hear takes a beat in.
func (l links) hear(b beat, now time.Time) link {
	if b.seq == goodbye {
		delete(l, b.node)
		return linkGood
	}
	last, known := l[b.node]
	l[b.node] = peer{name: b.name, seq: b.seq, at: now}
	switch {
	case !known:
		return linkNew
	case b.seq != last.seq+1:
		return linkBroke
	default:
		return linkGood
	}
}

// expire forgets those that have been silent for too long, and returns their
// names. They are news when they are heard again.
func (l links) expire(now time.Time) (names []string) {
	for id, p := range l {
		if now.Sub(p.at) > silence {
			delete(l, id)
			names = append(names, p.name)
		}
	}
	return names
}

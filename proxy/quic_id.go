package proxy

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync/atomic"

	"github.com/quic-go/quic-go"
)

// connIDLen is the length of our connection ids.
const connIDLen = 1 + aes.BlockSize

// origin says where a connection id comes from.
type origin struct {
	front      uint32 // frontID of its name
	generation uint32 // of the process, and of its keys; chosen anew with each
}

// frontID is how connection ids name a front. Fronts without a name are all one.
func frontID(name string) uint32 {
	if name == "" {
		return 0
	}
	sum := sha256.Sum256([]byte(name))
	return binary.BigEndian.Uint32(sum[:])
}

// connIDs makes the connection ids of one process, and reads those of all fronts
// that share its key. It is a quic.ConnectionIDGenerator.
//
// An id is that of QUIC-LB (draft-ietf-quic-load-balancers) with a server id of 4
// bytes and a nonce of 12, encrypted in a single pass, so a balancer in front that
// knows the key can route by it, and nobody else can link two ids of a connection:
//
//	byte 0       3 bits that tell keys apart, 5 bits: the number of bytes that follow, 16
//	bytes 1–16   AES-128-ECB, one block:
//	             front       4  the server id: the first bytes of SHA-256 of the front's name
//	             generation  4  the process, and which keys of it
//	             check       2  zero: with the front's id it tells ours from what is random
//	             count       6  never the same within a process
//
// Numbers are big-endian.
type connIDs struct {
	block cipher.Block
	first byte
	self  origin
	count atomic.Uint64
}

func newConnIDs(key [16]byte, self origin) (*connIDs, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(key[:])
	// 7 is QUIC-LB's for ids that nobody can route by.
	c := &connIDs{block: block, first: sum[0]%7<<5 | aes.BlockSize, self: self}
	var start [8]byte
	_, _ = rand.Read(start[:]) // never fails
	c.count.Store(binary.BigEndian.Uint64(start[:]))
	return c, nil
}

// ConnectionIDLen returns the length of all ids.
func (*connIDs) ConnectionIDLen() int { return connIDLen }

// GenerateConnectionID returns an id that was not returned before.
func (c *connIDs) GenerateConnectionID() (quic.ConnectionID, error) {
	var id [connIDLen]byte
	id[0] = c.first
	plain := id[1:]
	binary.BigEndian.PutUint64(plain[8:], c.count.Add(1)&(1<<48-1)) // the check is 0
	binary.BigEndian.PutUint32(plain, c.self.front)
	binary.BigEndian.PutUint32(plain[4:], c.self.generation)
	c.block.Encrypt(plain, plain)
	return quic.ConnectionIDFromBytes(id[:]), nil
}

// decode tells where an id comes from; ok is false for one that was made with
// another key, or by somebody else. Something random passes once in 65,536 times,
// with a random origin. It works in plain, which would be allocated for each packet
// if it were its own.
func (c *connIDs) decode(id []byte, plain *[aes.BlockSize]byte) (from origin, ok bool) {
	if len(id) != connIDLen || id[0] != c.first {
		return origin{}, false
	}
	c.block.Decrypt(plain[:], id[1:])
	from = origin{front: binary.BigEndian.Uint32(plain[:]), generation: binary.BigEndian.Uint32(plain[4:])}
	return from, plain[8] == 0 && plain[9] == 0
}

// destination returns the connection id that a packet is for (RFC 8999 §5), as far
// as it can be ours; short tells whether the packet belongs to a connection that
// stands.
func destination(packet []byte) (id []byte, short bool) {
	const long = 0x80
	if len(packet) == 0 {
		return nil, false
	}
	if packet[0]&long == 0 {
		if len(packet) < 1+connIDLen {
			return nil, true
		}
		return packet[1 : 1+connIDLen], true
	}
	const before = 1 + 4 + 1 // the first byte, the version and the id's length
	if len(packet) < before+int(connIDLen) || packet[before-1] != connIDLen {
		return nil, false
	}
	return packet[before : before+connIDLen], false
}

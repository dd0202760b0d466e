package ws

import (
	"encoding/binary"
	"math/bits"
)

// mask masks p in place, or unmasks it, which is the same (RFC 6455 §5.3). The lowest byte
// of key is for p[0]; it returns the key for what follows p.
func mask(key uint32, p []byte) uint32 {
	key8 := uint64(key)<<32 | uint64(key)
	for len(p) >= 32 {
		for i := 0; i < 32; i += 8 {
			xor(p[i:i+8:i+8], key8)
		}
		p = p[32:]
	}
	for len(p) >= 8 {
		xor(p[:8], key8)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= byte(key) //nolint:gosec // G115: the lowest
		key = bits.RotateLeft32(key, -8)
	}
	return key
}

// xor masks eight bytes.
func xor(p []byte, key8 uint64) {
	binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^key8)
}

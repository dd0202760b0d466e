//go:build linux

package load

import (
	"bytes"
	"fmt"
)

const (
	// patternPeriod is prime, so that nothing that goes wrong by a power of two fits
	// again by chance.
	patternPeriod = 65521
	// patternMost is the longest piece of a stream that can be had at once.
	patternMost = 256 << 10
)

// Pattern is an endless stream of bytes that are known by their position: what is
// lost, doubled, swapped or another connection's is seen.
type Pattern struct {
	bytes []byte // one period, and so much of the next that every piece is in one
}

// NewPattern returns the pattern of arbitrary bytes.
func NewPattern() *Pattern {
	return newPattern(func(random uint64) byte { return byte(random >> 56) })
}

// NewTextPattern returns a pattern of the letters a to z.
func NewTextPattern() *Pattern {
	return newPattern(func(random uint64) byte { return 'a' + byte(random>>56)%26 })
}

func newPattern(letter func(random uint64) byte) *Pattern {
	p := &Pattern{bytes: make([]byte, patternPeriod+patternMost)}
	state := uint64(1)
	for i := range patternPeriod {
		state = state*6364136223846793005 + 1442695040888963407 // Knuth's MMIX
		p.bytes[i] = letter(state)
	}
	for i := patternPeriod; i < len(p.bytes); i++ {
		p.bytes[i] = p.bytes[i-patternPeriod]
	}
	return p
}

// At returns n bytes, at most patternMost, from a position on. They are not to be
// changed.
func (p *Pattern) At(pos uint64, n int) []byte {
	start := pos % patternPeriod
	return p.bytes[start:][:min(n, patternMost)]
}

// Check tells whether got is what belongs at the position.
func (p *Pattern) Check(pos uint64, got []byte) error {
	for len(got) > 0 {
		want := p.At(pos, len(got))
		if !bytes.Equal(got[:len(want)], want) {
			return mismatch(pos, got, want)
		}
		pos += uint64(len(want))
		got = got[len(want):]
	}
	return nil
}

// MismatchError says that bytes were wrong.
type MismatchError struct {
	Position  uint64 // of the first wrong byte in its stream
	Got, Want byte
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("wrong byte at position %d: %#02x instead of %#02x", e.Position, e.Got, e.Want)
}

func mismatch(pos uint64, got, want []byte) error {
	for i := range want {
		if got[i] != want[i] {
			return &MismatchError{Position: pos + uint64(i), Got: got[i], Want: want[i]} //nolint:gosec // an index
		}
	}
	return nil
}

// origin spreads the streams of connections over the pattern: no two of the first
// 65,521 begin at the same byte.
func origin(seed uint64) uint64 { return seed % patternPeriod * 25117 % patternPeriod }

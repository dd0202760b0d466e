//go:build linux

package load_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"imlb/test/bench/load"
)

func TestPattern(t *testing.T) {
	t.Parallel()
	p := load.NewPattern()
	for _, pos := range []uint64{0, 1, 65520, 65521, 65522, 1 << 40} {
		for _, n := range []int{1, 64, 65521, 65522, 256 << 10} {
			piece := slices.Clone(p.At(pos, n))
			if len(piece) != n {
				t.Fatalf("%d bytes at %d for %d", len(piece), pos, n)
			}
			if err := p.Check(pos, piece); err != nil {
				t.Errorf("%d bytes at %d: %v", n, pos, err)
			}
		}
	}
}

// A stream is checked in other pieces than it was made of, and in longer ones.
func TestPatternInPieces(t *testing.T) {
	t.Parallel()
	p := load.NewPattern()
	var stream []byte
	for len(stream) < 1<<20 {
		stream = append(stream, p.At(uint64(7+len(stream)), 1+rand.IntN(100_000))...)
	}
	if err := p.Check(7, stream); err != nil {
		t.Error(err)
	}
	if err := p.Check(7+300, stream[300:]); err != nil {
		t.Error(err)
	}
}

func TestPatternSeesWhatIsWrong(t *testing.T) {
	t.Parallel()
	p := load.NewPattern()
	good := slices.Clone(p.At(1000, 4096))
	harm := map[string]func([]byte) []byte{
		"a flipped bit":   func(b []byte) []byte { b[4095] ^= 1; return b },
		"a lost byte":     func(b []byte) []byte { return slices.Delete(b, 100, 101) },
		"a doubled byte":  func(b []byte) []byte { return slices.Insert(b, 100, b[100]) },
		"swapped blocks":  func(b []byte) []byte { return slices.Concat(b[1024:2048], b[:1024], b[2048:]) },
		"a lost block":    func(b []byte) []byte { return slices.Delete(b, 1024, 2048) },
		"another stream":  func([]byte) []byte { return slices.Clone(p.At(1001, 4096)) },
		"a stream of nil": func(b []byte) []byte { return make([]byte, len(b)) },
	}
	for name, do := range harm {
		err := p.Check(1000, do(slices.Clone(good)))
		var wrong *load.MismatchError
		if !errors.As(err, &wrong) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := slices.Clone(good)
	bad[77] ^= 0xff
	var wrong *load.MismatchError
	if err := p.Check(1000, bad); !errors.As(err, &wrong) || wrong.Position != 1077 {
		t.Errorf("position of the wrong byte: %+v", wrong)
	}
}

func TestTextPattern(t *testing.T) {
	t.Parallel()
	for _, b := range load.NewTextPattern().At(5, 100_000) {
		if b < 'a' || b > 'z' {
			t.Fatalf("%q in a text", b)
		}
	}
}

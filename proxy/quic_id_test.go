package proxy_test

import (
	"bytes"
	"testing"

	"imlb/proxy"
)

func connIDs(t testing.TB, key byte, front string, generation uint32) proxy.ConnIDs {
	t.Helper()
	ids, err := proxy.NewConnIDs([16]byte{key}, front, generation)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// Connection ids tell their front and generation to who has the key, and nothing to
// others: two of them look unlike.
func TestConnectionIDs(t *testing.T) {
	t.Parallel()
	old, now, other := connIDs(t, 1, "a", 7), connIDs(t, 1, "a", 8), connIDs(t, 1, "b", 7)
	stranger := connIDs(t, 2, "a", 7)
	seen := make(map[string]bool)
	for range 1000 {
		id, err := old.Generate()
		if err != nil || id.Len() != 17 || id.Bytes()[0]&0x1f != 16 || id.Bytes()[0]>>5 == 7 || seen[id.String()] {
			t.Fatalf("id %v, %v", id, err)
		}
		seen[id.String()] = true
		if generation, own, ok := now.Decode(id.Bytes()); generation != 7 || !own || !ok {
			t.Fatalf("the next process reads %d, %t, %t", generation, own, ok)
		}
		if generation, own, ok := other.Decode(id.Bytes()); generation != 7 || own || !ok {
			t.Fatalf("another front reads %d, %t, %t", generation, own, ok)
		}
		if _, _, ok := stranger.Decode(id.Bytes()); ok {
			t.Fatal("it can be read with another key")
		}
		if _, _, ok := now.Decode(id.Bytes()[:16]); ok {
			t.Fatal("half an id can be read")
		}
	}
	a, _ := old.Generate()
	b, _ := old.Generate()
	if same := common(a.Bytes()[1:], b.Bytes()[1:]); same > 4 {
		t.Errorf("%v and %v have %d bytes in common", a, b, same)
	}
}

func common(a, b []byte) int {
	n := 0
	for i := range a {
		if a[i] == b[i] {
			n++
		}
	}
	return n
}

func TestPacketsLetIn(t *testing.T) {
	t.Parallel()
	ids := connIDs(t, 1, "a", 8)
	packet := func(first byte, from proxy.ConnIDs) []byte {
		id, err := from.Generate()
		if err != nil {
			t.Fatal(err)
		}
		if first < 0x80 {
			return append(append([]byte{first}, id.Bytes()...), make([]byte, 40)...)
		}
		return append(append([]byte{first, 0, 0, 0, 1, 17}, id.Bytes()...), make([]byte, 1200)...)
	}
	random := append([]byte{0xc0, 0, 0, 0, 1, 8}, make([]byte, 1200)...)
	for _, c := range []struct {
		name     string
		packet   []byte
		in, held bool // whether it is wanted, and while handshakes are held up
	}{
		{"of ours", packet(0x40, ids), true, true},
		{"of the process before", packet(0x40, connIDs(t, 1, "a", 7)), true, true},
		{"of another front", packet(0x40, connIDs(t, 1, "b", 8)), false, false},
		{"with another key", packet(0x40, connIDs(t, 2, "b", 8)), true, true}, // maybe a reset for us
		{"short", []byte{0x40, 1, 2}, true, true},
		{"empty", nil, true, false},
		{"first of a handshake", random, true, false},
		{"later in a handshake", packet(0xe0, ids), true, true},
		{"cut off", random[:5], true, false},
		{"cut off in the id", packet(0xc0, ids)[:20], true, false},
	} {
		if in, held := ids.Wanted(c.packet, false), ids.Wanted(c.packet, true); in != c.in || held != c.held {
			t.Errorf("%s: %t, held up %t", c.name, in, held)
		}
	}
}

// Small packets of connections of a process of this front that is gone are answered here.
func TestPacketsReset(t *testing.T) {
	t.Parallel()
	ids, gone, other := connIDs(t, 1, "a", 8), connIDs(t, 1, "a", 7), connIDs(t, 1, "b", 7)
	packet := func(first byte, from proxy.ConnIDs, size int) []byte {
		id, err := from.Generate()
		if err != nil {
			t.Fatal(err)
		}
		return append(append([]byte{first}, id.Bytes()...), make([]byte, size)...)[:size]
	}
	for _, c := range []struct {
		name   string
		packet []byte
		want   bool
	}{
		{"smallest", packet(0x40, gone, 22), true},
		{"too small", packet(0x40, gone, 21), false},
		{"largest", packet(0x40, gone, 42), true},
		{"quic-go's", packet(0x40, gone, 43), false},
		{"of this process", packet(0x40, ids, 40), false},
		{"of another front", packet(0x40, other, 40), false},
		{"with another key", packet(0x40, connIDs(t, 2, "a", 7), 40), false},
		{"long header", packet(0xe0, gone, 40), false},
	} {
		if got := ids.Resets(c.packet); got != c.want {
			t.Errorf("%s: answered %t, want %t", c.name, got, c.want)
		}
	}
}

func FuzzConnectionID(f *testing.F) {
	ids := connIDs(f, 1, "a", 8)
	good, err := ids.Generate()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{0x40}, good.Bytes()...))
	f.Add(append([]byte{0xc0, 0, 0, 0, 1, 17}, good.Bytes()...))
	f.Add([]byte{0xc0, 0, 0, 0, 1, 20})
	f.Fuzz(func(t *testing.T, packet []byte) {
		before := bytes.Clone(packet)
		for _, hold := range []bool{false, true} {
			ids.Wanted(packet, hold)
		}
		ids.Decode(packet)
		if !bytes.Equal(packet, before) {
			t.Error("looking at a packet changes it")
		}
	})
}

func BenchmarkPacketLetIn(b *testing.B) {
	ids := connIDs(b, 1, "a", 8)
	id, err := ids.Generate()
	if err != nil {
		b.Fatal(err)
	}
	packet := append(append([]byte{0x40}, id.Bytes()...), make([]byte, 1200)...)
	b.ReportAllocs()
	for b.Loop() {
		ids.Wanted(packet, false)
	}
}

func TestBufferCure(t *testing.T) {
	t.Parallel()
	const enough, little = proxy.UDPBuffer, 425984
	for _, c := range []struct {
		receive, send int
		want          string
	}{
		{enough, enough, ""},
		{little, enough, "sysctl -w net.core.rmem_max=7340032"},
		{enough, little, "sysctl -w net.core.wmem_max=7340032"},
		{little, little, "sysctl -w net.core.rmem_max=7340032 net.core.wmem_max=7340032"},
	} {
		if got := proxy.BufferCure(c.receive, c.send); got != c.want {
			t.Errorf("%d and %d: %q", c.receive, c.send, got)
		}
	}
}

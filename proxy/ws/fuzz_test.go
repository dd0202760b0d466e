package ws_test

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"imlb/proxy/ws"
)

// However its bytes are cut, and though a deadline passes at each cut, a client has sent the
// same, gets the same answers, but for those to pings that others follow, and ends the same way. Only how much comes before something is found to be no text depends on the
// cuts, and what is found first in what is compressed.
func FuzzCuts(f *testing.F) {
	for _, seed := range []string{
		frame(data, "hello") + frame(ping, "x") + frame(closing, status(ws.Normal, "bye")),
		frame(text&noFin, "\xf0\x9f") + frame(pong, "") + frame(last, "\x99\x82"),
		frame(data, string(make([]byte, 200))),
		frame(0xc2, "\xf2\x48\xcd\xc9\xc9\x07\x00") + frame(0x41, "\xca\x48") + frame(last, "\xcd"),
		"\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00abcd",
	} {
		f.Add([]byte(seed), uint16(1), false)
		f.Add([]byte(seed), uint16(7), true)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16, deflate bool) {
		run := func(cut int) (read, wrote, end string) {
			s := &script{in: append([]byte(nil), in...), cut: cut, end: io.EOF}
			conn := ws.New(&interrupted{script: s}, ws.Config{Deflate: deflate})
			defer conn.Close()
			read, err := readOn(conn, max(cut, 1))
			return read, lastPong(s.out.String()), err.Error()
		}
		read1, wrote1, end1 := run(1 << 20)
		read2, wrote2, end2 := run(max(int(cut), 1))
		if refused(wrote1, ws.InvalidData) && refused(wrote2, ws.InvalidData) {
			return
		}
		if both := []ws.Status{ws.ProtocolError, ws.InvalidData}; deflate && refused(wrote1, both...) && refused(wrote2, both...) {
			return
		}
		if wrote1 != wrote2 || end1 != end2 {
			t.Fatalf("whole: wrote %q and ended with %q; cut: wrote %q and ended with %q", wrote1, end1, wrote2, end2)
		}
		if read1 != read2 {
			t.Fatalf("whole: read %q; cut: read %q", read1, read2)
		}
	})
}

// lastPong takes away all pongs but the last.
func lastPong(wrote string) string {
	pong := ""
	for len(wrote) >= 2 && wrote[0] == '\x8a' {
		n := 2 + int(wrote[1])
		pong, wrote = wrote[:n], wrote[n:]
	}
	return pong + wrote
}

// refused tells whether what was written ends with one of the statuses.
func refused(wrote string, statuses ...ws.Status) bool {
	return slices.ContainsFunc(statuses, func(s ws.Status) bool {
		return strings.HasSuffix(wrote, "\x88\x02"+status(s, ""))
	})
}

// Text is refused when it is not UTF-8, however it is cut into frames.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "abc", "Grüße, 世界 🙂", "\xff", "\xed\xa0\x80", "a\xc3", "\xf4\x90\x80\x80"} {
		f.Add(s, uint8(1))
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, s string, cut uint8) {
		in, first, rest := "", byte(text), s
		for cut := max(int(cut), 1); len(rest) > cut; rest = rest[cut:] {
			in += frame(first&noFin, rest[:cut])
			first = last
		}
		in += frame(first, rest)
		got, err := readAll(ws.New(&script{in: []byte(in), cut: len(in), end: io.EOF}, ws.Config{}), len(in)+1)
		if valid := utf8.ValidString(s); valid != errors.Is(err, io.EOF) || valid && got != s {
			t.Errorf("%q: read %q, %v", s, got, err)
		}
	})
}

// What is masked byte by byte is unmasked eight at a time.
func FuzzMask(f *testing.F) {
	f.Add([]byte("hello, world, this is longer than thirty-two bytes"), uint32(0x12345678), uint8(3))
	f.Fuzz(func(t *testing.T, p []byte, k uint32, cut uint8) {
		var key [4]byte
		binary.LittleEndian.PutUint32(key[:], k)
		in := binary.BigEndian.AppendUint64([]byte{data, 0xff}, uint64(len(p)))
		in = append(in, key[:]...)
		for i, b := range p {
			in = append(in, b^key[i%4])
		}
		got, err := readAll(ws.New(&script{in: in, cut: max(int(cut), 1), end: io.EOF}, ws.Config{}), 300)
		if got != string(p) || !errors.Is(err, io.EOF) {
			t.Errorf("read %q, %v, want %q", got, err, p)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{64, 1 << 10, 32 << 10} {
		b.Run(sizeName(size), func(b *testing.B) {
			in := []byte(frame(data, string(make([]byte, size))))
			s, raw, buf := &script{cut: 1 << 20, end: io.EOF}, make([]byte, len(in)), make([]byte, 64<<10)
			conn := ws.New(s, ws.Config{})
			b.SetBytes(int64(size))
			for b.Loop() {
				copy(raw, in)
				s.in = raw
				if n, err := conn.Read(buf); n != size {
					b.Fatal(n, err)
				}
			}
		})
	}
}

func sizeName(n int) string {
	if n < 1<<10 {
		return "64B"
	}
	return map[int]string{1 << 10: "1KiB", 32 << 10: "32KiB"}[n]
}

package ws_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"imlb/proxy/ws"
)

// What a client sends, however it is cut, what is read of it, what it is answered, and how
// it ends.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789abcdef", 8<<10)
	for name, c := range map[string]struct {
		in, read, out string
		end           error // io.EOF, a *ws.CloseError, or errAgain
		refused       ws.Status
	}{
		"nothing":            {"", "", "", errAgain, 0},
		"a message":          {frame(data, "hello"), "hello", "", errAgain, 0},
		"text":               {frame(text, "Grüße, 世界 🙂"), "Grüße, 世界 🙂", "", errAgain, 0},
		"an empty one":       {frame(data, "") + frame(text, "x"), "x", "", errAgain, 0},
		"of 125 bytes":       {frame(data, long[:125]), long[:125], "", errAgain, 0},
		"of 126":             {frame(data, long[:126]), long[:126], "", errAgain, 0},
		"of 65535":           {frame(data, long[:65535]), long[:65535], "", errAgain, 0},
		"of 65536":           {frame(data, long[:65536]), long[:65536], "", errAgain, 0},
		"in parts":           {frame(data&noFin, "a") + frame(more, "") + frame(more, "b") + frame(last, "c"), "abc", "", errAgain, 0},
		"text cut anywhere":  {frame(text&noFin, "\xf0\x9f") + frame(more, "\x99") + frame(last, "\x82"), "🙂", "", errAgain, 0},
		"ping":               {frame(ping, ""), "", "\x8a\x00", errAgain, 0},
		"ping with payload":  {frame(ping, long[:125]), "", "\x8a\x7d" + long[:125], errAgain, 0},
		"ping between parts": {frame(data&noFin, "a") + frame(ping, "p") + frame(last, "b"), "ab", "\x8a\x01p", errAgain, 0},
		"pong":               {frame(pong, "p") + frame(data, "x"), "x", "", errAgain, 0},

		"close":                 {frame(data, "x") + frame(closing, status(ws.Normal, "bye")), "x", "\x88\x02\x03\xe8", io.EOF, 0},
		"close without status":  {frame(closing, ""), "", "\x88\x00", io.EOF, 0},
		"going away":            {frame(closing, status(ws.GoingAway, "")), "", "\x88\x02\x03\xe9", io.EOF, 0},
		"close between parts":   {frame(data&noFin, "a") + frame(closing, ""), "a", "\x88\x00", io.EOF, 0},
		"close, and then more":  {frame(closing, "") + frame(data, "x") + frame(ping, ""), "", "\x88\x00", io.EOF, 0},
		"close with an error":   {frame(closing, status(3001, "oh")), "", "\x88\x02\x0b\xb9", &ws.CloseError{Status: 3001, Reason: "oh"}, 0},
		"half a status":         {frame(closing, "\x03"), "", "", nil, ws.ProtocolError},
		"status 999":            {frame(closing, status(999, "")), "", "", nil, ws.ProtocolError},
		"status 1005":           {frame(closing, status(1005, "")), "", "", nil, ws.ProtocolError},
		"status 1006":           {frame(closing, status(1006, "")), "", "", nil, ws.ProtocolError},
		"status 2000":           {frame(closing, status(2000, "")), "", "", nil, ws.ProtocolError},
		"status 5000":           {frame(closing, status(5000, "")), "", "", nil, ws.ProtocolError},
		"a reason not of UTF-8": {frame(closing, status(ws.Normal, "\xff")), "", "", nil, ws.InvalidData},

		"reserved bit 1":               {frame(data|0x40, "x"), "", "", nil, ws.ProtocolError},
		"reserved bit 2":               {frame(data|0x20, "x"), "", "", nil, ws.ProtocolError},
		"reserved bit 3":               {frame(data|0x10, "x"), "", "", nil, ws.ProtocolError},
		"reserved opcode":              {frame(0x83, "x"), "", "", nil, ws.ProtocolError},
		"reserved control opcode":      {frame(0x8b, "x"), "", "", nil, ws.ProtocolError},
		"not masked":                   {"\x82\x00", "", "", nil, ws.ProtocolError},
		"a ping in parts":              {frame(ping&noFin, ""), "", "", nil, ws.ProtocolError},
		"a ping of 126 bytes":          {frame(ping, long[:126]), "", "", nil, ws.ProtocolError},
		"a continuation of nothing":    {frame(last, "x"), "", "", nil, ws.ProtocolError},
		"one after the end":            {frame(data, "x") + frame(last, "y"), "x", "", nil, ws.ProtocolError},
		"a message inside another":     {frame(data&noFin, "x") + frame(data, "y"), "x", "", nil, ws.ProtocolError},
		"a length of 2^63":             {"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "", "", nil, ws.ProtocolError},
		"text not of UTF-8":            {frame(text, "a\xc3("), "", "", nil, ws.InvalidData},
		"text that ends in the middle": {frame(text, "a") + frame(text, "\xe4\xb8"), "a", "", nil, ws.InvalidData},
		"a surrogate":                  {frame(text, "\xed\xa0\x80"), "", "", nil, ws.InvalidData},
		"binary not of UTF-8":          {frame(data, "\xff\xfe"), "\xff\xfe", "", errAgain, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, cut := range []int{1, 2, 3, 5, 13, 4096, 1 << 20} {
				for _, early := range []int{0, 1, len(c.in)} {
					s := &script{in: []byte(c.in), cut: cut, end: errAgain}
					early = min(early, len(s.in))
					conn := ws.New(s, ws.Config{Early: s.in[:early]})
					s.in = s.in[early:]
					read, err := readAll(conn, min(cut, 64<<10))
					if c.refused != 0 {
						c.out = "\x88\x02" + status(c.refused, "")
						var v *ws.Violation
						if !errors.As(err, &v) || v.Status != c.refused {
							t.Errorf("cut at %d: ended with %v, want %d", cut, err, c.refused)
						}
					} else if err == nil || err.Error() != c.end.Error() {
						t.Errorf("cut at %d: ended with %v, want %v", cut, err, c.end)
					}
					// Of text that is refused, what came in an earlier read has been passed on.
					if read != c.read && (c.refused != ws.InvalidData || !strings.HasPrefix(c.in, "\x81")) {
						t.Errorf("cut at %d: read %.40q, want %.40q", cut, read, c.read)
					}
					if got := s.out.String(); got != c.out {
						t.Errorf("cut at %d: wrote %.40q, want %.40q", cut, got, c.out)
					}
				}
			}
		})
	}
}

// Where all is to be binary, text is refused as soon as it begins.
func TestOnlyBinary(t *testing.T) {
	t.Parallel()
	s := &script{in: []byte(frame(data, "x") + "\x01\x81"), cut: 1, end: errAgain}
	read, err := readAll(ws.New(s, ws.Config{OnlyBinary: true}), 10)
	var v *ws.Violation
	if read != "x" || !errors.As(err, &v) || s.out.String() != "\x88\x02\x03\xeb" {
		t.Errorf("read %q, %v, answered %q", read, err, s.out.String())
	}
}

// What is written are binary messages, in one frame each, and not masked.
func TestWrite(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 125, 126, 4085, 4086, 4096, 65535, 65536, 1 << 17} {
		payload := bytes.Repeat([]byte("x"), n)
		head := map[bool]string{true: string([]byte{0x82, byte(n)}), false: string([]byte{0x82, 126, byte(n >> 8), byte(n)})}[n < 126]
		if n > 0xffff {
			head = string([]byte{0x82, 127, 0, 0, 0, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)})
		}
		s := &script{}
		if got, err := ws.New(s, ws.Config{}).Write(payload); got != n || err != nil {
			t.Errorf("wrote %d of %d, %v", got, n, err)
		}
		if want := head + string(payload); s.out.String() != want {
			t.Errorf("wrote %.40q, want %.40q", s.out.String(), want)
		}
		s = &script{}
		b := ws.Begin([]byte("before"))
		if got := string(ws.New(s, ws.Config{}).Seal(append(b, payload...), len("before"), ws.Binary)); got != "before"+head+string(payload) {
			t.Errorf("sealed %.40q", got)
		}
	}
}

// After the close frame nothing is written, and what still comes is read until the client
// has answered.
func TestShut(t *testing.T) {
	t.Parallel()
	s := &script{in: []byte(frame(data, "late") + frame(ping, "") + frame(closing, status(ws.GoingAway, ""))), cut: 1 << 10}
	conn := ws.New(s, ws.Config{Backlog: s})
	if err := conn.Shut(ws.ServiceRestart, "shutdown"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, ws.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
	if err := conn.Shut(ws.Normal, ""); !errors.Is(err, ws.ErrClosed) {
		t.Errorf("Shut: %v", err)
	}
	if got, err := readAll(conn, 100); got != "late" || !errors.Is(err, io.EOF) {
		t.Errorf("read %q, %v", got, err)
	}
	if got, want := s.out.String(), "\x88\x0a"+status(ws.ServiceRestart, "shutdown"); got != want {
		t.Errorf("wrote %q, want %q", got, want)
	}
	if err := conn.CloseWrite(); err != nil || !s.ended {
		t.Errorf("CloseWrite: %v, and ended: %v", err, s.ended)
	}
	if s.awaited != 1 {
		t.Errorf("the time for the answer began %d times", s.awaited)
	}
}

// As long as a client does not read, its pings cost no more than one pong.
func TestBacklog(t *testing.T) {
	t.Parallel()
	s := &script{in: []byte(frame(ping, "1") + frame(ping, "2") + frame(data, "x")), cut: 1 << 10, end: errAgain, pending: 1}
	conn := ws.New(s, ws.Config{Backlog: s})
	if got, err := readAll(conn, 100); got != "x" || !errors.Is(err, errAgain) {
		t.Errorf("read %q, %v", got, err)
	}
	if s.out.Len() > 0 {
		t.Errorf("wrote %q", s.out.String())
	}
	s.pending = 0
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, errAgain) {
		t.Error(err)
	}
	if got := s.out.String(); got != "\x8a\x012" {
		t.Errorf("wrote %q, want a pong for the last", got)
	}
}

// However many pings come at once, one is answered, and one that nothing follows is
// answered at once.
func TestPings(t *testing.T) {
	t.Parallel()
	s := &script{in: []byte(strings.Repeat(frame(ping, "1"), 1000) + frame(data, "x") + frame(ping, "2") + frame(pong, "")), cut: 1 << 20, end: errAgain}
	conn := ws.New(s, ws.Config{Backlog: s})
	if n, err := conn.Read(make([]byte, 1<<20)); n != 1 || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if got := s.out.String(); got != "\x8a\x012" || s.writes != 1 {
		t.Errorf("wrote %.40q at %d times, want a pong for the last", got, s.writes)
	}
	s.in = []byte(frame(ping, "3"))
	if n, err := conn.Read(make([]byte, 100)); n != 0 || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if got := s.out.String(); got != "\x8a\x012\x8a\x013" {
		t.Errorf("wrote %q", got)
	}
}

// What comes besides the bytes of messages is known.
func TestExtra(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"messages":       frame(data, "hello") + frame(text&noFin, "wor") + frame(last, "ld"),
		"pings":          frame(ping, "") + frame(data, "helloworld") + frame(ping, "1234"),
		"empty messages": frame(data, "helloworld") + strings.Repeat(frame(data, ""), 100),
	} {
		for _, early := range []int{0, 3} {
			s := &script{in: []byte(in[early:]), cut: 7, end: errAgain}
			conn := ws.New(s, ws.Config{Early: []byte(in[:early])})
			if got, err := readAll(conn, 100); got != "helloworld" || !errors.Is(err, errAgain) {
				t.Errorf("%s: read %q, %v", name, got, err)
			}
			if got, want := conn.Extra(), int64(len(in)-len("helloworld")); got != want {
				t.Errorf("%s: %d bytes besides, want %d", name, got, want)
			}
		}
	}
}

// Parts come with their bounds.
func TestParts(t *testing.T) {
	t.Parallel()
	in := []byte(frame(text&noFin, "ab") + frame(ping, "") + frame(last, "c") + frame(data, "") + frame(text, "d"))
	conn := ws.New(&script{}, ws.Config{})
	var got []string
	for {
		part, rest, err := conn.Next(in)
		if err != nil {
			t.Fatal(err)
		}
		if in = rest; part.Op == 0 {
			break
		}
		s := map[ws.Op]string{ws.Text: "text ", ws.Binary: "binary "}[part.Op] + string(part.Payload)
		if part.Last {
			s += "."
		}
		got = append(got, s)
	}
	if s := strings.Join(got, " "); s != "text ab text c. binary . text d." {
		t.Errorf("got %q", s)
	}
}

// Nothing is allocated for a message.
func TestAllocs(t *testing.T) {
	in := []byte(strings.Repeat(frame(data, "hello")+frame(pong, "x")+frame(ping, "x"), 10))
	s := &script{cut: 1 << 10, end: errAgain}
	conn, buf, raw := ws.New(s, ws.Config{}), make([]byte, 4<<10), make([]byte, len(in))
	got := testing.AllocsPerRun(100, func() {
		copy(raw, in)
		s.in = raw
		if n, err := conn.Read(buf); n != 50 || err != nil {
			t.Fatal(n, err)
		}
		s.out.Reset()
		if _, err := conn.Write(buf[:50]); err != nil {
			t.Fatal(err)
		}
	})
	if got > 0 && !raceEnabled {
		t.Errorf("%v allocations", got)
	}
}

// slow is a connection that takes some bytes after each deadline that is set, and no more.
type slow struct {
	*script
	takes, left, deadlines int
}

func (s *slow) SetWriteDeadline(time.Time) error {
	s.left = s.takes
	s.deadlines++
	return nil
}

func (s *slow) Write(p []byte) (int, error) {
	n := min(len(p), s.left)
	s.left -= n
	s.out.Write(p[:n])
	if n < len(p) {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

// A peer that takes each piece in time gets all of something long. One that does not is told of
// by an error, and gets it in one piece all the same when it reads again.
func TestSendWithin(t *testing.T) {
	t.Parallel()
	long := ws.Begin(nil)
	for i := range 3*ws.Piece + 1000 {
		long = append(long, byte('a'+i%26))
	}
	for takes, want := range map[int]error{ws.Piece: nil, 1000: os.ErrDeadlineExceeded, 0: os.ErrDeadlineExceeded} {
		s := &slow{script: new(script), takes: takes}
		conn := ws.New(s, ws.Config{})
		sealed := conn.Seal(slices.Clone(long), 0, ws.Text)
		if err := conn.SendWithin(time.Second, sealed); !errors.Is(err, want) {
			t.Errorf("takes %d: %v, want %v", takes, err, want)
		}
		if want == nil && s.deadlines != 4 {
			t.Errorf("%d deadlines", s.deadlines)
		}
		s.takes = len(sealed) + 100
		s.SetWriteDeadline(time.Time{})
		if err := conn.Send([]byte("next")); err != nil {
			t.Errorf("takes %d: %v", takes, err)
		}
		if takes > 0 {
			if got := s.out.String(); got != string(sealed)+"next" {
				t.Errorf("takes %d: %d bytes came, want %d and 4", takes, len(got), len(sealed))
			}
		}
	}
}

package ws_test

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"imlb/proxy/ws"
)

// packed is the payload of a compressed message, as another implementation would make it.
func packed(t testing.TB, s string) string {
	t.Helper()
	var buf bytes.Buffer
	w, err := flate.NewWriter(&buf, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, s)
	w.Flush()
	return strings.TrimSuffix(buf.String(), "\x00\x00\xff\xff")
}

// Messages are compressed each by itself, in one frame or several (RFC 7692).
func TestInflate(t *testing.T) {
	t.Parallel()
	const rsv1 = 0x40
	long := strings.Repeat("all the same ", 10000)
	p := packed(t, long)
	for name, c := range map[string]struct {
		in, read string
		refused  ws.Status
	}{
		"plain":               {frame(data, "x"), "x", 0},
		"compressed":          {frame(data|rsv1, p), long, 0},
		"of the RFC":          {frame(text|rsv1, "\xf2\x48\xcd\xc9\xc9\x07\x00"), "Hello", 0},
		"in parts":            {frame((text&noFin)|rsv1, "\xf2\x48\xcd") + frame(ping, "") + frame(last, "\xc9\xc9\x07\x00"), "Hello", 0},
		"one by one":          {frame(data|rsv1, p) + frame(data, "x") + frame(data|rsv1, p), long + "x" + long, 0},
		"with a last block":   {frame((text&noFin)|rsv1, "\xf3\x48\xcd\xc9\xc9\x07") + frame(last, "\x00") + frame(text, "x"), "Hellox", 0},
		"nothing":             {frame(data|rsv1, "\x00") + frame(data, "x"), "x", 0},
		"damaged":             {frame(data|rsv1, "\xff\xff\xff"), "", ws.InvalidData},
		"text not of UTF-8":   {frame(text|rsv1, packed(t, "\xff")), "", ws.InvalidData},
		"a part that says so": {frame(data&noFin, "x") + frame(last|rsv1, "y"), "x", ws.ProtocolError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, cut := range []int{1, 3, 4096} {
				s := &script{in: []byte(c.in), cut: cut, end: io.EOF}
				conn := ws.New(s, ws.Config{Deflate: true})
				defer conn.Close()
				read, err := readAll(conn, 4096)
				if read != c.read {
					t.Errorf("cut at %d: read %d bytes: %.40q", cut, len(read), read)
				}
				var v *ws.Violation
				if c.refused == 0 && !errors.Is(err, io.EOF) || c.refused != 0 && (!errors.As(err, &v) || v.Status != c.refused) {
					t.Errorf("cut at %d: ended with %v", cut, err)
				}
			}
		})
	}
}

// A whole message is decompressed up to a limit.
func TestInflateWhole(t *testing.T) {
	t.Parallel()
	p := []byte(packed(t, strings.Repeat("x", 1<<20)))
	if got, err := ws.Inflate(p, 1<<20); err != nil || len(got) != 1<<20 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := ws.Inflate(p, 1<<20-1); !errors.Is(err, ws.ErrTooLong) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := ws.Inflate(p[:len(p)/2], 1<<20); err == nil {
		t.Errorf("%d bytes of half", len(got))
	}
}

// A deadline may pass anywhere in a compressed message, and more be read after it.
func TestInflateGoesOn(t *testing.T) {
	t.Parallel()
	const rsv1 = 0x40
	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 20000)
	for i := range noise {
		noise[i] = "abcdefghij klmnop"[rng.IntN(17)]
	}
	want := string(noise)
	p := packed(t, want)
	in := frame((data&noFin)|rsv1, p[:3]) + frame(more, p[3:50]) + frame(ping, "") + frame(last, p[50:]) +
		frame(data, "x") + frame(data|rsv1, p) + frame(closing, "")
	for _, cut := range []int{1, 7, 4096} {
		conn := ws.New(&interrupted{script: &script{in: []byte(in), cut: cut, end: io.EOF}}, ws.Config{Deflate: true})
		got, err := readOn(conn, 100)
		if !errors.Is(err, io.EOF) || got != want+"x"+want {
			t.Errorf("cut at %d: read %d bytes, %v", cut, len(got), err)
		}
		conn.Close()
	}
}

// A read returns when a ping is all that has come, also in the middle of a message.
func TestInflateReturnsForPings(t *testing.T) {
	t.Parallel()
	s := &script{end: errAgain, cut: 100}
	conn := ws.New(s, ws.Config{Deflate: true})
	defer conn.Close()
	buf := make([]byte, 100)
	for _, c := range []struct{ in, read string }{
		{frame(ping, ""), ""},
		{frame(0x41, "\xf2\x48\xcd"), ""},
		{frame(ping, ""), ""},
		{frame(last, "\xc9\xc9\x07\x00"), "Hello"},
	} {
		s.in = []byte(c.in)
		if n, err := conn.Read(buf); string(buf[:n]) != c.read || err != nil {
			t.Errorf("read %q, %v, want %q", buf[:n], err, c.read)
		}
	}
}

// What was read of a message is given up when the connection is closed, be it while
// somebody waits for more.
func TestInflateClosed(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe()
	defer client.Close()
	conn := ws.New(pipe{server}, ws.Config{Deflate: true})
	done := make(chan error, 1)
	go func() {
		_, err := readAll(conn, 100)
		done <- err
	}()
	if _, err := io.WriteString(client, frame(0x41, "\xf2\x48\xcd")+frame(ping, "")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 2)); err != nil { // it waits in the message
		t.Fatal(err)
	}
	conn.Close()
	if err := <-done; !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// pipe is an end of net.Pipe.
type pipe struct{ net.Conn }

func (pipe) CloseWrite() error { return errors.ErrUnsupported }

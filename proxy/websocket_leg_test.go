package proxy_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"imlb/backend/xmpp"
	"imlb/proxy"
	"imlb/proxy/ws"
)

// scriptedWS is what carries a WebSocket of which all that the client sends is known.
type scriptedWS struct {
	net.Conn // nil: nothing else is called
	in       []byte
	cut      int // bytes that a read gives at most
	out      bytes.Buffer
}

func (s *scriptedWS) Read(p []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.cut)], s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *scriptedWS) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *scriptedWS) CloseWrite() error                { return nil }
func (s *scriptedWS) SetWriteDeadline(time.Time) error { return nil }

// wsFrame is a client's frame, masked with zeros. first are the bits and the opcode.
func wsFrame(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return string(append(b, 0, 0, 0, 0)) + payload
}

// wsFrames is a message in frames of n bytes.
func wsFrames(first byte, payload string, n int) string {
	var b strings.Builder
	for ; len(payload) > n; payload = payload[n:] {
		b.WriteString(wsFrame(first&^0x80, payload[:n]))
		first = 0x80
	}
	return b.String() + wsFrame(first, payload)
}

// packedWS is the payload of a compressed message.
func packedWS(t testing.TB, s string) string {
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

// readWS reads all that comes of in, and whether something of it is refused.
func readWS(t testing.TB, in string, cut, limit int) string {
	t.Helper()
	conn := ws.New(&scriptedWS{in: []byte(in), cut: cut}, ws.Config{Deflate: true})
	l := proxy.NewWSLeg(conn, limit)
	var got strings.Builder
	refused := false
	for {
		tok, err := l.Next()
		switch {
		case err == nil && tok.Kind != xmpp.KindNone:
			if tok.Kind == xmpp.KindElement && len(tok.Raw) > limit {
				t.Fatalf("an element of %d bytes", len(tok.Raw))
			}
			fmt.Fprintf(&got, "%d %s\n", tok.Kind, tok.Raw)
			continue
		case err != nil && !refused:
			refused = true
			got.WriteString("refused\n")
			continue
		}
		if l.Fill() != nil {
			return got.String()
		}
	}
}

// However a message is cut, into frames or on its way, and whatever it holds, it is the
// same to the stream, and no longer than an element may be. After one that is refused there
// is but the end.
func FuzzWSLeg(f *testing.F) {
	const limit = 2000
	stanza := "<message xmlns='jabber:client'><body>Grüße 🙂</body></message>"
	for _, msg := range []string{
		stanza, "", "<a", wsClose, "\xf2\x48\xcd\xc9\xc9\x07\x00", "\xff", "<a xmlns='x'/>" + wsClose,
		"<a xmlns='x'>" + strings.Repeat("x", limit) + "</a>", "<a xmlns='x'>" + strings.Repeat("x", 4*limit) + "</a>",
	} {
		f.Add(msg, uint16(1), uint16(1), false, false)
		f.Add(msg, uint16(7), uint16(100), true, false)
		f.Add(msg, uint16(100), uint16(3), true, true)
	}
	f.Add(packedWS(f, stanza)+"x", uint16(5), uint16(5), true, true)
	f.Fuzz(func(t *testing.T, msg string, size, cut uint16, compressed, raw bool) {
		first, payload := byte(0x81), msg
		if compressed {
			first |= 0x40
			if !raw {
				payload = packedWS(t, msg)
			}
		}
		before, after := wsFrame(0x81, wsOpen), wsFrame(0x81, "<iq xmlns='jabber:client'/>")+wsFrame(0x81, wsClose)
		want := readWS(t, before+wsFrame(first, payload)+after, 1<<20, limit)
		got := readWS(t, before+wsFrames(first, payload, max(int(size), 1))+after, max(int(cut), 1), limit)
		if got != want {
			t.Fatalf("whole: %q\nin pieces: %q", want, got)
		}
	})
}

// A node's whitespace is a ping where nothing else tells whether the client is there.
func TestWSLegSpace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		toks []xmpp.Token
		want string
	}{
		"space":            {[]xmpp.Token{{Kind: xmpp.KindSpace, Raw: []byte(" ")}, {Kind: xmpp.KindSpace, Raw: []byte("\n")}}, "\x89\x00"},
		"space and more":   {[]xmpp.Token{{Kind: xmpp.KindSpace, Raw: []byte(" ")}, {Kind: xmpp.KindElement, Raw: []byte("<a xmlns='x'/>")}}, "\x81\x0e<a xmlns='x'/>"},
		"nothing at hand":  {nil, ""},
		"and none for one": {[]xmpp.Token{{Kind: xmpp.KindNone}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := new(scriptedWS)
			l := proxy.NewWSLeg(ws.New(s, ws.Config{}), 1000)
			for range 2 {
				for _, tok := range c.toks {
					if err := l.Write(tok); err != nil {
						t.Fatal(err)
					}
				}
				if err := l.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Flush(); err != nil || s.out.String() != c.want+c.want {
				t.Errorf("wrote %q, %v, want %q twice", s.out.String(), err, c.want)
			}
		})
	}
}

// After a message that was refused the end of the stream is seen, and nothing else.
func TestWSLegEnd(t *testing.T) {
	t.Parallel()
	iq, end := wsFrame(0x81, "<iq xmlns='jabber:client'/>"), wsFrame(0x81, wsClose)
	for name, bad := range map[string]string{
		"not XML":            wsFrame(0x81, "hello"),
		"binary":             wsFrame(0x82, wsClose),
		"binary in parts":    wsFrames(0x82, wsClose+"x", len(wsClose)),
		"too long, in parts": wsFrames(0x81, strings.Repeat(wsClose, 1000), len(wsClose)),
		"damaged":            wsFrame(0xc1, "\xff\xff"),
	} {
		for _, cut := range []int{1, 1000, 1 << 20} {
			want := fmt.Sprintf("refused\n%d </stream:stream>\n", xmpp.KindClose)
			if got := readWS(t, bad+iq+end, cut, 1000); !strings.HasPrefix(got, want) {
				t.Errorf("%s, cut at %d: %q, want %q", name, cut, got, want)
			}
		}
	}
}

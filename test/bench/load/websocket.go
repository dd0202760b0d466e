//go:build linux

package load

import (
	"bufio"
	"bytes"
	"crypto/sha1" //nolint:gosec // G505: as RFC 6455 has it
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// webSocket is one end of a WebSocket (RFC 6455), as far as the generator needs it: after
// the opening handshake there are binary messages of one frame each, whose bounds mean
// nothing. The mask is zero, so that neither end has work with it; a proxy that takes
// frames apart has the same with every mask.
type webSocket struct {
	client bool
	open   bool   // the opening handshake is over
	head   []byte // of HTTP until then, afterwards of a frame; until it is whole
	left   uint64 // bytes of a frame's payload that are to come
}

const (
	wsKey    = "dGhlIGxvYWQncyBjbGllbg==" // 16 bytes, which any are good for
	wsBinary = 0x82                       // a whole binary message (§5.2)
	wsMasked = 0x80
	wsLen16  = 126 // the length follows in two bytes
	wsLen64  = 127 // and in eight
	wsMask   = 4   // bytes of a mask
)

// wsRequest is how a client begins (§4.1).
func wsRequest(to netip.AddrPort) []byte {
	return fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", to, wsKey)
}

// wsAccept is what proves that a key was understood (§4.2.2).
func wsAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // G401: see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}

var errWebSocket = errors.New("a WebSocket that is not as one of the generator's")

// gather takes a piece of HTTP, and tells whether its header is whole. Nothing follows
// until it is answered.
func (w *webSocket) gather(data []byte) bool {
	w.head = append(w.head, data...)
	return bytes.HasSuffix(w.head, []byte("\r\n\r\n"))
}

// accept takes a piece of a request, and returns the answer when it is whole.
func (w *webSocket) accept(data []byte) (answer []byte, err error) {
	if !w.gather(data) {
		return nil, nil
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(w.head)))
	if err != nil || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return nil, fmt.Errorf("%w: %q", errWebSocket, w.head)
	}
	w.open, w.head = true, nil
	return fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", wsAccept(r.Header.Get("Sec-WebSocket-Key"))), nil
}

// accepted takes a piece of the answer.
func (w *webSocket) accepted(data []byte) error {
	if !w.gather(data) {
		return nil
	}
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(w.head)), nil)
	if err != nil {
		return fmt.Errorf("%w: %q", errWebSocket, w.head)
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusSwitchingProtocols || r.Header.Get("Sec-WebSocket-Accept") != wsAccept(wsKey) {
		return fmt.Errorf("%w: %q", errWebSocket, w.head)
	}
	w.open, w.head = true, nil
	return nil
}

// appendFrame appends a message.
func (w *webSocket) appendFrame(dst, payload []byte) []byte {
	masked := byte(0)
	if w.client {
		masked = wsMasked
	}
	switch n := len(payload); {
	case n < wsLen16:
		dst = append(dst, wsBinary, masked|byte(n)) //nolint:gosec // checked
	case n <= 0xffff:
		dst = binary.BigEndian.AppendUint16(append(dst, wsBinary, masked|wsLen16), uint16(n)) //nolint:gosec // checked
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, wsBinary, masked|wsLen64), uint64(n)) //nolint:gosec // a length
	}
	if w.client {
		dst = append(dst, 0, 0, 0, 0)
	}
	return append(dst, payload...)
}

// unframe moves what frames hold to the beginning of data, and returns it. Frames may
// come in pieces.
func (w *webSocket) unframe(data []byte) ([]byte, error) {
	n := 0
	for in := data; len(in) > 0; {
		if w.left == 0 {
			var err error
			if in, err = w.header(in); err != nil {
				return nil, err
			}
			continue
		}
		took := copy(data[n:], in[:min(uint64(len(in)), w.left)])
		n, in, w.left = n+took, in[took:], w.left-uint64(took) //nolint:gosec // a length
	}
	return data[:n], nil
}

// header takes the header of a frame, and returns what is behind it.
func (w *webSocket) header(in []byte) (rest []byte, err error) {
	for i, b := range in {
		if w.head = append(w.head, b); len(w.head) >= 2 && len(w.head) == w.headerSize() {
			err = w.begin()
			w.head = w.head[:0]
			return in[i+1:], err
		}
	}
	return nil, nil
}

func (w *webSocket) headerSize() int {
	size := 2
	switch w.head[1] &^ wsMasked {
	case wsLen16:
		size += 2
	case wsLen64:
		size += 8
	}
	if w.head[1]&wsMasked != 0 {
		size += wsMask
	}
	return size
}

// begin begins the payload of a frame whose header is whole.
func (w *webSocket) begin() error {
	h := w.head
	masked := h[1]&wsMasked != 0
	if h[0] != wsBinary || masked == w.client || masked && binary.BigEndian.Uint32(h[len(h)-wsMask:]) != 0 {
		return fmt.Errorf("%w: a frame begins with %x", errWebSocket, h)
	}
	switch n := h[1] &^ wsMasked; n {
	case wsLen16:
		w.left = uint64(binary.BigEndian.Uint16(h[2:]))
	case wsLen64:
		w.left = binary.BigEndian.Uint64(h[2:])
	default:
		w.left = uint64(n)
	}
	return nil
}

// wsConn is a client's WebSocket as a stream.
type wsConn struct {
	net.Conn
	ws webSocket
}

// openWebSocket does the opening handshake. It closes the connection if that fails.
func openWebSocket(conn net.Conn, to netip.AddrPort) (net.Conn, error) {
	c := &wsConn{Conn: conn, ws: webSocket{client: true}}
	if err := c.handshake(to); err != nil {
		return nil, errors.Join(fmt.Errorf("opening handshake: %w", err), conn.Close())
	}
	return c, nil
}

func (c *wsConn) handshake(to netip.AddrPort) error {
	if _, err := c.Conn.Write(wsRequest(to)); err != nil {
		return err
	}
	for buf := make([]byte, 1024); !c.ws.open; {
		n, err := c.Conn.Read(buf)
		if err != nil {
			return err
		}
		if err := c.ws.accepted(buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// Read may return nothing, when a header is all that came.
func (c *wsConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		return 0, err
	}
	data, err := c.ws.unframe(p[:n])
	return len(data), err
}

func (c *wsConn) Write(p []byte) (int, error) {
	if _, err := c.Conn.Write(c.ws.appendFrame(nil, p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

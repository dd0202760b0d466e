package proxy

import (
	"bufio"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

// upgraded is the outcome of a WebSocket's opening handshake.
type upgraded struct {
	request     *http.Request
	subprotocol string
	deflate     bool   // messages may be compressed, without context takeover
	early       []byte // what came after the request and was read with it
}

// accept does the opening handshake. If that is not to be, it answers why.
func accept(w http.ResponseWriter, r *http.Request, o *WebSocket) (upgraded, bool) {
	h := &hijacked{ResponseWriter: w}
	done, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		Subprotocols: o.Subprotocols,
		// Pages of any origin may connect: there is no cookie or other ambient
		// authority that they could borrow, every stream logs in for itself.
		InsecureSkipVerify: true,
		CompressionMode:    o.compression(),
	})
	if err != nil {
		return upgraded{}, false
	}
	_ = done.CloseNow() // it has a finalizer, and would be kept for ever
	return upgraded{
		request:     r,
		subprotocol: w.Header().Get("Sec-WebSocket-Protocol"),
		deflate:     w.Header().Get("Sec-WebSocket-Extensions") != "",
		early:       h.early,
	}, true
}

// compression never asks for a context that would have to be kept from message to message.
func (o *WebSocket) compression() websocket.CompressionMode {
	if o.Compress {
		return websocket.CompressionNoContextTakeover
	}
	return websocket.CompressionDisabled
}

// hijacked takes the connection over in the name of a library that does the handshake. What
// that gets is closed.
type hijacked struct {
	http.ResponseWriter
	early []byte
}

// Hijack implements http.Hijacker.
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	_, buf, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if n := buf.Reader.Buffered(); n > 0 {
		h.early = make([]byte, n)
		_, _ = buf.Read(h.early) // which is there
	}
	closed := closedConn{}
	return closed, bufio.NewReadWriter(bufio.NewReader(closed), bufio.NewWriter(closed)), nil
}

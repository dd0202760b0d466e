//go:build linux

package load_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/coder/websocket"

	"imlb/test/bench/load"
)

// What the client sends is what a strict server takes, however long it is.
func TestWebSocketClient(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		conn.SetReadLimit(-1)
		for err == nil {
			err = echoMessage(r.Context(), conn)
		}
		_ = conn.CloseNow()
	}))
	t.Cleanup(server.Close)
	b := startBackend(t)
	for _, size := range []int{32, 125, 126, 64<<10 - 1, 64 << 10} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			t.Parallel()
			for _, workload := range []string{"ws-round-trips", "ws-idle"} {
				spec := b.spec(workload, server.Listener.Addr().(*net.TCPAddr).AddrPort())
				spec.Size = size
				runClient(t, spec)
			}
		})
	}
}

func echoMessage(ctx context.Context, conn *websocket.Conn) error {
	kind, message, err := conn.Read(ctx)
	if err != nil {
		return err
	}
	return conn.Write(ctx, kind, message)
}

// What came in pieces is put together, at the client and at the backend.
func TestWebSocketInPieces(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	spec := b.spec("ws-idle", cuttingProxy(t, b.WebSocket))
	spec.Sessions = 4
	if _, err := load.RunClient(t.Context(), spec); err != nil {
		t.Error(err)
	}
	if said := b.stop(); said != "" {
		t.Error(said)
	}
}

package proxy_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"imlb/proxy"
)

// The log has a hint when a node may expect another PROXY header than it gets, once for
// many clients.
func TestSuspectedHeader(t *testing.T) {
	t.Parallel()
	const garbled = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
	for name, tt := range map[string]struct {
		sends   proxy.Header
		answers string
		want    string // of the hint; "" for no line
	}{
		"none is sent, and the node closes":       {proxy.HeaderNone, "", "as imlb's own nodes do, set proxy_protocol of the pool, or --send-proxy, to v2"},
		"one is sent, and the node closes":        {proxy.HeaderV2, "", "if it expects no PROXY header, or another"},
		"one is sent, and is no XML for the node": {proxy.HeaderV2, garbled + streamError("not-well-formed") + streamEnd, "to none"},
		"the node stops":                          {proxy.HeaderV2, garbled + streamError("system-shutdown") + streamEnd, ""},
		"none is sent, and the node says no":      {proxy.HeaderNone, garbled + streamError("not-well-formed") + streamEnd, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, pick := onlyNode(t)
			var out bytes.Buffer
			t.Cleanup(func() { // after the front's end
				got := strings.Count(out.String(), "a node does not serve")
				if want := min(1, len(tt.want)); got != want || !strings.Contains(out.String(), tt.want) {
					t.Errorf("logged\n%s\nwithout %q, or not %d lines", &out, tt.want, want)
				}
			})
			f := startFresh(t, pick, func(o *proxy.Options) {
				o.Pools = map[string]proxy.Pool{"nodes": {Picker: pick, DialAttempts: 1, DialTimeout: patience, Header: tt.sends}}
				o.Logger = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
			})
			for range 3 {
				client := f.dialTLS()
				client.send(of(fresh, streamOpen))
				leg, err := n.ln.Accept()
				if err != nil {
					t.Fatal(err)
				}
				var got []byte
				for !bytes.Contains(got, []byte(" to='"+fresh+"'")) || got[len(got)-1] != '>' { // what is left unread would be answered by a reset
					buf := make([]byte, 4096)
					size, err := leg.Read(buf)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, buf[:size]...)
				}
				if _, err := leg.Write([]byte(tt.answers)); err != nil {
					t.Fatal(err)
				}
				leg.Close()
				client.open()
				client.element()
				client.close()
			}
		})
	}
}

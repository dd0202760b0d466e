package proxy_test

import (
	"bufio"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"imlb/proxy"
)

// asked is the request for a WebSocket, with some fields changed: an empty value takes one
// out, and a line feed puts it on two lines.
func asked(first string, fields map[string]string) string {
	all := map[string]string{
		"Host": "x", "Connection": "keep-alive, Upgrade", "Upgrade": "websocket",
		"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", // of RFC 6455 §1.3
	}
	maps.Copy(all, fields)
	var b strings.Builder
	b.WriteString(first + "\r\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for value := range strings.SplitSeq(all[name], "\n") {
			if value != "" {
				b.WriteString(name + ": " + value + "\r\n")
			}
		}
	}
	return b.String() + "\r\n"
}

// What of the opening handshake is wrong is said in words that help (RFC 6455 §4.2).
func TestWSHandshakeRefused(t *testing.T) {
	t.Parallel()
	f := startOpaque(t, witnessOf(), proxy.Listener{
		Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{"xmpp", "mqtt", ""}},
	}, nil)
	const get = "GET /xmpp-websocket HTTP/1.1"
	for name, c := range map[string]struct {
		first  string
		fields map[string]string
		code   int
		text   string
	}{
		"a page":               {get, map[string]string{"Connection": "", "Upgrade": "", "Sec-WebSocket-Key": "", "Sec-WebSocket-Version": ""}, 426, "This is the address of a WebSocket."},
		"no Upgrade":           {get, map[string]string{"Upgrade": ""}, 426, "This is the address of a WebSocket."},
		"another upgrade":      {get, map[string]string{"Upgrade": "h2c"}, 426, "This is the address of a WebSocket."},
		"no connection option": {get, map[string]string{"Connection": "keep-alive"}, 426, "kept the header fields Upgrade and Connection"},
		"HTTP/1.0":             {"GET /xmpp-websocket HTTP/1.0", nil, 426, "spoke HTTP/1.0"},
		"HEAD":                 {"HEAD /xmpp-websocket HTTP/1.1", nil, 426, ""},
		"POST":                 {"POST /xmpp-websocket HTTP/1.1", nil, 405, "Method Not Allowed"},
		"a path like it":       {"GET //xmpp-websocket HTTP/1.1", nil, 404, "not found"},
		"another path":         {"GET /xmpp-websocket/ HTTP/1.1", nil, 404, "not found"},
		"version 8":            {get, map[string]string{"Sec-WebSocket-Version": "8"}, 426, "has to be 13"},
		"no version":           {get, map[string]string{"Sec-WebSocket-Version": ""}, 426, "has to be 13"},
		"no key":               {get, map[string]string{"Sec-WebSocket-Key": ""}, 400, "16 bytes in base64"},
		"a short key":          {get, map[string]string{"Sec-WebSocket-Key": "AAAA"}, 400, "16 bytes in base64"},
		"a key of something":   {get, map[string]string{"Sec-WebSocket-Key": "!!!!!!!!!!!!!!!!!!!!!!=="}, 400, "16 bytes in base64"},
		"two keys":             {get, map[string]string{"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==\ndGhlIHNhbXBsZSBub25jZQ=="}, 400, "there once"},
		"another subprotocol": {
			get, map[string]string{"Sec-WebSocket-Protocol": "soap"}, 400,
			"ask for no subprotocol, or for one of these (Sec-WebSocket-Protocol, spelt like this): xmpp, mqtt\n",
		},
		"another spelling": {get, map[string]string{"Sec-WebSocket-Protocol": "XMPP,Mqtt"}, 400, "spelt like this"},
	} {
		t.Run(name, func(t *testing.T) {
			client := f.dial()
			code, header, body := client.ask(asked(c.first, c.fields))
			if code != c.code || !strings.Contains(body, c.text) {
				t.Errorf("%d %q, want %d %q", code, body, c.code, c.text)
			}
			if code == http.StatusUpgradeRequired && (header.Get("Upgrade") != "websocket" || header.Get("Connection") == "") {
				t.Errorf("answered with %v", header)
			}
			if strings.Contains(c.text, "13") && header.Get("Sec-WebSocket-Version") != "13" {
				t.Errorf("answered with %v", header)
			}
			client.Close()
			f.ended("http")
		})
	}
}

// What a listener takes is said to those who ask for something else.
func TestWSWanted(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]struct{ there, asks string }{
		"ask for one of these subprotocols (Sec-WebSocket-Protocol, spelt like this): xmpp, mqtt\n": {"xmpp mqtt", ""},
		"ask for no subprotocol (Sec-WebSocket-Protocol)\n":                                         {"", "xmpp"},
	} {
		f := startOpaque(t, witnessOf(), proxy.Listener{
			Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: strings.Split(c.there, " ")},
		}, nil)
		code, _, body := f.dial().ask(asked("GET /xmpp-websocket HTTP/1.1", map[string]string{"Sec-WebSocket-Protocol": c.asks}))
		if code != http.StatusBadRequest || body != want {
			t.Errorf("%d %q, want %q", code, body, want)
		}
	}
}

// ask sends a request, and returns the answer.
func (s *stream) ask(request string) (code int, header http.Header, body string) {
	s.t.Helper()
	s.send(request)
	s.soon()
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(s), &http.Request{Method: method})
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp.StatusCode, resp.Header, ""
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// What client and front agree on is chosen by the front, in the spelling of its
// configuration, and names that differ in case are different names.
func TestWSHandshake(t *testing.T) {
	t.Parallel()
	const deflate = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{
		Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{"mqtt", "soap", ""}, Compress: true},
	}, nil)
	for name, c := range map[string]struct{ subprotocols, extensions, subprotocol, extension string }{
		"nothing":                    {},
		"empty lists":                {subprotocols: " ,", extensions: ","},
		"the best":                   {subprotocols: "soap, mqtt", subprotocol: "mqtt"},
		"over two lines":             {subprotocols: "x\nsoap", subprotocol: "soap"},
		"another spelling":           {subprotocols: "MQTT,mqtt", subprotocol: "mqtt"},
		"another spelling of better": {subprotocols: "MQTT,soap", subprotocol: "soap"},

		"deflate":                 {extensions: "permessage-deflate", extension: deflate},
		"as browsers say it":      {extensions: "permessage-deflate; client_max_window_bits", extension: deflate},
		"all of it":               {extensions: `x, Permessage-Deflate;server_no_context_takeover ; client_no_context_takeover;client_max_window_bits="10"`, extension: deflate},
		"the second offer":        {extensions: "permessage-deflate; server_max_window_bits=10, permessage-deflate", extension: deflate},
		"on the second line":      {extensions: "x-webkit-deflate-frame\npermessage-deflate", extension: deflate},
		"our window":              {extensions: "permessage-deflate; server_max_window_bits=10"},
		"a window too large":      {extensions: "permessage-deflate; client_max_window_bits=16"},
		"a window with a zero":    {extensions: "permessage-deflate; client_max_window_bits=09"},
		"an unknown parameter":    {extensions: "permessage-deflate; x"},
		"an empty parameter":      {extensions: "permessage-deflate;"},
		"a parameter there twice": {extensions: "permessage-deflate; client_no_context_takeover; client_no_context_takeover"},
		"a value too many":        {extensions: "permessage-deflate; client_no_context_takeover=1"},
		"another extension":       {extensions: "permessage-bzip2"},
	} {
		t.Run(name, func(t *testing.T) {
			client := f.dial()
			code, header, _ := client.ask(asked("GET /xmpp-websocket HTTP/1.1", map[string]string{
				"Sec-WebSocket-Protocol": c.subprotocols, "Sec-WebSocket-Extensions": c.extensions,
			}))
			if code != http.StatusSwitchingProtocols || header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
				t.Errorf("%d %v", code, header)
			}
			if got := header.Get("Sec-WebSocket-Protocol"); got != c.subprotocol {
				t.Errorf("agreed on subprotocol %q, want %q", got, c.subprotocol)
			}
			if got := header.Get("Sec-WebSocket-Extensions"); got != c.extension {
				t.Errorf("agreed on extension %q, want %q", got, c.extension)
			}
			leg := n.leg()
			client.Close()
			leg.end()
			leg.Close()
			f.record()
		})
	}
}

// Who spells xmpp in another way, too, gets a stream of XMPP all the same, and none that
// nobody looks at.
func TestWSSubprotocolCase(t *testing.T) {
	t.Parallel()
	f := startOpaque(t, witnessOf(), proxy.Listener{
		Protocol: proxy.WSS, WebSocket: proxy.WebSocket{Subprotocols: []string{"xmpp"}},
	}, nil)
	o := f.wsOptions(nil)
	o.Subprotocols = []string{"XMPP", "xmpp"}
	ws := f.dialWith("wss", "/xmpp-websocket", o)
	if got := ws.Subprotocol(); got != "xmpp" {
		t.Errorf("agreed on %q", got)
	}
	if err := ws.Write(t.Context(), websocket.MessageBinary, []byte("not XMPP at all")); err != nil {
		t.Fatal(err)
	}
	if _, msg, err := ws.next(); !strings.HasPrefix(msg, "<open ") {
		t.Errorf("got %q, %v", msg, err)
	}
	_ = ws.CloseNow()
	f.ended("protocol-error")
}

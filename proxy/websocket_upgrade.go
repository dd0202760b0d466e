package proxy

import (
	"crypto/sha1" //nolint:gosec // G505: as RFC 6455 has it; nothing depends on its strength
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// upgraded is the outcome of a WebSocket's opening handshake.
type upgraded struct {
	request     *http.Request
	subprotocol string // as it is configured
	deflate     bool   // messages may be compressed, without context takeover
	early       []byte // what came after the request and was read with it
}

// accept does the opening handshake (RFC 6455 §4.2). If that is not to be, it answers why.
//
// Pages of any origin may connect: there is no cookie or other ambient authority that they
// could borrow, every session logs in for itself.
func accept(w http.ResponseWriter, r *http.Request, o *WebSocket) (upgraded, bool) {
	if !asksForWebSocket(w, r, o) {
		return upgraded{}, false
	}
	subprotocol, ok := o.choose(r.Header)
	if !ok {
		// RFC 7395 §3.1: a client that does not ask for it must not be spoken to in it.
		http.Error(w, o.wanted(), http.StatusBadRequest)
		return upgraded{}, false
	}
	up := upgraded{request: r, subprotocol: subprotocol, deflate: o.Compress && offersDeflate(r.Header)}
	fillAnswer(w.Header(), r.Header.Get("Sec-WebSocket-Key"), up)
	w.WriteHeader(http.StatusSwitchingProtocols)
	_, buf, err := http.NewResponseController(w).Hijack() // which sends that
	if err != nil {
		return upgraded{}, false
	}
	if n := buf.Reader.Buffered(); n > 0 {
		up.early = make([]byte, n)
		_, _ = buf.Read(up.early) // which is there
	}
	return up, true
}

// fillAnswer fills in the header of the answer (RFC 6455 §4.2.2).
func fillAnswer(h http.Header, key string, up upgraded) {
	h.Set("Upgrade", "websocket")
	h.Set("Connection", "Upgrade")
	h.Set("Sec-WebSocket-Accept", acceptKey(key))
	if up.subprotocol != "" {
		h.Set("Sec-WebSocket-Protocol", up.subprotocol)
	}
	if up.deflate {
		// A server may ask for both, offered or not (RFC 7692 §7.1.1).
		h.Set("Sec-WebSocket-Extensions", "permessage-deflate; server_no_context_takeover; client_no_context_takeover")
	}
}

// acceptKey is what proves that the key was understood.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // G401: see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}

// plainRequest is what somebody reads who opens the address like that of a page.
const plainRequest = `This is the address of a WebSocket. Open it with a WebSocket client, as in a page with new WebSocket(url, subprotocols).
If you did, something in between spoke HTTP/1.0, or kept the header fields Upgrade and Connection: reverse proxies have to be told to pass them on.
Also, `

// asksForWebSocket checks a request as RFC 6455 §4.2.1 says, and answers one that is wrong.
func asksForWebSocket(w http.ResponseWriter, r *http.Request, o *WebSocket) bool {
	h := w.Header()
	switch keys := r.Header.Values("Sec-WebSocket-Key"); {
	case r.Method != http.MethodGet, !r.ProtoAtLeast(1, 1),
		!hasToken(r.Header, "Connection", "upgrade"), !hasToken(r.Header, "Upgrade", "websocket"):
		h.Set("Upgrade", "websocket") // RFC 9110 §15.5.22
		h.Set("Connection", "Upgrade")
		http.Error(w, plainRequest+o.wanted(), http.StatusUpgradeRequired)
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		h.Set("Upgrade", "websocket")
		h.Set("Connection", "Upgrade")
		h.Set("Sec-WebSocket-Version", "13") // §4.4
		http.Error(w, "the version of WebSocket (Sec-WebSocket-Version) has to be 13", http.StatusUpgradeRequired)
	case len(keys) != 1 || !isKey(keys[0]):
		http.Error(w, "Sec-WebSocket-Key has to be there once, and to be 16 bytes in base64", http.StatusBadRequest)
	default:
		return true
	}
	return false
}

// isKey tells whether a Sec-WebSocket-Key is one.
func isKey(key string) bool {
	nonce, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(nonce) == 16
}

// tokens returns the elements of a list in the header, over all fields of the name. Empty
// ones do not count (RFC 9110 §5.6.1).
func tokens(h http.Header, name string) []string {
	var list []string
	for _, line := range h.Values(name) {
		for token := range strings.SplitSeq(line, ",") {
			if token = strings.Trim(token, " \t"); token != "" {
				list = append(list, token)
			}
		}
	}
	return list
}

// hasToken tells whether a list has an element, in upper or lower case.
func hasToken(h http.Header, name, token string) bool {
	return slices.ContainsFunc(tokens(h, name), func(t string) bool { return strings.EqualFold(t, token) })
}

// choose returns the best of the subprotocols that a client asks for, and whether there is
// one. Names differ by upper and lower case, too, as those registered with IANA do; what
// is chosen is all that anybody goes by later.
func (o *WebSocket) choose(h http.Header) (string, bool) {
	asked := tokens(h, "Sec-WebSocket-Protocol")
	if len(asked) == 0 {
		return "", slices.Contains(o.Subprotocols, "")
	}
	for _, name := range o.Subprotocols {
		if slices.Contains(asked, name) {
			return name, true
		}
	}
	return "", false
}

// wanted says which subprotocols there are.
func (o *WebSocket) wanted() string {
	names := slices.DeleteFunc(slices.Clone(o.Subprotocols), func(name string) bool { return name == "" })
	switch list := strings.Join(names, ", "); {
	case len(names) == 0:
		return "ask for no subprotocol (Sec-WebSocket-Protocol)"
	case len(names) < len(o.Subprotocols):
		return "ask for no subprotocol, or for one of these (Sec-WebSocket-Protocol, spelt like this): " + list
	default:
		return "ask for one of these subprotocols (Sec-WebSocket-Protocol, spelt like this): " + list
	}
}

// offersDeflate tells whether a client offers permessage-deflate in a way that can be
// accepted without context takeover on either side.
func offersDeflate(h http.Header) bool {
	return slices.ContainsFunc(tokens(h, "Sec-WebSocket-Extensions"), acceptsDeflate)
}

// acceptsDeflate tells whether an offer can be accepted. One that has a parameter which is
// unknown, there twice, wrong, or that we cannot keep, must not be (RFC 7692 §7). The client
// only hints with client_max_window_bits that it could do with less memory.
func acceptsDeflate(offer string) bool {
	name, rest, more := strings.Cut(offer, ";")
	if !strings.EqualFold(strings.TrimSpace(name), "permessage-deflate") {
		return false
	}
	seen := make(map[string]bool)
	for more {
		var param string
		param, rest, more = strings.Cut(rest, ";")
		name, value, valued := strings.Cut(param, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		switch name {
		case "server_no_context_takeover", "client_no_context_takeover":
			if valued {
				return false
			}
		case "client_max_window_bits":
			if valued && !isWindow(strings.Trim(strings.TrimSpace(value), `"`)) {
				return false
			}
		default: // server_max_window_bits too: we have one window
			return false
		}
		if seen[name] {
			return false
		}
		seen[name] = true
	}
	return true
}

// isWindow tells whether a value is the size of a window: 8 to 15, without a zero before it.
func isWindow(value string) bool {
	n, err := strconv.Atoi(value)
	return err == nil && n >= 8 && n <= 15 && strconv.Itoa(n) == value
}

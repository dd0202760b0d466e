package identify

import (
	"net/http"
	"net/url"
	"strings"
)

// maxToken is the length of the longest token that is decoded, in bytes.
const maxToken = 8 << 10

// Request finds the user in the HTTP request that becomes a WebSocket.
type Request struct {
	Value Value

	// Claim is for values that are a JSON Web Token: the key is this claim of it, like
	// sub, or user.id for a claim inside another. The signature is NOT verified, nor are
	// the times: the front does not authenticate, and the node has to.
	Claim string
}

// Identify reads in.Request.
func (r Request) Identify(in Input) Result {
	if in.Request == nil {
		return none(Nobody)
	}
	value := r.Value(in.Request)
	if r.Claim == "" || value == "" {
		return found(value)
	}
	user, v := Claim(value, r.Claim)
	if v != Found {
		return none(v)
	}
	return found(user)
}

// A Value is a part of a request; empty when the request does not have it. Of several
// with one name it is the first.
type Value func(r *http.Request) string

// Segment is the n-th segment of the path, the first being 1, or the n-th from the end,
// the last being -1. Slashes at the ends of the path do not count, and a %2F does not
// end a segment.
func Segment(n int) Value {
	return func(r *http.Request) string {
		segments := strings.Split(strings.Trim(r.URL.EscapedPath(), "/"), "/")
		i := n - 1
		if n < 0 {
			i = len(segments) + n
		}
		if i < 0 || i >= len(segments) {
			return ""
		}
		segment, err := url.PathUnescape(segments[i])
		if err != nil {
			return ""
		}
		return segment
	}
}

// Path is what a regular expression finds in the path, with the group named user, or
// the only one.
func Path(expr string) (Value, error) {
	user, err := compileUser(expr)
	if err != nil {
		return nil, err
	}
	return func(r *http.Request) string {
		found, _ := user.find([]byte(r.URL.Path))
		return string(found)
	}, nil
}

// Query is a parameter of the query.
func Query(name string) Value {
	return func(r *http.Request) string {
		for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
			key, value, _ := strings.Cut(pair, "=")
			if pair == "" || strings.Contains(pair, ";") {
				continue // as net/url does
			}
			if key, err := url.QueryUnescape(key); err != nil || key != name {
				continue
			}
			if value, err := url.QueryUnescape(value); err == nil {
				return value
			}
		}
		return ""
	}
}

// Header is a field of the header.
func Header(name string) Value {
	return func(r *http.Request) string {
		if strings.EqualFold(name, "Host") {
			return r.Host // net/http takes it out of the header
		}
		return strings.TrimSpace(r.Header.Get(name))
	}
}

// Cookie is the value of a cookie.
func Cookie(name string) Value {
	return func(r *http.Request) string {
		c, err := r.Cookie(name)
		if err != nil {
			return ""
		}
		return c.Value
	}
}

// Bearer is the token of Authorization: Bearer (RFC 6750 §2.1).
func Bearer() Value {
	return func(r *http.Request) string {
		scheme, token, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return ""
		}
		return strings.TrimSpace(token)
	}
}

// Subprotocol is what follows marker in Sec-WebSocket-Protocol: how browsers, which set
// no other header, send a token, as in new WebSocket(url, ["bearer", token]).
func Subprotocol(marker string) Value {
	return func(r *http.Request) string {
		marked := false
		for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
			for protocol := range strings.SplitSeq(line, ",") {
				protocol = strings.TrimSpace(protocol)
				if marked {
					return protocol
				}
				marked = strings.EqualFold(protocol, marker)
			}
		}
		return ""
	}
}

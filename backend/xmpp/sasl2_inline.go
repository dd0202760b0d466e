package xmpp

import (
	"encoding/base64"
	"strconv"
	"strings"
)

// Inline is what an <authenticate/> asks for besides the login itself (XEP-0388 §2.3).
// The elements are views of the bytes that it was read from.
type Inline struct {
	Client string    // the id of <user-agent/>; "" without one, or if it is no UUID
	Resume *Element  // <resume/> of XEP-0198
	Bind   *Bind2    // nil for none
	Fast   *FastAuth // nil for none: the mechanism is not one for tokens
	// RequestToken is the mechanism that the client wants a token for (XEP-0484 §3.2).
	RequestToken string
}

// Bind2 is the request for a resource (XEP-0386 §3.2).
type Bind2 struct {
	Tag      string
	Enable   *Element // <enable/> of XEP-0198
	Carbons  bool     // <enable/> of XEP-0280
	Inactive bool     // <inactive/> of XEP-0352
}

// FastAuth says how a token is used (XEP-0484 §3.4, §3.6).
type FastAuth struct {
	Count      uint64 // 0: it was not counted
	Invalidate bool   // the token is not to be used again
}

// ParseInline reads an <authenticate/>, of which ParseSASL2 has read the rest. Of several
// elements of a kind the first counts. The error is a *SASLError: malformed-request.
func ParseInline(raw []byte) (Inline, error) {
	var in Inline
	e, ok := sasl2Element(raw)
	if !ok {
		return in, &SASLError{Condition: MalformedRequest}
	}
	if agent, ok := e.Child(NSSASL2, "user-agent"); ok {
		in.Client = clientID(agent)
	}
	if resume, ok := e.Child(NSSM, "resume"); ok {
		in.Resume = &resume
	}
	if bind, ok := e.Child(NSBind2, "bind"); ok {
		in.Bind = readBind2(bind)
	}
	if request, ok := e.Child(NSFast, "request-token"); ok {
		in.RequestToken, _ = request.Attr("mechanism")
	}
	fast, ok := e.Child(NSFast, "fast")
	if !ok {
		return in, nil
	}
	var err error
	in.Fast, err = readFast(fast)
	return in, err
}

// clientID returns the id of a client in its canonical form, "" if there is none. It has
// to be a UUID (XEP-0388 §2.3): what is less than that may be guessed, and is not unique.
func clientID(agent Element) string {
	id, _ := agent.Attr("id")
	if !isUUID(id) {
		return ""
	}
	return strings.ToLower(id)
}

// isUUID tells whether s has the form of RFC 9562 §4.
func isUUID(s string) bool {
	if len(s) != len("00000000-0000-0000-0000-000000000000") {
		return false
	}
	for i, c := range []byte(s) {
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case strings.IndexByte("0123456789abcdefABCDEF", c) < 0:
			return false
		}
	}
	return true
}

func readBind2(e Element) *Bind2 {
	bind := new(Bind2)
	if tag, ok := e.Child(NSBind2, "tag"); ok {
		bind.Tag = strings.TrimSpace(tag.Text())
	}
	if enable, ok := e.Child(NSSM, "enable"); ok {
		bind.Enable = &enable
	}
	_, bind.Carbons = e.Child(NSCarbons, "enable")
	_, bind.Inactive = e.Child(NSCSI, "inactive")
	return bind
}

func readFast(e Element) (*FastAuth, error) {
	fast := new(FastAuth)
	if text, ok := e.Attr("count"); ok {
		n, err := strconv.ParseUint(text, 10, 63)
		if err != nil || n == 0 {
			return nil, &SASLError{Condition: MalformedRequest, Text: "count is not a positive integer"}
		}
		fast.Count = n
	}
	switch text, ok := e.Attr("invalidate"); {
	case !ok, text == "false", text == "0":
	case text == "true", text == "1":
		fast.Invalidate = true
	default:
		return nil, &SASLError{Condition: MalformedRequest, Text: "invalidate is not a boolean"}
	}
	return fast, nil
}

// SASL2Success ends a negotiation (XEP-0388 §2.6.1).
type SASL2Success struct {
	Data    []byte // of the mechanism
	HasData bool
	User    string // bare, or full if a resource is bound
	Inline  []byte // elements that say what became of what was asked for inline
}

// Append appends the success as an element.
func (s SASL2Success) Append(dst []byte) []byte {
	dst = append(dst, "<success xmlns='"+NSSASL2+"'>"...)
	if s.HasData {
		dst = append(dst, "<additional-data>"...)
		dst = base64.StdEncoding.AppendEncode(dst, s.Data)
		dst = append(dst, "</additional-data>"...)
	}
	dst = append(dst, "<authorization-identifier>"...)
	dst = AppendEscaped(dst, s.User)
	dst = append(dst, "</authorization-identifier>"...)
	dst = append(dst, s.Inline...)
	return append(dst, "</success>"...)
}

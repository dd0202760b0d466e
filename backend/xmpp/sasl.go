package xmpp

import (
	"encoding/base64"
	"strings"
)

// SASLKind says which SASL element a frame is.
type SASLKind uint8

// The SASL elements (RFC 6120 §6.4), and those that SASL2 has besides (XEP-0388). There
// SASLAuth is called <authenticate/>.
const (
	SASLAuth SASLKind = 1 + iota
	SASLResponse
	SASLAbort
	SASLChallenge
	SASLSuccess
	SASLFailure
	SASLContinue // SASL2: the mechanism has succeeded, and tasks are left (§2.6.2)
	SASLNext     // SASL2: the client begins a task (§2.6.3)
	SASLTaskData // SASL2: a step of a task, either way
)

// String returns the element's name.
func (k SASLKind) String() string {
	switch k {
	case SASLAuth:
		return "auth"
	case SASLResponse:
		return "response"
	case SASLAbort:
		return "abort"
	case SASLChallenge:
		return "challenge"
	case SASLSuccess:
		return "success"
	case SASLFailure:
		return "failure"
	case SASLContinue:
		return "continue"
	case SASLNext:
		return "next"
	case SASLTaskData:
		return "task-data"
	default:
		return "unknown"
	}
}

// saslKind returns the kind of the element of that name, or 0.
func saslKind(local string) SASLKind {
	for k := SASLAuth; k <= SASLFailure; k++ {
		if k.String() == local {
			return k
		}
	}
	return 0
}

// A SASLFrame is one element of a SASL negotiation.
type SASLFrame struct {
	Kind       SASLKind
	Mechanism  string // of SASLAuth
	Payload    []byte // decoded; nil for SASLAbort and SASLFailure
	HasPayload bool   // false: no data at all; true with an empty Payload: "="
	Condition  string // of SASLFailure
	Text       string // of SASLFailure, optional
	SASL2      bool   // the element is one of SASL2; see ParseSASL2
	User       string // of SASLSuccess in SASL2: the authorization identifier, as written
}

// A SASLError fails a SASL negotiation (RFC 6120 §6.5).
type SASLError struct {
	Condition string
	Text      string
}

// Error returns the condition and the text.
func (e *SASLError) Error() string {
	if e.Text == "" {
		return "SASL failure: " + e.Condition
	}
	return "SASL failure: " + e.Condition + ": " + e.Text
}

// Failure returns the frame that tells the peer.
func (e *SASLError) Failure() SASLFrame {
	return SASLFrame{Kind: SASLFailure, Condition: e.Condition, Text: e.Text}
}

// ParseSASL reads an element of the SASL namespace; ok is false if raw is not one.
// The error is a *SASLError: incorrect-encoding for what is not base64 (RFC 6120 §6.5.5),
// invalid-mechanism for an <auth/> that names none (§6.5.7), malformed-request for the rest (§6.5.8).
func ParseSASL(raw []byte) (f SASLFrame, ok bool, err error) {
	e, ok := saslElement(raw)
	if !ok {
		return SASLFrame{}, false, nil
	}
	f.Kind = saslKind(e.Local())
	switch f.Kind {
	case SASLAuth:
		if f.Mechanism, _ = e.Attr("mechanism"); f.Mechanism == "" {
			return f, true, &SASLError{Condition: InvalidMechanism, Text: "no mechanism"}
		}
		err = f.readPayload(e)
	case SASLResponse, SASLChallenge, SASLSuccess:
		err = f.readPayload(e)
	case SASLFailure:
		f.Condition, f.Text = condition(e, NSSASL, NotAuthorized)
	case SASLAbort:
	default:
		err = &SASLError{Condition: MalformedRequest, Text: "unknown element"}
	}
	return f, true, err
}

func saslElement(raw []byte) (Element, bool) {
	e, err := view(raw)
	return e, err == nil && e.Space() == NSSASL
}

var strictBase64 = base64.StdEncoding.Strict()

// readPayload decodes the data of e. Nothing but the alphabet of base64 may be there,
// whitespace included (RFC 6120 §13.9.1).
func (f *SASLFrame) readPayload(e Element) error {
	for range e.Children() {
		return &SASLError{Condition: MalformedRequest, Text: "element inside SASL data"}
	}
	text := e.Text()
	switch {
	case text == "":
		return nil
	case text == "=":
		f.HasPayload = true
		return nil
	case strings.ContainsAny(text, "\r\n"): // the decoder would pass over them
		return &SASLError{Condition: IncorrectEncoding}
	}
	payload, err := strictBase64.DecodeString(text)
	if err != nil {
		return &SASLError{Condition: IncorrectEncoding}
	}
	f.Payload, f.HasPayload = payload, true
	return nil
}

// Append appends the frame as an element.
func (f SASLFrame) Append(dst []byte) []byte {
	if f.SASL2 {
		return f.appendSASL2(dst)
	}
	dst = append(dst, '<')
	dst = append(dst, f.Kind.String()...)
	dst = appendAttr(dst, Attr{"xmlns", NSSASL})
	dst = appendAttr(dst, Attr{"mechanism", f.Mechanism})
	body := len(dst) + 1
	dst = append(dst, '>')
	switch {
	case f.Condition != "":
		dst = append(dst, '<')
		dst = append(dst, f.Condition...)
		dst = append(dst, "/>"...)
		dst = f.appendText(dst)
	default:
		dst = appendPayload(dst, f.Payload, f.HasPayload)
	}
	if len(dst) == body {
		return append(dst[:body-1], "/>"...)
	}
	dst = append(dst, "</"...)
	dst = append(dst, f.Kind.String()...)
	return append(dst, '>')
}

func (f SASLFrame) appendText(dst []byte) []byte {
	if f.Text == "" {
		return dst
	}
	dst = append(dst, "<text xml:lang='en'>"...)
	dst = AppendEscaped(dst, f.Text)
	return append(dst, "</text>"...)
}

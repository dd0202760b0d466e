package xmpp

import (
	"bytes"
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

// SASLKind says which SASL element a frame is.
type SASLKind uint8

// The SASL elements (RFC 6120 §6.4).
const (
	SASLAuth SASLKind = 1 + iota
	SASLResponse
	SASLAbort
	SASLChallenge
	SASLSuccess
	SASLFailure
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
	case len(f.Payload) > 0:
		dst = base64.StdEncoding.AppendEncode(dst, f.Payload)
	case f.HasPayload:
		dst = append(dst, '=')
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

// SASLName reads the names out of the initial response of PLAIN (RFC 4616), SCRAM-* (RFC 5802)
// or EXTERNAL (RFC 4422 appendix A; there is only an authzid). The names are as the client wrote
// them, not prepared. The error is a *SASLError: invalid-mechanism for another mechanism,
// malformed-request for what breaks the mechanism's syntax.
func SASLName(mechanism string, initial []byte) (authzid, authcid string, err error) {
	switch {
	case !utf8.Valid(initial):
		return "", "", &SASLError{Condition: MalformedRequest, Text: "invalid UTF-8"}
	case mechanism == "PLAIN":
		return plainName(initial)
	case strings.HasPrefix(mechanism, "SCRAM-"):
		return scramName(initial, strings.HasSuffix(mechanism, "-PLUS"))
	case mechanism == "EXTERNAL":
		if bytes.IndexByte(initial, 0) >= 0 {
			return "", "", &SASLError{Condition: MalformedRequest, Text: "NUL in EXTERNAL data"}
		}
		return string(initial), "", nil
	default:
		return "", "", &SASLError{Condition: InvalidMechanism}
	}
}

// plainName reads [authzid] NUL authcid NUL passwd (RFC 4616 §2).
func plainName(initial []byte) (authzid, authcid string, err error) {
	parts := bytes.Split(initial, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 || len(parts[2]) == 0 {
		return "", "", &SASLError{Condition: MalformedRequest, Text: "not PLAIN data"}
	}
	return string(parts[0]), string(parts[1]), nil
}

var errSCRAM = &SASLError{Condition: MalformedRequest, Text: "not a SCRAM message"}

// scramName reads gs2-cbind-flag "," [authzid] "," "n=" name "," "r=" nonce [extensions]
// (RFC 5802 §7), where the flag is "p=" with a mechanism for channel binding only.
func scramName(initial []byte, plus bool) (authzid, authcid string, err error) {
	parts := strings.SplitN(string(initial), ",", 4)
	if len(parts) != 4 {
		return "", "", errSCRAM
	}
	flag, zid, cid, nonce := parts[0], parts[1], parts[2], parts[3]
	if binds := strings.HasPrefix(flag, "p=") && len(flag) > len("p="); binds != plus || !binds && flag != "n" && flag != "y" {
		return "", "", errSCRAM
	}
	if zid != "" {
		if authzid, err = saslName(zid, "a="); err != nil {
			return "", "", err
		}
	}
	if authcid, err = saslName(cid, "n="); err != nil { // "m=" would be an extension that nobody knows
		return "", "", err
	}
	nonce, _, _ = strings.Cut(nonce, ",")
	if !strings.HasPrefix(nonce, "r=") || len(nonce) == len("r=") {
		return "", "", errSCRAM
	}
	return authzid, authcid, nil
}

// saslName decodes an attribute that is a name, in which "=2C" is a comma, "=3D" an equals
// sign, and no other "=" may be (RFC 5802 §5.1).
func saslName(attr, key string) (string, error) {
	value, ok := strings.CutPrefix(attr, key)
	if !ok || value == "" || strings.IndexByte(value, 0) >= 0 {
		return "", errSCRAM
	}
	before, rest, found := strings.Cut(value, "=")
	var name strings.Builder
	name.WriteString(before)
	for found {
		switch {
		case strings.HasPrefix(rest, "2C"):
			name.WriteByte(',')
		case strings.HasPrefix(rest, "3D"):
			name.WriteByte('=')
		default:
			return "", errSCRAM
		}
		before, rest, found = strings.Cut(rest[2:], "=")
		name.WriteString(before)
	}
	return name.String(), nil
}

package xmpp

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

// A SASLFrame is one element of a SASL negotiation.
type SASLFrame struct {
	Kind       SASLKind
	Mechanism  string // of SASLAuth
	Payload    []byte // decoded
	HasPayload bool   // false: no data at all; true with an empty Payload: "="
	Condition  string // of SASLFailure
	Text       string // of SASLFailure, optional
}

// ParseSASL reads an element of the SASL namespace; ok is false if raw is not one.
// The error is a *SASLError: incorrect-encoding for what is not base64,
// invalid-mechanism for an <auth/> that names none, malformed-request for the rest.
func ParseSASL(raw []byte) (f SASLFrame, ok bool, err error) { return SASLFrame{}, false, nil }

// Append appends the frame as an element.
func (f SASLFrame) Append(dst []byte) []byte { return dst }

// SASLName reads the names out of the initial response of PLAIN (RFC 4616), SCRAM-* (RFC 5802)
// or EXTERNAL (RFC 4422, authzid only). The error is a *SASLError: invalid-mechanism for another
// mechanism, malformed-request for what breaks the mechanism's syntax.
func SASLName(mechanism string, initial []byte) (authzid, authcid string, err error) {
	return "", "", nil
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

package ws

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Status says in a close frame why a WebSocket ends (RFC 6455 §7.4, and the registry
// there).
type Status uint16

// The statuses that are sent, and NoStatus for a close frame without one.
const (
	Normal          Status = 1000
	GoingAway       Status = 1001
	ProtocolError   Status = 1002
	UnsupportedData Status = 1003
	NoStatus        Status = 1005
	InvalidData     Status = 1007
	PolicyViolation Status = 1008
	InternalError   Status = 1011
	ServiceRestart  Status = 1012
	TryAgainLater   Status = 1013
)

// valid tells whether a peer may send the status (RFC 6455 §7.4.1, §7.4.2).
func (s Status) valid() bool {
	switch {
	case s < 1000, s == 1004, s == NoStatus, s == 1006, s > 1014 && s < 3000, s > 4999:
		return false
	}
	return true
}

// ErrClosed is what comes of writing after the close frame.
var ErrClosed = errors.New("the WebSocket has ended")

// CloseError is the peer's close frame.
type CloseError struct {
	Status Status
	Reason string
}

// Error returns what the peer said.
func (e *CloseError) Error() string {
	return fmt.Sprintf("the peer closed the WebSocket: %d %q", e.Status, e.Reason)
}

// Violation is what the peer has done against the protocol, and with which status it is
// told.
type Violation struct {
	Status Status
	Text   string
}

// Error returns what the peer has done.
func (e *Violation) Error() string { return "the peer sent " + e.Text }

//nolint:gochecknoglobals // sentinels
var (
	errPacked  error = &Violation{Status: InvalidData, Text: "what cannot be decompressed"}
	errText    error = &Violation{Status: UnsupportedData, Text: "text where all has to be binary"}
	errNotText error = &Violation{Status: InvalidData, Text: "text that is not UTF-8"}
)

func violation(text string) error { return &Violation{Status: ProtocolError, Text: text} }

// parseClose reads the payload of a close frame (RFC 6455 §5.5.1).
func parseClose(p []byte) error {
	if len(p) == 0 {
		return &CloseError{Status: NoStatus}
	}
	if len(p) == 1 {
		return violation("half a status")
	}
	e := &CloseError{Status: Status(binary.BigEndian.Uint16(p)), Reason: string(p[2:])}
	switch {
	case !e.Status.valid():
		return violation(fmt.Sprintf("the status %d", e.Status))
	case !utf8.ValidString(e.Reason):
		return &Violation{Status: InvalidData, Text: "a reason that is not UTF-8"}
	}
	return e
}

// appendClose appends a close frame.
func appendClose(dst []byte, status Status, reason string) []byte {
	if status == NoStatus {
		return appendHeader(dst, opClose, false, 0)
	}
	reason = reason[:min(len(reason), maxControl-2)]
	dst = appendHeader(dst, opClose, false, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(status))
	return append(dst, reason...)
}

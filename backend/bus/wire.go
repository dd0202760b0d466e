package bus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A signal travels on u.<partition>.<user>. What it says is all in its payload:
//
//	version  1 byte, 1
//	kind     1 byte
//	seq      uvarint
//	user     uvarint length, bytes
//	target   uvarint length, bytes
//	data     the rest
//
// The subject's partition is authoritative; its user is there for the eyes of
// whoever watches the traffic, and for filters.
const (
	signalVersion = 1

	// maxPayload is the most that an embedded server takes in one message, in bytes.
	maxPayload = 1 << 20

	// maxToken bounds the user's part of a subject, in bytes. The line
	// that holds a subject may have 4096.
	maxToken = 256
)

var (
	errMalformed = errors.New("malformed signal")
	errVersion   = errors.New("signal of another version")
	errKind      = errors.New("signal of an unknown kind")
)

// signalRoom is how much longer a payload is at most than the texts and data in it.
const signalRoom = 2 + 3*binary.MaxVarintLen64

// appendSignal appends the payload of s.
func appendSignal(dst []byte, s Signal) []byte {
	dst = append(dst, signalVersion, byte(s.Kind))
	dst = binary.AppendUvarint(dst, s.Seq)
	dst = appendString(dst, s.User)
	dst = appendString(dst, s.Target)
	return append(dst, s.Data...)
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// decodeSignal reads a payload; Data of the result is part of it.
func decodeSignal(partition uint16, p []byte) (Signal, error) {
	if len(p) < 2 {
		return Signal{}, errMalformed
	}
	if p[0] != signalVersion {
		return Signal{}, errVersion
	}
	s := Signal{Kind: Kind(p[1]), Partition: partition}
	if !s.Kind.known() {
		return Signal{}, errKind
	}
	rest, ok := p[2:], false
	if s.Seq, rest, ok = cutUvarint(rest); !ok {
		return Signal{}, errMalformed
	}
	if s.User, rest, ok = cutString(rest); !ok || s.User == "" {
		return Signal{}, errMalformed
	}
	if s.Target, rest, ok = cutString(rest); !ok {
		return Signal{}, errMalformed
	}
	if len(rest) > 0 {
		s.Data = rest
	}
	return s, nil
}

func (k Kind) known() bool { return k >= Entry && k <= Control }

func cutUvarint(p []byte) (v uint64, rest []byte, ok bool) {
	v, n := binary.Uvarint(p)
	if n <= 0 {
		return 0, nil, false
	}
	return v, p[n:], true
}

func cutString(p []byte) (s string, rest []byte, ok bool) {
	n, p, ok := cutUvarint(p)
	if !ok || n > uint64(len(p)) {
		return "", nil, false
	}
	return string(p[:n]), p[n:], true
}

// signalSubject returns where the signals of a user are published.
func signalSubject(partition uint16, user string) string {
	b := make([]byte, 0, 16+len(user))
	b = append(b, "u."...)
	b = strconv.AppendUint(b, uint64(partition), 10)
	b = append(b, '.')
	return string(appendToken(b, user))
}

// partitionSubject returns what a node subscribes to that hosts a partition.
func partitionSubject(partition uint16) string {
	return "u." + strconv.FormatUint(uint64(partition), 10) + ".>"
}

// subjectPartition returns the partition that a subject names.
func subjectPartition(subject string) (uint16, error) {
	rest, ok := strings.CutPrefix(subject, "u.")
	number, _, more := strings.Cut(rest, ".")
	if !ok || !more {
		return 0, fmt.Errorf("%w: subject %q", errMalformed, subject)
	}
	partition, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return uint16(partition), nil
}

// appendToken appends a name as one token of a subject: what NATS gives a
// meaning, and what is not printable ASCII, becomes =XX. Long ones are cut.
func appendToken(dst []byte, name string) []byte {
	const hex = "0123456789ABCDEF"
	limit := len(dst) + maxToken
	for i := 0; i < len(name) && len(dst) < limit; i++ {
		if c := name[i]; plainInToken(c) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '=', hex[c>>4], hex[c&15])
		}
	}
	return dst
}

func plainInToken(c byte) bool {
	return c > ' ' && c < 0x7f && !strings.ContainsRune(".*>=", rune(c))
}

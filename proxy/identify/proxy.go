package identify

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
)

// Types of TLVs that name someone (PROXY protocol §2.2). 0xE0 to 0xEF are for
// whatever two parties agree on.
const (
	TLVAuthority byte = 0x02
	TLVUniqueID  byte = 0x05
	TLVSSL       byte = 0x20
	TLVSSLCN     byte = 0x22 // inside TLVSSL
)

// A TLV is a field of a PROXY v2 header.
type TLV struct {
	Type  byte
	Value []byte
}

// ByTLV finds the user in a field of the PROXY v2 header: the first of its type. A value
// that is not text, which a unique id need not be, is no key.
type ByTLV struct {
	Type byte

	// Sub is for Type TLVSSL: the field inside it, like TLVSSLCN, the common name of
	// the client's certificate. It counts only when the proxy before the front has
	// verified the certificate.
	Sub byte
}

// Identify reads in.TLVs.
func (b ByTLV) Identify(in Input) Result {
	for _, tlv := range in.TLVs {
		switch {
		case tlv.Type != b.Type:
			continue
		case b.Type == TLVSSL:
			return sslField(tlv.Value, b.Sub)
		default:
			return foundBytes(tlv.Value)
		}
	}
	return none(Nobody)
}

// sslField finds a field in a TLV of type SSL (PROXY protocol §2.2.6).
func sslField(value fields, sub byte) Result {
	const certificate = 0x02 | 0x04 // PP2_CLIENT_CERT_CONN, PP2_CLIENT_CERT_SESS
	client, _ := value.take(1)
	verify, ok := value.take(4)
	if !ok {
		return none(Malformed)
	}
	if client[0]&certificate == 0 || !bytes.Equal(verify, make([]byte, 4)) {
		return none(Nobody)
	}
	for len(value) > 0 {
		kind, _ := value.number(1)
		field, ok := value.vector(2)
		if !ok {
			return none(Malformed)
		}
		if kind == int(sub) {
			return foundBytes(field)
		}
	}
	return none(Nobody)
}

// CheckProxyHeader says Malformed when a whole PROXY v2 header has a checksum that is
// wrong (PROXY protocol §2.2.3: the connection must be dropped), and Found otherwise.
// Fields that cannot be read are left to the parser.
func CheckProxyHeader(header []byte) Verdict {
	if len(header) < proxyV2Header || !startsLike(header, proxyV2) {
		return Found
	}
	rest := header[proxyV2Header:]
	at := proxyAddresses(header[13] >> 4)
	if at > len(rest) {
		return Found
	}
	for tlvs := fields(rest[at:]); len(tlvs) > 0; {
		kind, _ := tlvs.number(1)
		value, ok := tlvs.vector(2)
		if !ok {
			return Found
		}
		if kind != tlvCRC32C {
			continue
		}
		if len(value) != crc32.Size {
			return Malformed
		}
		// It is that of the header with zeros in its place.
		end := len(header) - len(tlvs)
		table := crc32.MakeTable(crc32.Castagnoli)
		sum := crc32.Update(0, table, header[:end-crc32.Size])
		sum = crc32.Update(sum, table, make([]byte, crc32.Size))
		sum = crc32.Update(sum, table, header[end:])
		if got := uint32(value[0])<<24 | uint32(value[1])<<16 | uint32(value[2])<<8 | uint32(value[3]); got != sum {
			return Malformed
		}
	}
	return Found
}

// IsOwnProxyHeader tells whether a whole header is one of version 2 with the command LOCAL,
// by which a proxy says that the connection is its own.
func IsOwnProxyHeader(header []byte) bool {
	return len(header) >= proxyV2Header && startsLike(header, proxyV2) && header[12] == 0x20
}

// LocalProxyHeader returns a whole header, as one of command LOCAL and family UNSPEC if
// it is of version 2 and has no addresses of the Internet. Its fields stay.
func LocalProxyHeader(header []byte) []byte {
	if len(header) < proxyV2Header || !startsLike(header, proxyV2) || header[12] != 0x21 {
		return header
	}
	switch header[13] {
	case 0, 0x31, 0x32: // UNSPEC, UNIX of streams and of datagrams
	default:
		return header
	}
	addresses := proxyAddresses(header[13] >> 4)
	if len(header) < proxyV2Header+addresses {
		return header // too short for what it says; the parser refuses it
	}
	rest := header[proxyV2Header+addresses:]
	local := append(append([]byte(nil), header[:proxyV2Header]...), rest...)
	local[12], local[13] = 0x20, 0
	local[14], local[15] = byte(len(rest)>>8), byte(len(rest)) //nolint:gosec // As long as it was, or shorter.
	return local
}

// CutProxyHeader returns a whole header without its fields, and these. Only one of version 2
// has some.
func CutProxyHeader(header []byte) (addresses, tlvs []byte) {
	if len(header) < proxyV2Header || !startsLike(header, proxyV2) {
		return header, nil
	}
	length := proxyAddresses(header[13] >> 4)
	if proxyV2Header+length >= len(header) {
		return header, nil
	}
	tlvs = header[proxyV2Header+length:]
	addresses = append([]byte(nil), header[:proxyV2Header+length]...)
	addresses[14], addresses[15] = byte(length>>8), byte(length) //nolint:gosec // At most 216.
	return addresses, tlvs
}

// proxyAddresses is how long the addresses of a family are (PROXY protocol §2.2).
func proxyAddresses(family byte) int {
	switch family {
	case 1: // AF_INET
		return 12
	case 2: // AF_INET6
		return 36
	case 3: // AF_UNIX
		return 216
	default:
		return 0
	}
}

const tlvCRC32C = 0x03

const (
	proxyV1       = "PROXY "
	proxyV1Max    = 107 // bytes, with the CRLF
	proxyV2       = "\r\n\r\n\x00\r\nQUIT\n"
	proxyV2Header = 16
	proxyV2Max    = 4 << 10 // bytes after the header; what the parser takes
)

// ProxyHeader says how many bytes the PROXY header, version 1 or 2 (LOCAL included),
// takes at the start of what was sent: n when Found. With More, n is the least length
// of sent at which it may decide; Foreign means that there is none. limit bounds what
// follows the first 16 bytes in version 2; 0 means 4096.
//
// What stands in the header is for its parser, which gets exactly these bytes.
func ProxyHeader(sent []byte, limit int) (n int, v Verdict) {
	switch {
	case len(sent) == 0:
		return 1, More
	case sent[0] == proxyV1[0]:
		return proxyLine(sent)
	default:
		return proxyBinary(sent, orDefault(limit, proxyV2Max))
	}
}

// ProxyHeaderError says what is wrong with a header that ProxyHeader has refused; nil if it has
// not, or if what was sent is none.
func ProxyHeaderError(sent []byte, limit int) error {
	_, v := ProxyHeader(sent, limit)
	line := len(sent) > 0 && sent[0] == proxyV1[0]
	switch {
	case v == TooLong && line:
		return fmt.Errorf("the line of the PROXY header is longer than %d bytes", proxyV1Max)
	case v == TooLong:
		return fmt.Errorf("the PROXY header says that %d bytes follow, and may have %d", proxyV2Length(sent), orDefault(limit, proxyV2Max))
	case v == Malformed && line:
		return errors.New("the line of the PROXY header ends with LF and not with CR LF")
	case v == Malformed && sent[len(proxyV2)]>>4 != 2:
		return fmt.Errorf("the PROXY header is of version %d, which does not exist", sent[len(proxyV2)]>>4)
	case v == Malformed:
		return fmt.Errorf("the PROXY header has the command %d, which does not exist", sent[len(proxyV2)]&0xf)
	}
	return nil
}

// startsLike says whether sent begins with start, or may come to.
func startsLike(sent []byte, start string) bool {
	n := min(len(sent), len(start))
	return string(sent[:n]) == start[:n]
}

func proxyLine(sent []byte) (int, Verdict) {
	if !startsLike(sent, proxyV1) {
		return 0, Foreign
	}
	line := sent[:min(len(sent), proxyV1Max)]
	end := bytes.IndexByte(line, '\n')
	switch {
	case end > 0 && line[end-1] == '\r':
		return end + 1, Found
	case end >= 0:
		return 0, Malformed
	case len(line) == proxyV1Max:
		return 0, TooLong
	default:
		return len(sent) + 1, More
	}
}

func proxyBinary(sent []byte, limit int) (int, Verdict) {
	if !startsLike(sent, proxyV2) {
		return 0, Foreign
	}
	if len(sent) > len(proxyV2) && sent[len(proxyV2)]&^1 != 0x20 { // version 2, LOCAL or PROXY
		return 0, Malformed
	}
	if len(sent) < proxyV2Header {
		return len(sent) + 1, More
	}
	length := proxyV2Length(sent)
	switch n := proxyV2Header + length; {
	case length > limit:
		return 0, TooLong
	case n > len(sent):
		return n, More
	default:
		return n, Found
	}
}

// proxyV2Length is what the first 16 bytes of a header of version 2 say of how many follow.
func proxyV2Length(sent []byte) int { return int(sent[14])<<8 | int(sent[15]) }

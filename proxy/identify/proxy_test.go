package identify_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"imlb/proxy/identify"
)

func TestByTLV(t *testing.T) {
	t.Parallel()
	ssl := func(client, verify byte, fields string) []identify.TLV {
		return []identify.TLV{{Type: identify.TLVSSL, Value: append([]byte{client, 0, 0, 0, verify}, fields...)}}
	}
	cn := "\x21\x00\x07TLSv1.3\x22\x00\x05alice"
	byCN := identify.ByTLV{Type: identify.TLVSSL, Sub: identify.TLVSSLCN}
	for _, c := range []struct {
		name string
		id   identify.ByTLV
		tlvs []identify.TLV
		want identify.Verdict
		key  string
	}{
		{"authority", identify.ByTLV{Type: identify.TLVAuthority}, []identify.TLV{{Type: 1, Value: []byte("h2")}, {Type: 2, Value: []byte("a.example")}}, identify.Found, "a.example"},
		{"unique id", identify.ByTLV{Type: identify.TLVUniqueID}, []identify.TLV{{Type: 5, Value: []byte("x-1")}}, identify.Found, "x-1"},
		{"unique id that is not text", identify.ByTLV{Type: identify.TLVUniqueID}, []identify.TLV{{Type: 5, Value: []byte{0, 1}}}, identify.BadKey, ""},
		{"the first of two", identify.ByTLV{Type: 0xE5}, []identify.TLV{{Type: 0xE5, Value: []byte("a")}, {Type: 0xE5, Value: []byte("b")}}, identify.Found, "a"},
		{"empty", identify.ByTLV{Type: 0xE5}, []identify.TLV{{Type: 0xE5}}, identify.Nobody, ""},
		{"none", identify.ByTLV{Type: 0xE5}, nil, identify.Nobody, ""},
		{"common name", byCN, ssl(3, 0, cn), identify.Found, "alice"},
		{"common name in a resumed session", byCN, ssl(5, 0, cn), identify.Found, "alice"},
		{"a certificate that was not verified", byCN, ssl(3, 1, cn), identify.Nobody, ""},
		{"no certificate", byCN, ssl(1, 0, cn), identify.Nobody, ""},
		{"no common name", byCN, ssl(3, 0, "\x21\x00\x01x"), identify.Nobody, ""},
		{"cut short", byCN, []identify.TLV{{Type: identify.TLVSSL, Value: []byte{3, 0, 0}}}, identify.Malformed, ""},
		{"a field cut short", byCN, ssl(3, 0, "\x22\x00\x05ali"), identify.Malformed, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want(t, c.id.Identify(identify.Input{Facts: identify.Facts{TLVs: c.tlvs}}), c.want, c.key)
		})
	}
}

const v2 = "\r\n\r\n\x00\r\nQUIT\n"

func TestProxyHeader(t *testing.T) {
	t.Parallel()
	longest := "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"
	if len(longest) != 107 {
		t.Fatal("the specification says 107 bytes")
	}
	for _, c := range []struct {
		name, sent string
		want       identify.Verdict
		header     string
	}{
		{"nothing", "", identify.More, ""},
		{"1", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nrest\r\n", identify.Found, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"},
		{"1 unknown", "PROXY UNKNOWN\r\n", identify.Found, "PROXY UNKNOWN\r\n"},
		{"1 longest", longest + "x", identify.Found, longest},
		{"1 too long by a byte", longest[:105] + "x\r\n", identify.TooLong, ""},
		{"1 too long", "PROXY UNKNOWN " + strings.Repeat("x", 100), identify.TooLong, ""},
		{"1 without CR", "PROXY UNKNOWN\n", identify.Malformed, ""},
		{"1 to come", "PROXY TCP4 192", identify.More, ""},
		{"1 almost", "PROXYTCP4", identify.Foreign, ""},
		{"2", v2 + "\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02rest", identify.Found, v2 + "\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02"},
		{"2 LOCAL", v2 + "\x20\x00\x00\x00rest", identify.Found, v2 + "\x20\x00\x00\x00"},
		{"2 LOCAL with something in it", v2 + "\x20\x00\x00\x03abcrest", identify.Found, v2 + "\x20\x00\x00\x03abc"},
		{"2 to come", v2 + "\x21\x11\x00\x0c\x01\x02", identify.More, ""},
		{"2 command 2", v2 + "\x22", identify.Malformed, ""},
		{"version 3", v2 + "\x31", identify.Malformed, ""},
		{"2 too long", v2 + "\x21\x11\x10\x01", identify.TooLong, ""},
		{"2 almost", v2[:11] + "x", identify.Foreign, ""},
		{"an empty line", "\r\nHELLO", identify.Foreign, ""},
		{"TLS", "\x16\x03\x01", identify.Foreign, ""},
		{"HTTP", "POST / HTTP/1.1\r\n", identify.Foreign, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want(t, checkSteps(t, proxyHeader{}, []byte(c.sent)), c.want, c.header)
		})
	}
	long := []byte(v2 + "\x20\x00\x00\x03abc")
	want(t, checkSteps(t, proxyHeader{limit: 3}, long), identify.Found, string(long))
	want(t, checkSteps(t, proxyHeader{limit: 2}, long), identify.TooLong, "")
	if n, v := identify.ProxyHeader([]byte(v2+"\x21\x11\x00\x0c"), 0); v != identify.More || n != 28 {
		t.Errorf("the length is known: %d, %v", n, v)
	}
}

// withCRC appends a field with the checksum to a header whose length counts it already.
func withCRC(header string, after string) []byte {
	whole := append([]byte(header), 3, 0, 4, 0, 0, 0, 0)
	at := len(whole) - 4
	whole = append(whole, after...)
	binary.BigEndian.PutUint32(whole[at:], crc32.Checksum(whole, crc32.MakeTable(crc32.Castagnoli)))
	return whole
}

// A checksum that is there has to be right, wherever it stands; every bit counts.
func TestCheckProxyHeader(t *testing.T) {
	t.Parallel()
	addresses := "\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02"
	for name, header := range map[string][]byte{
		"IPv4":      withCRC(v2+"\x21\x11\x00\x13"+addresses, ""),
		"in fields": withCRC(v2+"\x21\x11\x00\x1b"+addresses+"\x02\x00\x01x", "\x05\x00\x01y"),
		"UNSPEC":    withCRC(v2+"\x21\x00\x00\x07", ""),
		"IPv6":      withCRC(v2+"\x21\x21\x00\x2b"+strings.Repeat("a", 36), ""),
		"UNIX":      withCRC(v2+"\x21\x31\x00\xdf"+strings.Repeat("a", 216), ""),
	} {
		if v := identify.CheckProxyHeader(header); v != identify.Found {
			t.Errorf("%s: %v", name, v)
		}
		sum := bytes.Index(header, []byte{3, 0, 4}) + 3
		for bit := range 32 {
			broken := bytes.Clone(header)
			broken[sum+bit/8] ^= 1 << (bit % 8)
			if v := identify.CheckProxyHeader(broken); v != identify.Malformed {
				t.Errorf("%s with bit %d of the checksum wrong: %v", name, bit, v)
			}
		}
	}
	for _, without := range []string{"", "PROXY UNKNOWN\r\n", v2 + "\x21\x11\x00\x0c" + addresses, v2 + "\x20\x00\x00\x00", v2 + "\x21\x11\x00\x0f" + addresses + "\x03\x00\x04"} {
		if v := identify.CheckProxyHeader([]byte(without)); v != identify.Found {
			t.Errorf("%q: %v", without, v)
		}
	}
}

// FuzzCheckProxyHeader: no header is too odd, and what becomes LOCAL keeps its fields.
func FuzzCheckProxyHeader(f *testing.F) {
	f.Add(withCRC(v2+"\x21\x00\x00\x07", ""))
	f.Add(withCRC(v2+"\x21\x31\x00\xdf"+strings.Repeat("a", 216), ""))
	f.Fuzz(func(t *testing.T, header []byte) {
		identify.CheckProxyHeader(header)
		local := identify.LocalProxyHeader(header)
		if len(local) > len(header) || !bytes.HasSuffix(header, local[min(16, len(local)):]) {
			t.Fatalf("%q became %q", header, local)
		}
		if addresses, tlvs := identify.CutProxyHeader(local); !bytes.Equal(append(addresses[:len(addresses):len(addresses)], tlvs...)[min(16, len(local)):], local[min(16, len(local)):]) {
			t.Fatalf("%q was cut into %q and %q", local, addresses, tlvs)
		}
	})
}

// What is wrong with a header is said of one that has its signature.
func TestProxyHeaderError(t *testing.T) {
	t.Parallel()
	for sent, want := range map[string]string{
		"PROXY UNKNOWN " + strings.Repeat("x", 200):  "the line of the PROXY header is longer than 107 bytes",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\nrest":   "the line of the PROXY header ends with LF and not with CR LF",
		v2 + "\x21\x11\xff\xff":                      "the PROXY header says that 65535 bytes follow, and may have 4096",
		v2 + "\x31\x11\x00\x0c":                      "the PROXY header is of version 3, which does not exist",
		v2 + "\x22":                                  "the PROXY header has the command 2, which does not exist",
		"GET / HTTP/1.1\r\n":                         "",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nrest": "",
		v2 + "\x21\x11\x00\x0c":                      "",
		"":                                           "",
	} {
		got := ""
		if err := identify.ProxyHeaderError([]byte(sent), 0); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, not %q", sent, got, want)
		}
	}
}

// FuzzProxyHeader: where go-proxyproto finds a header we do, and it ends where we say.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nrest"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(v2 + "\x20\x00\x00\x00rest"))
	h := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 2})
	whole, err := h.Format()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(whole, "rest"...))
	f.Fuzz(func(t *testing.T, sent []byte) {
		checkSteps(t, proxyHeader{}, sent[:min(len(sent), 300)])
		in := bytes.NewReader(sent)
		buffered := bufio.NewReaderSize(in, max(len(sent), 16))
		_, err := proxyproto.Read(buffered)
		read := len(sent) - in.Len() - buffered.Buffered()
		n, v := identify.ProxyHeader(sent, 0)
		said := identify.ProxyHeaderError(sent, 0)
		switch {
		case (said != nil) != (v == identify.Malformed || v == identify.TooLong):
			t.Fatalf("%q: %v, and %v", sent, v, said)
		case err == nil && (v != identify.Found || n != read):
			t.Fatalf("%q: %d, %v; go-proxyproto read %d", sent, n, v, read)
		case v == identify.Found && errors.Is(err, proxyproto.ErrNoProxyProtocol):
			t.Fatalf("%q: %d, %v; go-proxyproto: %v", sent, n, v, err)
		}
	})
}

package identify_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"imlb/proxy/identify"
)

// wire is a connection on which what is written is kept, and what is read is given.
type wire struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (w *wire) Read(p []byte) (int, error)  { return w.in.Read(p) }
func (w *wire) Write(p []byte) (int, error) { return w.out.Write(p) }
func (w *wire) Close() error                { return nil }

// capture returns the ClientHello of crypto/tls, as it is on the wire.
func capture(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	w := &wire{in: strings.NewReader("")}
	if err := tls.Client(w, config).HandshakeContext(t.Context()); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return w.out.Bytes()
}

// oracle returns what a server of crypto/tls reads in a ClientHello.
func oracle(ctx context.Context, sent []byte) *tls.ClientHelloInfo {
	var info *tls.ClientHelloInfo
	server := tls.Server(&wire{in: bytes.NewReader(sent)}, &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			info = h
			return nil, io.EOF
		},
	})
	_ = server.HandshakeContext(ctx)
	return info
}

// inRecords wraps a handshake message in records of a size.
func inRecords(message []byte, size int) []byte {
	var sent []byte
	for body := range slices.Chunk(message, size) {
		sent = append(sent, 22, 3, 1)
		sent = binary.BigEndian.AppendUint16(sent, uint16(len(body)))
		sent = append(sent, body...)
	}
	return sent
}

// hello makes a ClientHello message with these extensions.
func hello(extensions []byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0)                         // session id
	body = append(body, 0, 4, 0x0A, 0x0A, 0x13, 1) // GREASE, TLS_AES_128_GCM_SHA256
	body = append(body, 1, 0)                      // no compression
	body = append(vector16(body, extensions), []byte{}...)
	return append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
}

func vector16(b, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

func extension(kind uint16, data []byte) []byte {
	return vector16(binary.BigEndian.AppendUint16(nil, kind), data)
}

func serverName(name string) []byte {
	return extension(0, vector16(nil, vector16([]byte{0}, []byte(name))))
}

func alpn(names ...string) []byte {
	var list []byte
	for _, n := range names {
		list = append(append(list, byte(len(n))), n...)
	}
	return extension(16, vector16(nil, list))
}

func config(name string, protocols ...string) *tls.Config {
	return &tls.Config{ServerName: name, NextProtos: protocols, MinVersion: tls.VersionTLS12}
}

func TestClientHelloOfCryptoTLS(t *testing.T) {
	t.Parallel()
	classic := config("Chat.Example.COM", "xmpp-client", "http/1.1")
	classic.CurvePreferences = []tls.CurveID{tls.X25519}
	nameless := config("", "mqtt")
	nameless.InsecureSkipVerify = true
	hybrid := config("chat.example.com")
	hybrid.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768, tls.X25519}
	for _, c := range []struct {
		name   string
		config *tls.Config
		server string
		alpn   []string
		least  int
	}{
		{"classic", classic, "chat.example.com", []string{"xmpp-client", "http/1.1"}, 100},
		{"no name", nameless, "", []string{"mqtt"}, 100},
		{"X25519MLKEM768", hybrid, "chat.example.com", nil, 1300},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sent := capture(t, c.config)
			if len(sent) < c.least {
				t.Fatalf("a hello of %d bytes, want %d", len(sent), c.least)
			}
			for _, size := range []int{len(sent), 512, 100, len(sent)/64 + 1} {
				split := inRecords(sent[5:], size)
				h, _, v := identify.ParseClientHello(split, 0)
				if v != identify.Found || h.ServerName != c.server || !slices.Equal(h.ALPN, c.alpn) || h.ECH {
					t.Errorf("records of %d: %+v, %v", size, h, v)
				}
				checkSteps(t, identify.SNI{}, split)
				checkSteps(t, clientHello{}, append(split, "what follows"...))
			}
		})
	}
}

// The outer hello shows the name of the front that decrypts, and nothing else.
func TestClientHelloWithECH(t *testing.T) {
	t.Parallel()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	contents := append([]byte{7, 0, 0x20}, vector16(nil, key.PublicKey().Bytes())...)   // config id, KEM
	contents = append(vector16(contents, []byte{0, 1, 0, 1}), 0)                        // KDF and AEAD, longest name
	contents = append(append(contents, byte(len("front.example"))), "front.example"...) // public name
	contents = append(contents, 0, 0)                                                   // extensions
	secret := config("secret.example", "xmpp-client")
	secret.MinVersion = tls.VersionTLS13
	secret.EncryptedClientHelloConfigList = vector16(nil, extension(0xFE0D, contents))
	h, _, v := identify.ParseClientHello(capture(t, secret), 0)
	if v != identify.Found || h.ServerName != "front.example" || !h.ECH {
		t.Errorf("got %+v, %v", h, v)
	}
}

func TestClientHelloRules(t *testing.T) {
	t.Parallel()
	whole := hello(slices.Concat(extension(0x0A0A, nil), serverName("a.example"), alpn("\x0a\x0a", "mqtt"), extension(0x1A1A, []byte{0})))
	record := func(extensions ...[]byte) []byte { return inRecords(hello(slices.Concat(extensions...)), 1<<14) }
	damaged := func(at int, b byte) []byte {
		sent := inRecords(whole, 1<<14)
		sent[at] = b
		return sent
	}
	for _, c := range []struct {
		name string
		sent []byte
		want identify.Verdict
		key  string
	}{
		{"GREASE", inRecords(whole, 1<<14), identify.Found, "a.example,\n\n,mqtt"},
		{"over 64 records", inRecords(ofLength(128), 2), identify.Found, "a.example"},
		{"over 65 records", inRecords(ofLength(130), 2), identify.TooLong, ""},
		{"no extensions", inRecords(hello(nil), 1<<14), identify.Found, ""},
		{"a trailing dot", record(serverName("A.Example.")), identify.Found, "a.example"},
		{"SSLv2", []byte("\x80\x2e\x01\x03\x01"), identify.Foreign, ""},
		{"HTTP", []byte("GET / HTTP/1.1"), identify.Foreign, ""},
		{"alert", []byte{21, 3, 1, 0, 2, 1, 0}, identify.Foreign, ""},
		{"another major version", damaged(1, 2), identify.Foreign, ""},
		{"an empty record", []byte{22, 3, 1, 0, 0}, identify.Malformed, ""},
		{"a record of 16,385 bytes", []byte{22, 3, 1, 0x40, 1}, identify.Malformed, ""},
		{"a ServerHello", damaged(5, 2), identify.Malformed, ""},
		{"a message of 64 KiB", damaged(6, 1), identify.TooLong, ""},
		{"application data between", append(inRecords(whole[:20], 20), 23, 3, 3, 0, 1, 0), identify.Malformed, ""},
		{"a session id of 32", inRecords(withSessionID(32), 1<<14), identify.Found, "a.example"},
		{"a session id of 33", inRecords(withSessionID(33), 1<<14), identify.Malformed, ""},
		{"something after the extensions", inRecords(append(sized(whole, len(whole)+1), 0), 1<<14), identify.Malformed, ""},
		{"something after the server names", record(extension(0, append(vector16(nil, []byte("\x00\x00\x01a")), 0))), identify.Malformed, ""},
		{"something after the protocols", record(extension(16, append(vector16(nil, []byte("\x01a")), 0))), identify.Malformed, ""},
		{"two lists of server names", record(extension(0, vector16(nil, []byte("\x07\x00\x01a"))), serverName("a.example")), identify.Malformed, ""},
		{"two ECH", record(extension(0xFE0D, []byte{1}), extension(0xFE0D, []byte{1})), identify.Malformed, ""},
		{"two server names", record(serverName("a.example"), serverName("b.example")), identify.Malformed, ""},
		{"two host names", record(extension(0, vector16(nil, []byte("\x00\x00\x01a\x00\x00\x01b")))), identify.Malformed, ""},
		{"another type of name", record(extension(0, vector16(nil, []byte("\x07\x00\x01a\x00\x00\x01b")))), identify.Found, "b"},
		{"no name in the list", record(extension(0, vector16(nil, nil))), identify.Malformed, ""},
		{"an empty name", record(serverName("")), identify.Malformed, ""},
		{"a name with a line feed", record(serverName("a\nb")), identify.Malformed, ""},
		{"a name of 255", record(serverName(strings.Repeat("a", 255))), identify.Malformed, ""},
		{"two ALPN", record(alpn("a"), alpn("b")), identify.Malformed, ""},
		{"an empty protocol", record(alpn("")), identify.Malformed, ""},
		{"no protocol", record(alpn()), identify.Malformed, ""},
		{"an extension cut short", record([]byte{0, 1, 0, 9, 0}), identify.Malformed, ""},
		{"nothing", nil, identify.More, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want(t, checkSteps(t, clientHello{}, c.sent), c.want, c.key)
		})
	}
}

// sized changes the length in a message's header to that of a message of n bytes.
func sized(message []byte, n int) []byte {
	message = slices.Clone(message)
	message[2], message[3] = byte((n-4)>>8), byte(n-4)
	return message
}

// ofLength makes a ClientHello of n bytes.
func ofLength(n int) []byte {
	bare := hello(append(serverName("a.example"), extension(21, nil)...))
	return hello(append(serverName("a.example"), extension(21, make([]byte, n-len(bare)))...))
}

// withSessionID makes a ClientHello with a session id of n bytes.
func withSessionID(n int) []byte {
	const at = 4 + 2 + 32
	bare := hello(serverName("a.example"))
	message := slices.Concat(bare[:at], []byte{byte(n)}, make([]byte, n), bare[at+1:])
	return sized(message, len(message))
}

// The inner hello of ECH, which only the front that decrypts sees, is not an outer one.
func TestClientHelloInsideECH(t *testing.T) {
	t.Parallel()
	for kind, outer := range map[byte]bool{0: true, 1: false} {
		h, _, v := identify.ParseClientHello(inRecords(hello(extension(0xFE0D, []byte{kind})), 100), 0)
		if v != identify.Found || h.ECH != outer {
			t.Errorf("type %d: %+v, %v", kind, h, v)
		}
	}
}

func TestSNI(t *testing.T) {
	t.Parallel()
	want(t, checkSteps(t, identify.SNI{}, inRecords(hello(serverName("Alice.Example.")), 50)), identify.Found, "alice.example")
	want(t, checkSteps(t, identify.SNI{}, inRecords(hello(alpn("mqtt")), 50)), identify.Nobody, "")
	message := hello(serverName("a.example"))
	want(t, checkSteps(t, identify.SNI{Max: len(message)}, inRecords(message, 50)), identify.Found, "a.example")
	want(t, checkSteps(t, identify.SNI{Max: len(message) - 1}, inRecords(message, 50)), identify.TooLong, "")
	want(t, checkSteps(t, identify.SNI{Max: 50}, inRecords(hello(alpn("mqtt")), 50)), identify.TooLong, "")
}

// FuzzClientHello: what crypto/tls reads, we read.
func FuzzClientHello(f *testing.F) {
	hybrid := config("chat.example.com", "xmpp-client")
	f.Add(capture(f, hybrid)[5:], uint16(1000))
	f.Add(hello(serverName("a.example")), uint16(20))
	f.Add(hello(slices.Concat(extension(0x0A0A, nil), alpn("mqtt", "h2"))), uint16(1))
	f.Fuzz(func(t *testing.T, message []byte, size uint16) {
		sent := inRecords(message, max(int(size)&(1<<14-1), len(message)/60+1))
		checkSteps(t, clientHello{limit: 4 << 10}, sent[:min(len(sent), 4<<10)])
		got, _, v := identify.ParseClientHello(sent, 1<<20)
		info := oracle(t.Context(), sent)
		if info == nil || strings.ContainsFunc(info.ServerName, notHost) || len(info.ServerName) > 253 {
			return
		}
		if v != identify.Found || got.ServerName != strings.ToLower(info.ServerName) || !slices.Equal(got.ALPN, info.SupportedProtos) {
			t.Fatalf("%x: got %+v, %v; crypto/tls reads %q, %q", sent, got, v, info.ServerName, info.SupportedProtos)
		}
	})
}

func notHost(r rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._", r)
}

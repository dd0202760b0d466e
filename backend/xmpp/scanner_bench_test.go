package xmpp_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"testing"

	"imlb/backend/xmpp"
)

// chat is a message as a current client sends it, 391 bytes long.
var chat = []byte(`<message xmlns='jabber:client' from='alice@example.com/phone.7f3c' to='bob@example.com' ` +
	`type='chat' id='5f6a2f0e-6b0a-4c34-9d1f-2a7cf3d81b11' xml:lang='en'><body>Shall we meet at the station at ` +
	`half past six? I have to return the book first.</body><active xmlns='http://jabber.org/protocol/chatstates'/>` +
	`<request xmlns='urn:xmpp:receipts'/><origin-id xmlns='urn:xmpp:sid:0' id='5f6a2f0e-6b0a-4c34'/></message>`)

func openScanner(tb failer, l xmpp.Limits) *xmpp.Scanner {
	tb.Helper()
	s := xmpp.NewScanner(l)
	if tok, _, err := s.Next([]byte(header)); err != nil || tok.Kind != xmpp.KindOpen {
		tb.Fatalf("header: %v, %v", tok.Kind, err)
	}
	return s
}

// sent is a message without extensions, and delivered what a node makes of it: each has 256
// bytes of text.
var (
	words = string(bytes.Repeat([]byte("some sixteen let"), 16))
	sent  = []byte("<message type='chat' to='bob@example.com' id='0000002a'><body>" + words + "</body></message>")

	delivered = []byte("<message type='chat' to='bob@example.com/phone.7f3c' id='0000002a' from='alice@example.com/tablet'>" +
		"<body>" + words + "</body><stanza-id xmlns='urn:xmpp:sid:0' by='bob@example.com' id='1712'/></message>")
)

func BenchmarkScanner(b *testing.B) {
	for _, bb := range []struct {
		name string
		raw  []byte
	}{{"sent", sent}, {"delivered", delivered}, {"chat", chat}} {
		b.Run(bb.name, func(b *testing.B) {
			s := openScanner(b, xmpp.Limits{})
			b.SetBytes(int64(len(bb.raw)))
			b.ReportAllocs()
			for b.Loop() {
				if tok, _, err := s.Next(bb.raw); err != nil || tok.Kind != xmpp.KindElement {
					b.Fatal(tok.Kind, err)
				}
			}
		})
	}
}

func BenchmarkScannerTwoChunks(b *testing.B) {
	s := openScanner(b, xmpp.Limits{})
	b.SetBytes(int64(len(chat)))
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = s.Next(chat[:200])
		if tok, _, err := s.Next(chat[200:]); err != nil || tok.Kind != xmpp.KindElement {
			b.Fatal(tok.Kind, err)
		}
	}
}

func BenchmarkScannerLongText(b *testing.B) {
	s := openScanner(b, xmpp.Limits{})
	long := []byte("<message><body>" + string(bytes.Repeat([]byte("long text "), 3000)) + "</body></message>")
	b.SetBytes(int64(len(long)))
	for b.Loop() {
		if tok, _, err := s.Next(long); err != nil || tok.Kind != xmpp.KindElement {
			b.Fatal(tok.Kind, err)
		}
	}
}

func BenchmarkScannerWideText(b *testing.B) {
	s := openScanner(b, xmpp.Limits{})
	long := []byte("<message><body>" + string(bytes.Repeat([]byte("Всем привет, как дела? "), 1000)) + "</body></message>")
	b.SetBytes(int64(len(long)))
	for b.Loop() {
		if tok, _, err := s.Next(long); err != nil || tok.Kind != xmpp.KindElement {
			b.Fatal(tok.Kind, err)
		}
	}
}

func BenchmarkEncodingXML(b *testing.B) {
	b.SetBytes(int64(len(chat)))
	b.ReportAllocs()
	for b.Loop() {
		d := xml.NewDecoder(bytes.NewReader(chat))
		for {
			if _, err := d.Token(); err != nil {
				if !errors.Is(err, io.EOF) {
					b.Fatal(err)
				}
				break
			}
		}
	}
}

func BenchmarkParseHeader(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := xmpp.ParseHeader(chat); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendWithAttrs(b *testing.B) {
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		dst = xmpp.AppendWithAttrs(dst[:0], chat, xmpp.Attr{Name: "from", Value: "alice@example.com/tablet"})
	}
}

func BenchmarkParseJID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := xmpp.ParseJID("alice@example.com/phone.7f3c"); err != nil {
			b.Fatal(err)
		}
	}
}

const header = `<?xml version='1.0'?><stream:stream to='example.com' version='1.0' xml:lang='en' ` +
	`xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>`

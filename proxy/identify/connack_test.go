package identify_test

import (
	"bytes"
	"strings"
	"testing"

	"imlb/proxy/identify"
)

// answers are what servers begin with, and what that says.
func answers() map[string]identify.MQTTAnswer {
	return map[string]identify.MQTTAnswer{
		"":                             identify.MQTTPending,
		"\x20":                         identify.MQTTPending,
		"\x20\x02\x00":                 identify.MQTTPending,
		"\x20\x02\x01\x00":             identify.MQTTAccepted, // with a session
		"\x20\x02\x00\x00\xd0":         identify.MQTTAccepted, // and a packet after it
		"\x20\x02\x00\x01":             identify.MQTTRefused,  // the version
		"\x20\x02\x00\x03":             identify.MQTTRefused,  // unavailable
		"\x20\x02\x00\x04":             identify.MQTTDenied,
		"\x20\x02\x00\x05":             identify.MQTTDenied,
		"\x20\x03\x00\x00\x00":         identify.MQTTAccepted,
		"\x20\x03\x00\x86\x00":         identify.MQTTDenied,
		"\x20\x03\x00\x87\x00":         identify.MQTTDenied,
		"\x20\x03\x00\x88\x00":         identify.MQTTRefused, // unavailable
		"\x20\x03\x00\x8a\x00":         identify.MQTTDenied,
		"\x20\x03\x00\x8c\x00":         identify.MQTTDenied,
		"\x20\x03\x00\x9f\x00":         identify.MQTTRefused,  // too many connections
		"\x20\xff\xff\xff\x7f\x00\x86": identify.MQTTDenied,   // the longest packet
		"\x20\x83\x00\x00\x86":         identify.MQTTDenied,   // a length that is longer than it need be
		"\xf0\x00\x20\x03\x00\x00":     identify.MQTTAccepted, // after an AUTH that says nothing
		"\xf0\x05\x18\x03\x15\x00\x00\xf0\x02\x18\x00\x20\x03\x00\x87": identify.MQTTDenied,  // after two steps
		"\xf0\x05\x18\x20\x03\x00":                                     identify.MQTTPending, // inside a step
		"\x20\x01\x00":                                                 identify.MQTTNone,    // no room for a code
		"\x20\xff\xff\xff\xff":                                         identify.MQTTNone,    // no length
		"\x21\x02\x00\x00":                                             identify.MQTTNone,
		"\xd0\x00":                                                     identify.MQTTNone,
		"\x16\x03\x03":                                                 identify.MQTTNone, // TLS
		"SSH-2.0":                                                      identify.MQTTNone,
	}
}

func TestConnack(t *testing.T) {
	t.Parallel()
	for sent, want := range answers() {
		if got := new(identify.Connack).Read([]byte(sent)); got != want {
			t.Errorf("%q: %v, want %v", sent, got, want)
		}
		if got := byteByByte([]byte(sent)); got != want {
			t.Errorf("%q, byte by byte: %v, want %v", sent, got, want)
		}
	}
}

// What a client may be answered with instead depends on what it has got, and on its version.
func TestConnackInstead(t *testing.T) {
	t.Parallel()
	for sent, want := range map[string]struct {
		begun   bool
		version byte
	}{
		"\x20\x02\x00\x00":                  {false, 4},
		"\x20\x03\x00\x00\x00":              {false, 5},
		"\x20\x83\x01\x00\x00\x80\x01":      {false, 5},
		"\xf0\x01\x18|\x20\x03\x00\x00\x00": {false, 5}, // after a whole step
		"\xf0\x01|\x18\x20\x03\x00\x00\x00": {true, 5},
		"\x20|\x02\x00\x00":                 {true, 4},
		"\x20\x02\x00|\x00":                 {true, 4},
	} {
		var c identify.Connack
		before, last, cut := strings.Cut(sent, "|")
		if !cut {
			before, last = "", sent
		}
		c.Read([]byte(before))
		if got := c.Begun(); got != want.begun {
			t.Errorf("%q: begun is %v", sent, got)
		}
		if got := c.Read([]byte(last)); got != identify.MQTTAccepted || c.Version() != want.version {
			t.Errorf("%q: %v of version %d, want %d", sent, got, c.Version(), want.version)
		}
	}
}

// byteByByte is the answer in what comes one byte at a time.
func byteByByte(sent []byte) identify.MQTTAnswer {
	var c identify.Connack
	for i := range sent {
		if a := c.Read(sent[i : i+1]); a != identify.MQTTPending {
			return a
		}
	}
	return identify.MQTTPending
}

// FuzzConnack: how an answer is split does not matter, nor what comes after it.
func FuzzConnack(f *testing.F) {
	for sent := range answers() {
		f.Add([]byte(sent), uint(3))
	}
	f.Fuzz(func(t *testing.T, sent []byte, cut uint) {
		want := new(identify.Connack).Read(sent)
		if got := byteByByte(sent); got != want {
			t.Errorf("byte by byte: %v, want %v", got, want)
		}
		at := int(cut % uint(len(sent)+1)) //nolint:gosec // G115: it is no more than the length
		var c identify.Connack
		got := c.Read(sent[:at])
		if got == identify.MQTTPending {
			got = c.Read(sent[at:])
		}
		if got != want {
			t.Errorf("cut at %d: %v, want %v", at, got, want)
		}
		if want == identify.MQTTPending {
			return
		}
		if got := new(identify.Connack).Read(append(bytes.Clone(sent), 0x20, 2, 0, 4)); got != want {
			t.Errorf("with more behind: %v, want %v", got, want)
		}
	})
}

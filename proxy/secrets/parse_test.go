package secrets_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"imlb/proxy/secrets"
)

// Secrets of 32 bytes in the forms that are read.
var (
	inHex     = strings.Repeat("9f", 32)
	inBase64  = "mZ0HhLxq3Yt0Jv1yJm0o0Qb8hDk2r5uQy7w3pZ0sF1E="
	unpadded  = "mZ0HhLxq3Yt0Jv1yJm0o0Qb8hDk2r5uQy7w3pZ0sF1I"
	urlSafe   = "-_0HhLxq3Yt0Jv1yJm0o0Qb8hDk2r5uQy7w3pZ0sF1E="
	withPlus  = "+/0HhLxq3Yt0Jv1yJm0o0Qb8hDk2r5uQy7w3pZ0sF1E"
	shortText = "c2hvcnQ="
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, text string
		secrets    int
		line       int    // of the error
		problem    string // the error; "" for none
		cure       string
	}{
		{name: "one", text: "1769817600 " + inHex, secrets: 1},
		{name: "all forms", text: "# us\n\nstatic " + inBase64 + "\n2026-01-31T12:00:00Z " + unpadded + "\r\n" +
			"2026-01-31T12:00:00+01:00\t" + urlSafe + "\n  1769817000   " + inHex + "  \n", secrets: 3},
		{name: "same time", text: "5 " + inHex + "\n5 " + inBase64, secrets: 2},
		{name: "alphabets", text: "5 " + withPlus, secrets: 1},
		{name: "empty", text: "# nothing\n", problem: "there is no secret", cure: "a line is a time"},
		{name: "only static", text: "static " + inHex, problem: "there is no secret", cure: "a line is a time"},
		{name: "one word", text: "# a\n" + inHex, line: 2, problem: "there are 1 words", cure: "a line is a time"},
		{name: "three words", text: "5 " + inHex + " old", line: 1, problem: "there are 3 words", cure: "a line is a time"},
		{name: "swapped", text: inHex + " 5", line: 1, problem: "neither base64 nor", cure: "openssl rand"},
		{name: "time", text: "yesterday " + inHex, line: 1, problem: "the time cannot be read", cure: "RFC 3339"},
		{name: "negative time", text: "-5 " + inHex, line: 1, problem: "the time cannot be read", cure: "RFC 3339"},
		{name: "short", text: "5 " + inHex + "\n4 " + shortText, line: 2, problem: "5 bytes, less than 32", cure: "openssl rand"},
		{name: "long", text: "5 " + strings.Repeat("9f", 1025), line: 1, problem: "1025 bytes, more than 1024", cure: "openssl rand"},
		{name: "not encoded", text: "5 hunter2!", line: 1, problem: "neither base64 nor", cure: "openssl rand"},
		{name: "order", text: "5 " + inHex + "\n6 " + inBase64, line: 2, problem: "newer than the one before", cure: "newest first"},
		{name: "twice", text: "5 " + inHex + "\n\n4 " + inHex, line: 3, problem: "that of line 1", cure: "openssl rand"},
		{name: "two static", text: "static " + inHex + "\nstatic " + inBase64, line: 2, problem: "a second static", cure: "keep the one"},
		{name: "size", text: strings.Repeat("#", secrets.MaxSize+1), problem: "65537 bytes", cure: "at most 65536"},
		{name: "many", text: many(17), line: 17, problem: "more than 16 secrets", cure: "remove the oldest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ring, err := secrets.Parse([]byte(c.text))
			if c.problem == "" {
				if err != nil || ring.Len() != c.secrets {
					t.Fatalf("%v, %v; want %d secrets", ring, err, c.secrets)
				}
				return
			}
			var bad *secrets.LineError
			if !errors.As(err, &bad) || bad.Line != c.line || !strings.Contains(bad.Problem, c.problem) || !strings.Contains(bad.Cure, c.cure) {
				t.Fatalf("got %v, want line %d: …%s…; …%s…", err, c.line, c.problem, c.cure)
			}
			for _, word := range strings.Fields(c.text) {
				if len(word) > 6 && strings.Contains(err.Error(), word) {
					t.Errorf("the error quotes %q: %v", word, err)
				}
			}
		})
	}
}

// many returns a ring of n secrets.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("5 " + strings.Repeat(string("0123456789abcdefg"[i%16])+"a", 32+i/16) + "\n")
	}
	return b.String()
}

func TestMarshal(t *testing.T) {
	p := policy(t)
	var ring secrets.Ring
	for i := range 3 {
		ring, _ = ring.Next(epoch.Add(time.Duration(i)*p.Period), p)
	}
	again, err := secrets.Parse(ring.Marshal())
	if err != nil || !again.Equal(ring) {
		t.Fatalf("%v, %v", again, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"5 " + inHex, "static " + inBase64 + "\n2026-01-31T12:00:00Z " + unpadded, "# x\n\n5 " + urlSafe + "\r\n4 " + withPlus, many(16), "5 ====",
	} {
		f.Add([]byte(seed))
	}
	p := policy(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		ring, err := secrets.Parse(text)
		if err != nil {
			if ring.Len() != 0 {
				t.Error("an error and a ring")
			}
			return
		}
		if len(ring.Keys(epoch, p).Tickets) == 0 {
			t.Error("a ring without a key")
		}
		out := ring.Marshal()
		again, err := secrets.Parse(out)
		if err != nil || !again.Equal(ring) || !bytes.Equal(again.Marshal(), out) {
			t.Errorf("%q is written as %q and read as %v, %v", text, out, again, err)
		}
		if next, _ := ring.Next(epoch, p); next.Len() == 0 || len(next.Marshal()) > secrets.MaxSize {
			t.Errorf("%q becomes %v", text, next)
		}
	})
}

package identify_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"imlb/proxy/identify"
)

// pieces are what inputs at random are made of: whole starts of every protocol, and
// what lies across their rules.
var pieces = [][]byte{ //nolint:gochecknoglobals // A constant.
	[]byte(example31), []byte(example311), []byte(example5), []byte("LOGIN alice\r\n"), []byte("LOGIN "), []byte("login bob"),
	[]byte("\n"), []byte("NICK carol\r\nUSER carol 0 * :Carol\r\n"), []byte("CAP LS 302\r\n"), []byte("PASS dave/libera:secret\r\n"),
	[]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"), []byte("PROXY UNKNOWN\r\n"), []byte("\r\n\r\n\x00\r\nQUIT\n"), {0x21, 0x11, 0, 12},
	{0x20, 0, 0, 0}, bytes.Repeat([]byte{'x'}, 130), {0x16, 3, 1, 0, 1, 1}, {0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3}, {0x80},
}

// drawInput makes an input from pieces, cut and damaged.
func drawInput(t *rapid.T) []byte {
	input := bytes.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 5).Draw(t, "pieces"), nil)
	if rapid.Bool().Draw(t, "hello first") {
		input = append(drawHello(t), input...)
	}
	for range rapid.IntRange(0, 2).Draw(t, "damage") {
		if len(input) > 0 {
			input[rapid.IntRange(0, len(input)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		}
	}
	return input[:rapid.IntRange(0, len(input)).Draw(t, "length")]
}

// drawHello makes a small ClientHello over some records.
func drawHello(t *rapid.T) []byte {
	name := rapid.SampledFrom([]string{"", "a.example", "B.Example."}).Draw(t, "server name")
	var list []byte
	if name != "" {
		list = serverName(name)
	}
	return inRecords(hello(append(list, alpn("xmpp-client", "mqtt")...)), rapid.IntRange(1, 90).Draw(t, "record size"))
}

// proxyHeader lets ProxyHeader be checked like the identifiers.
type proxyHeader struct{ limit int }

func (p proxyHeader) Identify(in identify.Input) identify.Result {
	n, v := identify.ProxyHeader(in.Sent, p.limit)
	switch v {
	case identify.Found:
		return identify.Result{Verdict: v, Key: string(in.Sent[:n])}
	case identify.More:
		return identify.Result{Need: n}
	default:
		return identify.Result{Verdict: v}
	}
}

// clientHello does the same for ParseClientHello.
type clientHello struct{ limit int }

func (c clientHello) Identify(in identify.Input) identify.Result {
	h, need, v := identify.ParseClientHello(in.Sent, c.limit)
	r := identify.Result{Verdict: v, Need: need}
	if v == identify.Found {
		r.Key = h.ServerName
		for _, p := range h.ALPN {
			r.Key += "," + p
		}
	}
	return r
}

// TestOneByteAtATime: every identifier of bytes keeps its promises on inputs at random.
func TestOneByteAtATime(t *testing.T) {
	t.Parallel()
	for name, id := range map[string]identify.Identifier{
		"mqtt":            identify.MQTT{},
		"mqtt, client id": identify.MQTT{ClientIDFirst: true, Max: 40},
		"sni":             identify.SNI{},
		"sni, short":      identify.SNI{Max: 60},
		"hello":           clientHello{},
		"login":           pattern(t, identify.PatternConfig{Expr: `^LOGIN (\S+)\r?\n`}),
		"login, any case": pattern(t, identify.PatternConfig{Expr: `(?i)^login (\S+)\r?\n`}),
		"irc":             pattern(t, identify.PatternConfig{Expr: `(?im)^NICK :?(?P<user>[^\s:]+)`, Tries: 3}),
		"lazy":            pattern(t, identify.PatternConfig{Expr: `(?s)(?:N.*z|L.*?(?P<user>[a-z]+))`, End: " ", Max: 100}),
		"size":            pattern(t, identify.PatternConfig{Expr: `(?s)^.{3}(?P<user>.{4})`, Size: 9}),
		"proxy header":    proxyHeader{},
		"proxy, short":    proxyHeader{limit: 11},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) { checkSteps(t, id, drawInput(t)) })
		})
	}
}

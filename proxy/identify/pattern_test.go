package identify_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"imlb/proxy/identify"
)

func TestPattern(t *testing.T) {
	t.Parallel()
	login := identify.PatternConfig{Expr: `^LOGIN (?P<user>\S+)\r?\n`}
	nick := identify.PatternConfig{Expr: `(?im)^NICK :?(?P<user>[^\s:]+)`}
	pass := identify.PatternConfig{Expr: `(?im)^PASS :?(?P<user>[^:/\s]+)[:/]`}
	irc := "CAP LS 302\r\nPASS alice/libera:secret\r\nNICK ali\r\nUSER ali 0 * :Alice\r\n"
	for _, c := range []struct {
		name    string
		pattern identify.PatternConfig
		sent    string
		want    identify.Verdict
		key     string
	}{
		{"login", login, "LOGIN alice\r\nMSG bob hello\r\n", identify.Found, "alice"},
		{"login cut short", login, "LOGIN ali", identify.More, ""},
		{"the expression does not ask for the end", identify.PatternConfig{Expr: `^LOGIN (\w+)`}, "LOGIN alice\n", identify.Found, "alice"},
		{"nor does it get part of a name", identify.PatternConfig{Expr: `^LOGIN (\w+)`}, "LOGIN ali", identify.More, ""},
		{"another start", login, "LOGO", identify.Foreign, ""},
		{"another start, any case", identify.PatternConfig{Expr: `(?i)^login (\w+)`}, "lOgO", identify.Foreign, ""},
		{"any case", identify.PatternConfig{Expr: `(?i)^login (\w+)`}, "LogIn alice\n", identify.Found, "alice"},
		{"folds to more than ASCII", identify.PatternConfig{Expr: `(?i)^ask (\w+)`}, "a\u017f\u212a alice\n", identify.Found, "alice"},
		{"a start that is not ASCII", identify.PatternConfig{Expr: `^é (\w+)`}, "é alice\n", identify.Found, "alice"},
		{"IRC by nickname", nick, irc, identify.Found, "ali"},
		{"IRC by account", pass, irc, identify.Found, "alice"},
		{"IRC, small letters and a colon", nick, "nick :ali\n", identify.Found, "ali"},
		{"IRC, nickname to come", nick, irc[:40], identify.More, ""},
		{"several lines", identify.PatternConfig{Expr: `^1\n2\n(?P<user>\w+)\n$`}, "1\n2\nalice\n", identify.Found, "alice"},
		{"the leftmost match has no name", identify.PatternConfig{Expr: `(?m)^N (?P<user>\w*)$`}, "N \nN alice\n", identify.More, ""},
		{"too many tries", identify.PatternConfig{Expr: `(?m)^N (\w+)`, Tries: 2}, "a\nb\nN c\n", identify.Nobody, ""},
		{"the last try", identify.PatternConfig{Expr: `(?m)^N (\w+)`, Tries: 2}, "a\nN c\n", identify.Found, "c"},
		{"too many bytes", identify.PatternConfig{Expr: `^N (\w+)`, Max: 8}, "N alicea\n", identify.TooLong, ""},
		{"the last byte", identify.PatternConfig{Expr: `^N (\w+)`, Max: 8}, "N alice\n", identify.Found, "alice"},
		{"NUL ends", identify.PatternConfig{Expr: `^\x01(?P<user>[^\x00]+)\x00`, End: "\x00"}, "\x01al\nice\x00", identify.BadKey, ""},
		{"NUL ends a name", identify.PatternConfig{Expr: `^\x01(?P<user>[^\x00]+)\x00`, End: "\x00"}, "\x01alice\x00", identify.Found, "alice"},
		{"a size", identify.PatternConfig{Expr: `(?s)^.\x02(?P<user>.{5})`, Size: 8}, "\n\x02alice\n", identify.Found, "alice"},
		{"what comes after a size", identify.PatternConfig{Expr: `^..(?P<user>\w+)`, Size: 7}, "xxaliceandmore", identify.Found, "alice"},
		{"a start that stands for any byte that is not UTF-8", identify.PatternConfig{Expr: "^\uFFFD(\\w+)"}, "\xffalice\n", identify.Found, "alice"},
		{"a size to come", identify.PatternConfig{Expr: `(?s)^.\x02(?P<user>.{5})`, Size: 8}, "\n\x02alice", identify.More, ""},
		{"a size without a match", identify.PatternConfig{Expr: `^a(b)$`, Size: 3}, "abc", identify.Nobody, ""},
		{"not UTF-8", login, "LOGIN a\xff\n", identify.BadKey, ""},
		{"a user who is not in the match", identify.PatternConfig{Expr: `^(?:A|B (?P<user>\w+))\n`}, "A\nB x\n", identify.More, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want(t, checkSteps(t, pattern(t, c.pattern), []byte(c.sent)), c.want, c.key)
		})
	}
}

func TestPatternErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []identify.PatternConfig{
		{Expr: `(`}, {Expr: `^LOGIN`}, {Expr: `(a)(b)`}, {Expr: `(a)`, End: "\r\n"}, {Expr: `(a)`, Size: 1025}, {Expr: `(a)`, Size: -1},
	} {
		if _, err := identify.NewPattern(c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

// However few bytes come at a time, the expression runs once for a line.
func TestPatternTriesOncePerLine(t *testing.T) {
	t.Parallel()
	p := pattern(t, identify.PatternConfig{Expr: `(?m)^N (\w+)$`, Max: 1 << 20, Tries: 1 << 20})
	if r := p.Identify(identify.Input{Sent: []byte("N a\n"), Tried: 4}); r.Verdict != identify.More {
		t.Errorf("a line that was tried is tried again: %+v", r)
	}
	want(t, p.Identify(identify.Input{Sent: []byte("N a\n"), Tried: 3}), identify.Found, "a")
}

// FuzzPattern: the answer does not depend on the cuts, and is what the expression says.
func FuzzPattern(f *testing.F) {
	exprs := []string{`^LOGIN (\S+)\r?\n`, `(?i)^login (\w+)`, `(?im)^NICK :?(?P<user>[^\s:]+)`, `(?s)(?:a.*z|a(?P<user>b*))`, `^(?P<user>\w+) (x)$`}
	for i, s := range []string{"LOGIN alice\r\n", "login bob\n", "CAP LS\r\nNICK carol\r\n", "abbb\nz\n", "dave x\n"} {
		f.Add(uint8(i), "\n", []byte(s))
		f.Add(uint8(i), " ", []byte(s+s))
	}
	f.Fuzz(func(t *testing.T, i uint8, end string, input []byte) {
		expr := exprs[int(i)%len(exprs)]
		p, err := identify.NewPattern(identify.PatternConfig{Expr: expr, End: end, Max: 64, Tries: 3})
		if err != nil {
			t.Skip(err)
		}
		got := checkSteps(t, p, input[:min(len(input), 100)])
		if user := naive(expr, end, input[:min(len(input), 100)]); user != got.Key && got.Verdict != identify.BadKey {
			t.Fatalf("%q in %q: got %+v, want %q", expr, input, got, user)
		}
	})
}

// naive tries an expression at every end.
func naive(expr, end string, input []byte) string {
	if end == "" {
		end = "\n"
	}
	re := regexp.MustCompile(expr)
	group := max(re.SubexpIndex("user"), 0)
	if group == 0 {
		group = 1
	}
	text := string(input[:min(len(input), 64)])
	for at, tries := 0, 0; tries < 3; tries++ {
		n := strings.Index(text[at:], end)
		if n < 0 {
			return ""
		}
		at += n + 1
		if m := re.FindStringSubmatch(text[:at]); m != nil && m[group] != "" {
			return m[group]
		}
	}
	return ""
}

func ExamplePattern() {
	login, err := identify.NewPattern(identify.PatternConfig{Expr: `^LOGIN (?P<user>\S+)\r?\n`})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, sent := range []string{"LOGIN ali", "LOGIN alice\r\n", "GET / HTTP/1.1\r\n"} {
		r := login.Identify(identify.Input{Sent: []byte(sent)})
		fmt.Printf("%v %q\n", r.Verdict, r.Key)
	}
	// Output:
	// more ""
	// found "alice"
	// foreign ""
}

package identify

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// PatternConfig is what a Pattern is made of.
//
// A user's name is whole when what ends it has been seen, so the expression is not
// tried on whatever has come: it is tried on all bytes up to and including the first
// End, then on all up to the second, and so on. LOGIN ali, and ce later, is never
// decided as ali. The first try on which the expression matches with a name that is not
// empty decides; so the answer does not depend on how the bytes were cut.
//
// An expression should be anchored: with ^ to the first byte, or with (?m)^ to the
// beginning of any line. One that begins with ^ and text, like ^LOGIN, also finds out at
// the first byte that differs that it will not match.
//
//	a protocol of one's own   ^LOGIN (?P<user>\S+)\r?\n
//	IRC, by nickname          (?im)^NICK :?(?P<user>[^\s:]+)
//	IRC, by account           (?im)^PASS :?(?P<user>[^:/\s]+)[:/]
type PatternConfig struct {
	Expr string // RE2, as in package regexp, with a group named user or just one group
	End  string // one byte; "" means "\n"

	// Size is for protocols that begin with a fixed number of bytes, and replaces
	// End and Tries: when it is not 0 the expression is tried once, on the first Size
	// bytes.
	Size int

	Max   int // bytes to look at; 0 means 1024
	Tries int // how often to try; 0 means 16
}

const (
	defaultPatternMax   = 1024
	defaultPatternTries = 16
)

// Pattern finds the user with a regular expression in the first bytes. Its cost for a
// connection is at most Tries runs of the expression over Max bytes, each in linear time,
// however the bytes come.
type Pattern struct {
	user  userGroup
	start []byte // what the bytes must begin with, if known
	fold  bool   // in start, case does not matter
	end   byte
	size  int
	limit int
	tries int
}

// NewPattern compiles a pattern.
func NewPattern(c PatternConfig) (*Pattern, error) {
	user, err := compileUser(c.Expr)
	if err != nil {
		return nil, err
	}
	p := &Pattern{
		user: user, end: '\n', size: c.Size,
		limit: orDefault(c.Max, defaultPatternMax), tries: orDefault(c.Tries, defaultPatternTries),
	}
	p.start, p.fold = literalStart(c.Expr)
	switch {
	case len(c.End) > 1:
		return nil, fmt.Errorf("end %q of pattern %q: want one byte", c.End, c.Expr)
	case c.Size < 0 || c.Size > p.limit:
		return nil, fmt.Errorf("size %d of pattern %q: want at most %d", c.Size, c.Expr, p.limit)
	case len(c.End) == 1:
		p.end = c.End[0]
	}
	return p, nil
}

// Identify reads in.Sent.
func (p *Pattern) Identify(in Input) Result {
	sent := in.Sent[:min(len(in.Sent), p.limit)]
	if !p.mayStart(sent) {
		return none(Foreign)
	}
	if p.size > 0 {
		return p.trySize(sent)
	}
	user, tries := p.tryEnds(sent, min(max(in.Tried, 0), len(sent)))
	switch {
	case user != nil:
		return foundBytes(user)
	case tries >= p.tries:
		return none(Nobody)
	case len(sent) == p.limit:
		return none(TooLong)
	default:
		return more(len(sent) + 1)
	}
}

// tryEnds tries the expression at every end after the bytes that were tried before. It
// returns the user and how many tries there have been, those before included.
func (p *Pattern) tryEnds(sent []byte, tried int) (user []byte, tries int) {
	tries = bytes.Count(sent[:tried], []byte{p.end})
	for tries < p.tries {
		n := bytes.IndexByte(sent[tried:], p.end)
		if n < 0 {
			break
		}
		tries++
		tried += n + 1
		if user, ok := p.user.find(sent[:tried]); ok {
			return user, tries
		}
	}
	return nil, tries
}

func (p *Pattern) trySize(sent []byte) Result {
	switch {
	case len(sent) < len(p.start):
		return more(len(sent) + 1)
	case len(sent) < p.size:
		return more(p.size)
	}
	user, ok := p.user.find(sent[:p.size])
	if !ok {
		return none(Nobody)
	}
	return foundBytes(user)
}

// mayStart says whether what was sent may become a match, as far as its start tells.
func (p *Pattern) mayStart(sent []byte) bool {
	n := min(len(sent), len(p.start))
	if p.fold {
		return bytes.EqualFold(sent[:n], p.start[:n])
	}
	return bytes.Equal(sent[:n], p.start[:n])
}

// literalStart returns what every match of an expression begins with, where it is
// anchored and that is plain ASCII.
func literalStart(expr string) (start []byte, fold bool) {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil || re.Op != syntax.OpConcat || len(re.Sub) < 2 {
		return nil, false
	}
	literal := re.Sub[1]
	if re.Sub[0].Op != syntax.OpBeginText || literal.Op != syntax.OpLiteral {
		return nil, false
	}
	fold = literal.Flags&syntax.FoldCase != 0
	for _, r := range literal.Rune {
		if r >= 0x80 || fold && strings.ContainsRune("kKsS", r) { // these fold to characters that are not ASCII
			break
		}
		start = utf8.AppendRune(start, r)
	}
	return start, fold
}

// A userGroup is an expression of which one group is the user.
type userGroup struct {
	re    *regexp.Regexp
	group int
}

func compileUser(expr string) (userGroup, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return userGroup{}, fmt.Errorf("pattern: %w", err)
	}
	group := re.SubexpIndex("user")
	if group < 0 && re.NumSubexp() == 1 {
		group = 1
	}
	if group < 0 {
		return userGroup{}, fmt.Errorf("pattern %q: %w", expr, errNoGroup)
	}
	return userGroup{re, group}, nil
}

var errNoGroup = errors.New("want a group (?P<user>…), or just one group")

// find returns the user, which is not empty, as part of text. A group that took no part
// in the match is at -1, -1.
func (u userGroup) find(text []byte) ([]byte, bool) {
	at := u.re.FindSubmatchIndex(text)
	if at == nil || at[2*u.group] == at[2*u.group+1] {
		return nil, false
	}
	return text[at[2*u.group]:at[2*u.group+1]], true
}

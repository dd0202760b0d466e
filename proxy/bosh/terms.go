package bosh

import (
	"cmp"
	"mime"
	"strconv"
	"strings"
	"time"
)

// Limits are what a client can agree on at most. Zero means the default.
type Limits struct {
	Wait       time.Duration // for which a request is held; default 60 s
	Inactivity time.Duration // without a request; default 60 s
	MaxPause   time.Duration // that the client may ask for; default 120 s
}

// The defaults of Limits.
const (
	DefaultWait       = 60 * time.Second
	DefaultInactivity = 60 * time.Second
	DefaultMaxPause   = 120 * time.Second
)

// maxHold is how many requests are held. Each of them costs its client a connection, and
// what is answered on one is kept. One is what all clients do.
const maxHold = 1

// polling is how often a client may ask in vain that does not let its requests be held (§12).
const polling = 5 * time.Second

// pollingFactor is how much longer than others such a client may be inactive (§12).
const pollingFactor = 2

// ContentType is that of answers to who asks for no other (§7.1).
const ContentType = "text/xml; charset=utf-8"

// terms are what client and server have agreed on.
type terms struct {
	wait, inactivity, maxPause time.Duration
	hold                       int
	ver                        string
	content                    string
	acks                       bool // the client acknowledges answers
}

// agree agrees with the first request of a session.
func agree(r *Request, l Limits) (terms, error) {
	whole := func(d, or time.Duration) int { return int(cmp.Or(d, or) / time.Second) }
	t := terms{
		wait:       time.Duration(seconds(r.Wait, whole(l.Wait, DefaultWait))) * time.Second,
		inactivity: time.Duration(whole(l.Inactivity, DefaultInactivity)) * time.Second,
		maxPause:   time.Duration(whole(l.MaxPause, DefaultMaxPause)) * time.Second,
		hold:       seconds(r.Hold, maxHold),
		ver:        lowerVersion(r.Ver),
		acks:       r.Ack == 1,
	}
	if t.polls() {
		t.inactivity *= pollingFactor
	}
	var ok bool
	if t.content, ok = contentType(r.Content); !ok {
		return t, bad("answers cannot be of that type")
	}
	return t, nil
}

// polls tells whether no request is held.
func (t *terms) polls() bool { return t.hold == 0 || t.wait == 0 }

// requests is how many requests a client may have under way.
func (t *terms) requests() int { return t.hold + 1 }

// The version of BOSH that is spoken here.
const verMajor, verMinor = 1, 11

// lowerVersion returns the lower of a client's version and ours; ours for none.
func lowerVersion(ver string) string {
	major, minor, _ := strings.Cut(ver, ".")
	a, errA := strconv.ParseUint(major, 10, 31)
	b, errB := strconv.ParseUint(minor, 10, 31)
	if errA != nil || errB != nil || a > verMajor || a == verMajor && b > verMinor {
		a, b = verMajor, verMinor
	}
	return strconv.FormatUint(a, 10) + "." + strconv.FormatUint(b, 10)
}

// contentType returns the Content-Type of the answers to who asks for one. They must not be of
// a type that a browser would run what others have written in.
func contentType(asked string) (string, bool) {
	if asked == "" {
		return ContentType, true
	}
	kind, params, err := mime.ParseMediaType(asked)
	if err != nil {
		return "", false
	}
	if set := params["charset"]; set != "" && !strings.EqualFold(set, "utf-8") {
		return "", false
	}
	switch kind {
	case "text/xml", "application/xml", "text/plain":
		return mime.FormatMediaType(kind, params), true
	}
	return "", false
}

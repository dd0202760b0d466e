package proxy

import (
	"context"
	"log/slog"
	"time"

	"imlb/backend/xmpp"
)

// traffic counts what went one way.
type traffic struct {
	bytes   int64 // of XML, in the form of RFC 6120
	stanzas [stanzaKinds]int64
}

// count adds a token.
func (t *traffic) count(tok xmpp.Token) {
	t.bytes += int64(len(tok.Raw))
	if tok.Kind == xmpp.KindElement {
		t.stanzas[kindOf(tok.Raw)]++
	}
}

// report adds to the metrics what was counted since the last report.
func (t *traffic) report(since *traffic, to *flow) {
	if t.bytes == since.bytes {
		return
	}
	to.bytes.Add(float64(t.bytes - since.bytes))
	for k, n := range t.stanzas {
		if d := n - since.stanzas[k]; d > 0 {
			to.stanzas[k].Add(float64(d))
		}
	}
	*since = *t
}

// Record is what is known of a session; at its end it becomes one line of the
// session log.
type Record struct {
	ID        string // 32 hexadecimal digits; the node logs the same
	Listener  string
	Transport string // starttls, tls, ws or quic; tcp while not known
	Source    string // the client's address
	Via       string // the proxy that named the source; "" for none
	Started   time.Time

	TLSVersion string
	TLSCipher  string
	ServerName string // SNI
	ALPN       string

	User      string // as claimed, canonical; "" while not known
	Mechanism string
	Failures  int // failed logins
	LoggedIn  bool
	Node      string
	LastEntry uint64 // of the user's timeline, written to the client; 0: none

	Handshake time.Duration // accept to secured transport
	Identify  time.Duration // secured transport to login
	Dial      time.Duration // the dial that succeeded
	Total     time.Duration

	In, Out traffic // from and to the client

	Settled string // what became of the settle; "" if there was none to do
	Reason  Reason
	Cause   error
}

// log writes the session's line.
func (r *Record) log(ctx context.Context, logger *slog.Logger) {
	level := slog.LevelInfo
	switch {
	case r.Reason.quiet():
		level = slog.LevelDebug
	case r.Reason == ReasonInternal:
		level = slog.LevelError
	}
	if logger.Enabled(ctx, level) {
		logger.LogAttrs(ctx, level, "session", r.attrs()...)
	}
}

// attrs returns the fields of the line; what is not known is left out.
func (r *Record) attrs() []slog.Attr {
	attrs := []slog.Attr{
		slog.String("reason", r.Reason.String()),
		slog.String("id", r.ID),
		slog.String("listener", r.Listener),
		slog.String("transport", r.Transport),
		slog.String("source", r.Source),
	}
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	span := func(key string, value time.Duration) {
		if value > 0 {
			attrs = append(attrs, slog.Duration(key, value))
		}
	}
	text("via", r.Via)
	text("user", r.User)
	text("node", r.Node)
	text("mechanism", r.Mechanism)
	attrs = append(attrs, slog.Bool("logged_in", r.LoggedIn), slog.Int("auth_failures", r.Failures))
	text("tls", r.TLSVersion)
	text("cipher", r.TLSCipher)
	text("server_name", r.ServerName)
	text("alpn", r.ALPN)
	span("handshake", r.Handshake)
	span("identify", r.Identify)
	span("dial", r.Dial)
	span("total", r.Total)
	attrs = append(attrs, r.In.attr("in"), r.Out.attr("out"))
	if r.LastEntry > 0 {
		attrs = append(attrs, slog.Uint64("last_entry", r.LastEntry))
	}
	text("settled", r.Settled)
	if r.Cause != nil {
		attrs = append(attrs, slog.String("cause", r.Cause.Error()))
	}
	return attrs
}

func (t *traffic) attr(name string) slog.Attr {
	return slog.Group(name,
		slog.Int64("bytes", t.bytes),
		slog.Int64("messages", t.stanzas[kindMessage]),
		slog.Int64("presences", t.stanzas[kindPresence]),
		slog.Int64("iqs", t.stanzas[kindIQ]),
	)
}

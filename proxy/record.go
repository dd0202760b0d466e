package proxy

import (
	"log/slog"
	"sync/atomic"
	"time"

	"imlb/backend/xmpp"
	"imlb/proxy/limit"
)

// traffic counts what went one way.
type traffic struct {
	bytes   int64 // of XML, in the form of RFC 6120
	stanzas [stanzaKinds]int64
}

// count adds a token, and returns of which kind it is.
func (t *traffic) count(tok xmpp.Token) stanzaKind {
	t.bytes += int64(len(tok.Raw))
	if tok.Kind != xmpp.KindElement {
		return kindOther
	}
	kind := kindOf(tok.Raw)
	t.stanzas[kind]++
	return kind
}

// reported is what of the traffic of one way is in the metrics.
type reported struct {
	bytes   atomic.Int64 // which may be looked at from any goroutine
	stanzas [stanzaKinds]int64
}

// report adds to the metrics what was counted since the last report.
func (t *traffic) report(since *reported, to *flow) {
	more := t.bytes - since.bytes.Load()
	if more == 0 {
		return
	}
	to.bytes.Add(float64(more))
	for k, n := range t.stanzas {
		if d := n - since.stanzas[k]; d > 0 {
			to.stanzas[k].Add(float64(d))
		}
	}
	since.bytes.Store(t.bytes)
	since.stanzas = t.stanzas
}

// Record is what is known of a session; at its end it becomes one line of the
// session log.
type Record struct {
	ID        ID // the node logs the same
	Listener  string
	Transport string // tcp (also while not known), starttls, tls, tls-passthrough, http, https, ws, bosh or quic
	Source    string // the client's address
	Moved     string // the client's address at the end, if it has another by then (QUIC)
	Via       string // the proxy that named the source; "" for none
	Started   time.Time

	TLS *RecordTLS // nil without TLS that ends here or is passed through

	User string // as claimed, canonical; "" while not known
	// IdentifiedBy is the step that found the user of an opaque session.
	IdentifiedBy string
	Mechanism    string
	Failures     int // failed logins
	Node         string
	LastEntry    uint64 // of the user's timeline, written to the client, or on BOSH received by it for sure; 0: none

	Handshake time.Duration // accept to secured transport
	Identify  time.Duration // secured transport to login
	Dial      time.Duration // the dial that succeeded
	Total     time.Duration

	In, Out traffic // from and to the client

	Opaque   bool // the front knows of no stanzas, and of logins only those of MQTT
	MQTT     bool // an opaque session of which the node says whether its user may log in
	LoggedIn bool
	Limit    limit.Reason // which limit ended the session, or refused a login last
	Settled  Settled
	Reason   Reason
	Cause    error
}

// RecordTLS is what is known of a client's TLS; of what is passed through, only what
// the client has asked for.
type RecordTLS struct {
	Version    string
	Cipher     string
	ServerName string // SNI
	ALPN       string
}

// Settled is what became of the note that tells a user's next node what the client has received.
type Settled uint8

// What became of it.
const (
	SettledNone    Settled = iota // there was none
	SettleUnproved                // nobody knows whether the client has received it
	SettleDone
	SettleFailed
)

// String returns what the log and the metrics call it.
func (s Settled) String() string {
	return [...]string{SettledNone: "", SettleUnproved: "unproved", SettleDone: "done", SettleFailed: "failed"}[s]
}

// level is how much the session's line matters.
func (r *Record) level() slog.Level {
	switch {
	case r.Reason.quiet():
		return slog.LevelDebug
	case r.Reason == ReasonInternal:
		return slog.LevelError
	case r.Reason == ReasonNodeStanza: // it is sent again at the next login
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// attrs returns the fields of the line; what is not known is left out.
func (r *Record) attrs() []slog.Attr {
	attrs := []slog.Attr{
		slog.String("reason", r.Reason.String()),
		slog.String("id", r.ID.String()),
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
	text("moved", r.Moved)
	text("via", r.Via)
	text("user", r.User)
	text("identified_by", r.IdentifiedBy)
	text("node", r.Node)
	text("mechanism", r.Mechanism)
	if !r.Opaque || r.MQTT {
		attrs = append(attrs, slog.Bool("logged_in", r.LoggedIn), slog.Int("auth_failures", r.Failures))
	}
	if r.TLS != nil {
		text("tls", r.TLS.Version)
		text("cipher", r.TLS.Cipher)
		text("server_name", r.TLS.ServerName)
		text("alpn", r.TLS.ALPN)
	}
	span("handshake", r.Handshake)
	span("identify", r.Identify)
	span("dial", r.Dial)
	span("total", r.Total)
	attrs = append(attrs, r.In.attr("in", r.Opaque), r.Out.attr("out", r.Opaque))
	if r.LastEntry > 0 {
		attrs = append(attrs, slog.Uint64("last_entry", r.LastEntry))
	}
	if r.Limit != limit.ReasonNone {
		text("limit", r.Limit.String())
	}
	text("settled", r.Settled.String())
	if r.Cause != nil {
		attrs = append(attrs, slog.String("cause", r.Cause.Error()))
	}
	return attrs
}

func (t *traffic) attr(name string, opaque bool) slog.Attr {
	if opaque {
		return slog.Group(name, slog.Int64("bytes", t.bytes))
	}
	return slog.Group(name,
		slog.Int64("bytes", t.bytes),
		slog.Int64("messages", t.stanzas[kindMessage]),
		slog.Int64("presences", t.stanzas[kindPresence]),
		slog.Int64("iqs", t.stanzas[kindIQ]),
	)
}

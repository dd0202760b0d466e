package configs

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Size is a number of bytes, written like 4096, "64KiB" or "1MiB".
type Size int64

// The units in which a Size may be written, the largest first.
var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"KB", 1e3},
	{"B", 1},
}

// UnmarshalText reads a Size; a number without a unit counts bytes.
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := string(text), int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return fmt.Errorf("%q is not a size; write bytes with a unit, like 64KiB or 1MiB", text)
	}
	*s = Size(n * unit)
	return nil
}

// MarshalText writes the size in the largest binary unit that it fills exactly.
func (s Size) MarshalText() ([]byte, error) {
	for _, u := range sizeUnits[:3] {
		if n := int64(s); n != 0 && n%u.bytes == 0 {
			return fmt.Appendf(nil, "%d%s", n/u.bytes, u.suffix), nil
		}
	}
	return strconv.AppendInt(nil, int64(s), 10), nil
}

// String returns what MarshalText writes.
func (s Size) String() string {
	text, _ := s.MarshalText() // never fails
	return string(text)
}

// Line is a text in which the ends of lines count.
type Line string

// MarshalYAML writes the text so that the ends of its lines are read back as they
// are: those of a block would all become line feeds.
func (l Line) MarshalYAML() ([]byte, error) { return strconv.AppendQuote(nil, string(l)), nil }

// choice is a text that may have a few values only.
type choice interface{ choices() []string }

// words are the values of a choice as texts.
func words[T ~string](values ...T) []string {
	list := make([]string, len(values))
	for i, v := range values {
		list[i] = string(v)
	}
	return list
}

// CheckType is how a front probes nodes.
type CheckType string

// The types of checks.
const (
	CheckTCP    CheckType = "tcp"    // connect to the node's address
	CheckTLS    CheckType = "tls"    // and shake hands
	CheckHTTP   CheckType = "http"   // GET at the node's admin address
	CheckHTTPS  CheckType = "https"  // the same in TLS
	CheckAgent  CheckType = "agent"  // GET /status there: also weight, capacity, draining, sessions
	CheckXMPP   CheckType = "xmpp"   // open a stream up to its features
	CheckMQTT   CheckType = "mqtt"   // CONNECT and wait for CONNACK
	CheckScript CheckType = "script" // send and expect
)

func (CheckType) choices() []string {
	return words(CheckTCP, CheckTLS, CheckHTTP, CheckHTTPS, CheckAgent, CheckXMPP, CheckMQTT, CheckScript)
}

// checkKeys says of which types of checks a key is, in the order in which it is
// told to who uses it elsewhere.
var checkKeys = []struct {
	key   string
	types []CheckType
}{
	{"proxy_header", []CheckType{CheckTCP, CheckTLS, CheckXMPP, CheckMQTT, CheckScript}},
	{"path", []CheckType{CheckHTTP, CheckHTTPS, CheckAgent}},
	{"verify", []CheckType{CheckTLS, CheckHTTPS}},
	{"ca_file", []CheckType{CheckTLS, CheckHTTPS}},
	{"server_name", []CheckType{CheckTLS, CheckHTTPS}},
	{"alpn", []CheckType{CheckTLS}},
	{"domain", []CheckType{CheckXMPP}},
	{"accepted", []CheckType{CheckMQTT}},
	{"steps", []CheckType{CheckScript}},
}

// takes reports whether checks of the type know a key.
func (t CheckType) takes(key string) bool {
	for _, k := range checkKeys {
		if k.key == key {
			return slices.Contains(k.types, t)
		}
	}
	return true
}

// path is what a check of the type asks for by default.
func (t CheckType) path() string {
	switch t {
	case CheckHTTP, CheckHTTPS:
		return "/readyz"
	case CheckAgent:
		return "/status"
	case CheckTCP, CheckTLS, CheckXMPP, CheckMQTT, CheckScript:
	}
	return ""
}

// Policy is the order in which nodes are asked to take a new user.
type Policy string

// The placement policies.
const (
	TablePolicy         Policy = "table"          // partition table
	RingPolicy          Policy = "ring"           // consistent hashing with bounded loads
	MaglevPolicy        Policy = "maglev"         // Maglev's table
	LeastSessionsPolicy Policy = "least-sessions" // for its weight
	PowerOfTwoPolicy    Policy = "power-of-two"   // the less loaded of two
	RoundRobinPolicy    Policy = "round-robin"    // in turn
)

func (Policy) choices() []string {
	return []string{
		string(TablePolicy), string(RingPolicy), string(MaglevPolicy),
		string(LeastSessionsPolicy), string(PowerOfTwoPolicy), string(RoundRobinPolicy),
	}
}

// Mechanism is a SASL mechanism (RFC 6120 §6).
type Mechanism string

// The mechanisms that nodes verify.
const (
	ScramSHA512Plus Mechanism = "SCRAM-SHA-512-PLUS" // draft-melnikov-scram-sha-512
	ScramSHA256Plus Mechanism = "SCRAM-SHA-256-PLUS" // RFC 7677
	ScramSHA1Plus   Mechanism = "SCRAM-SHA-1-PLUS"   // RFC 5802
	ScramSHA512     Mechanism = "SCRAM-SHA-512"      // draft-melnikov-scram-sha-512
	ScramSHA256     Mechanism = "SCRAM-SHA-256"      // RFC 7677
	ScramSHA1       Mechanism = "SCRAM-SHA-1"        // RFC 5802
	Plain           Mechanism = "PLAIN"              // RFC 4616, within TLS only
	OAuthBearer     Mechanism = "OAUTHBEARER"        // RFC 7628, within TLS only
	External        Mechanism = "EXTERNAL"           // RFC 4422 appendix A, XEP-0178
)

func (Mechanism) choices() []string {
	return words(ScramSHA512Plus, ScramSHA256Plus, ScramSHA1Plus, ScramSHA512, ScramSHA256, ScramSHA1, Plain, OAuthBearer, External)
}

// Level is the least severity that is logged.
type Level string

// The log levels.
const (
	DebugLevel Level = "debug"
	InfoLevel  Level = "info"
	WarnLevel  Level = "warn"
	ErrorLevel Level = "error"
)

func (Level) choices() []string {
	return []string{string(DebugLevel), string(InfoLevel), string(WarnLevel), string(ErrorLevel)}
}

// Level makes the level a slog.Leveler.
func (l Level) Level() slog.Level {
	switch l {
	case DebugLevel:
		return slog.LevelDebug
	case WarnLevel:
		return slog.LevelWarn
	case ErrorLevel:
		return slog.LevelError
	case InfoLevel:
	}
	return slog.LevelInfo
}

// Format is the shape of log lines.
type Format string

// The log formats.
const (
	TextFormat Format = "text" // key=value
	JSONFormat Format = "json" // one object a line
)

func (Format) choices() []string { return []string{string(TextFormat), string(JSONFormat)} }

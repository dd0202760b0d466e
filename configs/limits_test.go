package configs_test

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"imlb/configs"
)

// Each block, at the end of front, has to give exactly these errors.
var wrongLimits = []struct {
	name, block string
	want        []string
}{
	{"a burst that never comes back", "limits: {source: {rate: {per_second: 0.000001, burst: 100}, bytes_in: {per_second: 1, burst: 1GiB}}, user: {bytes_out: {per_second: 1, burst: 40MiB}}, global: {rate: {per_second: 0.00000001}}}", []string{
		"f:10:48: limits.source.rate.burst: 100 takes more than a year to come back at 1e-06 per second; lower it, or raise per_second",
		"f:10:87: limits.source.bytes_in.burst: 1GiB takes more than a year to come back at 1 per second; lower it, or raise per_second",
		"f:10:136: limits.user.bytes_out.burst: 40MiB takes more than a year to come back at 1 per second; lower it, or raise per_second",
		"f:10:161: limits.global.rate.burst: 1 takes more than a year to come back at 1e-08 per second; lower it, or raise per_second",
	}},
	{"bursts of nothing", "limits: {source: {rate: {burst: 5}, bytes_in: {per_second: 0, burst: 5}}, user: {bytes_out: {burst: 1MiB}}}", []string{
		"f:10:19: limits.source.rate.per_second: is missing; burst alone limits nothing",
		"f:10:82: limits.user.bytes_out.per_second: is missing; burst alone limits nothing",
	}},
	{"bounds", "limits: {source: {connections: -1, ipv4_prefix: 33, ipv6_prefix: 0}, max_entries: -1, global: {rate: {per_second: 2000000000, max_wait: 2h}}}", []string{
		"f:10:32: limits.source.connections: -1 is too small; the least is 0",
		"f:10:49: limits.source.ipv4_prefix: 33 is too large; the most is 32",
		"f:10:66: limits.source.ipv6_prefix: 0 is too small; the least is 1",
		"f:10:83: limits.max_entries: -1 is too small; the least is 0",
		"f:10:115: limits.global.rate.per_second: 2e+09 is too large; the most is 1000000000",
		"f:10:137: limits.global.rate.max_wait: 2h0m0s is too large; the most is 1h",
	}},
	{"networks", "limits: {allow: [10.0.0.1, ''], deny: [300.0.0.0/8], source: {exempt: [a]}}", []string{
		`f:10:18: limits.allow[0]: "10.0.0.1" is not a network; write it like 10.0.0.0/8 or ::1/128`,
		`f:10:28: limits.allow[1]: "" is not a network; write it like 10.0.0.0/8 or ::1/128`,
		`f:10:40: limits.deny[0]: "300.0.0.0/8" is not a network; write it like 10.0.0.0/8 or ::1/128`,
		`f:10:72: limits.source.exempt[0]: "a" is not a network; write it like 10.0.0.0/8 or ::1/128`,
	}},
	{"more strangers than connections", "limits: {global: {connections: 5, unauthenticated: 6}, source: {connections: 5, unauthenticated: 5}, user: {connections: 1, unauthenticated: 2}}", []string{
		"f:10:35: limits.global.unauthenticated: 6 is more than connections, 5",
	}},
	{"more strangers by default than connections", "limits: {global: {connections: 5}}", nil},
	{"delays", "limits: {login_backoff: {user_and_source: {first: 10m}, source: {max: 20m}, user: {max: 11s}, max_wait: 10s}}", []string{
		"f:10:26: limits.login_backoff.user_and_source.max: 5m0s is less than first, 10m0s; 0s is no delay at all",
		"f:10:66: limits.login_backoff.source.max: 20m0s is longer than failures are remembered, 15m0s; raise window",
		"f:10:84: limits.login_backoff.user.max: 11s is more than max_wait, 10s: who fails a user's logins must not get them refused",
	}},
	{"no delays", "limits: {login_backoff: {user_and_source: {max: 0s}, source: {max: 0s}, user: {max: 0s}, max_wait: 0s}}", nil},
	{"waits longer than logins", "limits: {login_backoff: {max_wait: 31s}}", []string{
		"f:10:26: limits.login_backoff.max_wait: 31s is more than timeouts.identify, 30s, after which a login is over",
	}},
	{"waits longer than logins by default", "timeouts: {identify: 5s}", nil},
	{"secrets in two places", "consul: {}\nsecrets: {file: a, consul: true}", []string{
		"f:11:1: secrets: has both file and consul; keep one of them",
	}},
	{"secrets in no agent", "secrets: {consul: true}", []string{
		"f:10:11: secrets.consul: no agent is named; add a block consul with its address to the document",
	}},
	{"secrets that nobody writes", "secrets: {read_only: true, grace: 7h}", []string{
		"f:10:11: secrets.read_only: there is nothing to read; name a file, or set consul to true",
		"f:10:28: secrets.grace: 7h0m0s is more than half of period, 12h0m0s",
	}},
	{"bounds of secrets", "secrets: {period: 1s, grace: 0s, kept: 1}", []string{
		"f:10:19: secrets.period: 1s is too small; the least is 1m",
		"f:10:30: secrets.grace: 0s is too small; the least is 1s",
		"f:10:40: secrets.kept: 1 is too small; the least is 2",
	}},
	{"a name that is none", "name: 'a b'", []string{
		`f:10:7: name: "a b" is not a name; use up to 64 letters, digits, dots, dashes and underscores, with a letter or digit first and last`,
	}},
}

func TestWrongLimits(t *testing.T) {
	for _, tt := range wrongLimits {
		t.Run(tt.name, func(t *testing.T) {
			_, err := configs.ParseProxy("f", []byte(front+tt.block+"\n"))
			if len(tt.want) == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			compareErrors(t, err, tt.want)
		})
	}
}

func TestWrongLimitsOfListeners(t *testing.T) {
	_, err := configs.ParseProxy("f", []byte(listening(t, "protocol: xmpp, rate: {per_second: 0.00001, burst: 1000000}, limits: {connections: 1, unauthenticated: 2, bytes_in: {per_second: 1KiB, burst: 99999GiB}}, allow: [x], deny: ['']")))
	compareErrors(t, err, []string{
		"f:3:65: listeners[0].rate.burst: 1000000 takes more than a year to come back at 1e-05 per second; lower it, or raise per_second",
		"f:3:107: listeners[0].limits.unauthenticated: 2 is more than connections, 1",
		"f:3:156: listeners[0].limits.bytes_in.burst: 99999GiB takes more than a year to come back at 1024 per second; lower it, or raise per_second",
		`f:3:183: listeners[0].allow[0]: "x" is not a network; write it like 10.0.0.0/8 or ::1/128`,
		`f:3:194: listeners[0].deny[0]: "" is not a network; write it like 10.0.0.0/8 or ::1/128`,
	})
}

// A burst that is left out is what comes in a second.
func TestBursts(t *testing.T) {
	for pace, want := range map[configs.Pace]int{
		{PerSecond: 0.1}: 1, {PerSecond: 2.5}: 3, {PerSecond: 2.5, Burst: 9}: 9, {}: 1,
	} {
		if got := pace.FullBurst(); got != want {
			t.Errorf("%+v: got %d, want %d", pace, got, want)
		}
	}
	for b, want := range map[configs.Bandwidth]configs.Size{{PerSecond: 4096}: 4096, {PerSecond: 4096, Burst: 1}: 1} {
		if got := b.FullBurst(); got != want {
			t.Errorf("%+v: got %d, want %d", b, got, want)
		}
	}
}

// What is written of limits is read back as it was.
func TestEveryLimit(t *testing.T) {
	const scope = "rate: {per_second: 1.5, burst: 2, max_wait: 3s}, connections: 4, unauthenticated: 3, bytes_in: {per_second: 5KiB, burst: 6KiB}, bytes_out: {per_second: 7, burst: 8}"
	p := parse(t, front+"name: front-1\nsecrets: {file: s, read_only: true, period: 2h, grace: 1m, kept: 4}\nlimits: {source: {"+scope+
		", ipv4_prefix: 24, ipv6_prefix: 48, exempt: [10.0.0.0/8]}, user: {"+scope+"}, global: {"+scope+"}, allow: ['::/0'], deny: [10.0.0.1/32], max_entries: 9, "+
		"login_backoff: {enabled: false, user_and_source: {free: 1, first: 2s, max: 3s}, source: {free: 4, first: 5s, max: 6s}, user: {free: 7, first: 1s, max: 2s}, max_wait: 5s, window: 1m}}\n")
	rate := configs.Pace{PerSecond: 1.5, Burst: 2, MaxWait: 3 * time.Second}
	in, out := configs.Bandwidth{PerSecond: 5 << 10, Burst: 6 << 10}, configs.Bandwidth{PerSecond: 7, Burst: 8}
	want := configs.ProxyLimits{
		MaxStanza: 256 << 10, MaxStanzaBeforeLogin: 16 << 10, MaxNodeStanza: 16 << 20, LoginAttempts: 5,
		LoginBackoff: configs.LoginBackoff{
			UserAndSource: configs.PairBackoff{Free: 1, First: 2 * time.Second, Max: 3 * time.Second},
			Source:        configs.SourceBackoff{Free: 4, First: 5 * time.Second, Max: 6 * time.Second},
			User:          configs.UserBackoff{Free: 7, First: time.Second, Max: 2 * time.Second},
			MaxWait:       5 * time.Second, Window: time.Minute,
		},
		Source: configs.SourceLimits{
			Rate: rate, Connections: 4, Unauthenticated: 3, BytesIn: in, BytesOut: out, IPv4Prefix: 24, IPv6Prefix: 48,
			Exempt: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		},
		User:   configs.UserLimits{Rate: rate, Connections: 4, Unauthenticated: 3, BytesIn: in, BytesOut: out},
		Global: configs.GlobalLimits{Rate: rate, Connections: 4, Unauthenticated: 3, BytesIn: in, BytesOut: out},
		Allow:  []netip.Prefix{netip.MustParsePrefix("::/0")}, Deny: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}, MaxEntries: 9,
	}
	if !reflect.DeepEqual(p.Limits, want) {
		t.Errorf("got\n%+v\nwant\n%+v", p.Limits, want)
	}
	if s := (configs.Secrets{File: "s", ReadOnly: true, Period: 2 * time.Hour, Grace: time.Minute, Kept: 4}); p.Secrets != s || p.Name != "front-1" {
		t.Errorf("got %+v of %q, want %+v", p.Secrets, p.Name, s)
	}
	text, err := p.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if again := parse(t, string(text)); !reflect.DeepEqual(again, p) {
		t.Errorf("written as\n%s\nit is read as\n%+v", text, again)
	}
}

// A long list of networks is read whole, and the mistakes in it are found.
func TestManyNetworks(t *testing.T) {
	p := parse(t, front+"limits:\n  deny:\n  - "+strings.ReplaceAll(networks(0, 10000), ", ", "\n  - ")+"\n")
	if n := len(p.Limits.Deny); n != 10000 || !slices.Contains(p.Limits.Deny, netip.MustParsePrefix("10.39.15.0/24")) {
		t.Errorf("read %d networks", n)
	}
	_, err := configs.ParseProxy("f", []byte(front+"limits:\n  deny:\n  - "+strings.ReplaceAll(networks(0, 10000), ", ", "\n  - ")+"x\n"))
	compareErrors(t, err, []string{`f:10011:5: limits.deny[9999]: "10.39.15.0/24x" is not a network; write it like 10.0.0.0/8 or ::1/128`})
}

// The directory of the secrets' file has to be there; the file is made.
func TestFileOfSecrets(t *testing.T) {
	dir := t.TempDir()
	local := configs.Local{Dir: dir}
	text := func(file string) []byte {
		return []byte("listeners: [{protocol: tcp, address: ':1'}]\npools: {a: {nodes: [{name: n, address: 'h:1'}]}}\nsecrets: {file: " + file + "}\n")
	}
	p, err := configs.ParseProxyFor("f", text("secrets"), local)
	if err != nil || p.Secrets.File != dir+"/secrets" {
		t.Errorf("got %q, %v", p.Secrets.File, err)
	}
	_, err = configs.ParseProxyFor("f", text("none/secrets"), local)
	compareErrors(t, err, []string{"f:3:11: secrets.file: cannot be used: stat " + dir + "/none: no such file or directory"})
}

// A grace that nobody has written is no reason to refuse a short period.
func TestShortPeriod(t *testing.T) {
	for period, want := range map[time.Duration]time.Duration{12 * time.Hour: 10 * time.Minute, 15 * time.Minute: 225 * time.Second, time.Minute: 15 * time.Second} {
		if p := parse(t, front+"secrets: {file: s, period: "+period.String()+"}\n"); p.Secrets.Grace != want {
			t.Errorf("a period of %v has a grace of %v, want %v", period, p.Secrets.Grace, want)
		}
	}
}

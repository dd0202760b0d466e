package main

import (
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"imlb/balancer"
	"imlb/configs"
	"imlb/health"
)

// everyKey says something of its own in each key that a pool goes by.
const everyKey = `
domains: [a.example]
listeners: [{protocol: xmpp, address: ":5222", pool: listed}]
tls: {certificates: [{cert_file: a, key_file: b}]}
cache_dir: /var/cache/imlb
consul: {address: "127.0.0.1:8500", datacenter: dc1, token_file: token, tls: {ca_file: ca, cert_file: cert, key_file: key, server_name: agent.example}}
placement: {policy: power-of-two, epsilon: 0.5, zone: west, park: 7s, park_queue: 9}
pools:
  listed:
    nodes:
      - {name: n, address: "10.0.0.1:1", admin: "10.0.0.1:2", weight: 3, zone: east, max_sessions: 4, backup: true, drain: true}
      - {name: m, address: "10.0.0.2:1", admin: "10.0.0.2:2"}
    checks:
      - {type: tcp, proxy_header: false}
      - {type: tls, verify: false, server_name: b.example, alpn: [xmpp-client], proxy_header: true}
      - {type: http, path: /up}
      - {type: https, server_name: c.example}
      - {type: agent, path: /about}
      - {type: xmpp}
      - {type: mqtt, accepted: true, proxy_header: true}
      - {type: script, proxy_header: true, steps: [{send: "PING\r\n", expect: PONG, timeout: 3s}, {pattern: "^OK"}]}
    check: {interval: 2s, fast_interval: 400ms, jitter: 0.2, timeout: 3s, rise: 4, fall: 5}
    outlier: {enabled: false, consecutive: 6, window: 7s, min_sessions: 8, failure_ratio: 0.9, ejection: 10s, max_ejection: 11s}
    damping: {enabled: false, suppress: 12, reuse: 0.5, half_life: 13s, max: 14s}
    max_ejected: 0.15
    panic_threshold: 0.16
    slow_start: 17s
  found:
    consul: {service: chat, tag: v2, hold: 18s}
`

func document(t *testing.T, text string) configs.Proxy {
	t.Helper()
	doc, err := configs.ParseProxy("front.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestPoolOptions(t *testing.T) {
	got, err := healthOptions(document(t, everyKey).Pools["listed"])
	if err != nil {
		t.Fatal(err)
	}
	want := health.Options{
		Check: health.All{
			health.TCPCheck{},
			health.TLSCheck{Header: 2, Config: &tls.Config{
				MinVersion: tls.VersionTLS12, ServerName: "b.example", NextProtos: []string{"xmpp-client"}, InsecureSkipVerify: true, //nolint:gosec // what the document says
			}},
			health.HTTPCheck{Path: "/up"},
			health.HTTPCheck{Path: "/readyz", TLS: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: "c.example"}},
			health.AgentCheck{Path: "/about"},
			health.XMPPCheck{Domain: "a.example", Opening: health.Opening{Header: 2}},
			health.MQTTCheck{Accepted: true, Opening: health.Opening{Header: 2}},
			health.ScriptCheck{Opening: health.Opening{Header: 2}, Steps: []health.Step{
				{Send: "PING\r\n", Expect: "PONG", Timeout: 3 * time.Second}, {Pattern: regexp.MustCompile("^OK")},
			}},
		},
		Rules:    health.Rules{Interval: 2 * time.Second, Fast: 400 * time.Millisecond, Jitter: 0.2, Timeout: 3 * time.Second, Rise: 4, Fall: 5},
		Outliers: health.OutlierRules{Off: true, Consecutive: 6, Window: 7 * time.Second, MinSessions: 8, FailureRatio: 0.9, Base: 10 * time.Second, Max: 11 * time.Second},
		Damping:  health.DampingRules{Off: true, Suppress: 12, Reuse: 0.5, HalfLife: 13 * time.Second, Max: 14 * time.Second},

		MaxEjected: 0.15, Panic: 0.16, SlowStart: 17 * time.Second,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	for _, rules := range []any{got.Rules, got.Outliers, got.Damping} {
		requireNoneZero(t, rules)
	}
}

// Checks begin as the sessions of their pool do.
func TestChecksBeginAsSessionsDo(t *testing.T) {
	name := filepath.Join(t.TempDir(), "front")
	writePair(t, name, certificateFor(t, time.Now(), "front.example"))
	secured := &configs.NodeTLS{CertFile: name + ".crt", KeyFile: name + ".key", ServerName: "a.example"}
	for header, version := range map[configs.HeaderVersion]byte{configs.HeaderV1: 1, configs.HeaderV2: 2, configs.HeaderNone: 2} {
		opening, err := openingOf(configs.Pool{ProxyProtocol: header})
		if err != nil || opening.Header != version || opening.TLS != nil {
			t.Errorf("%s: got %+v, %v", header, opening, err)
		}
	}
	opening, err := openingOf(configs.Pool{TLS: secured})
	if err != nil || opening.TLS == nil || opening.TLS.ServerName != "a.example" || len(opening.TLS.Certificates) != 1 {
		t.Fatalf("got %+v, %v", opening, err)
	}
	check, err := nodeCheck(configs.Check{Type: configs.CheckTLS}, opening)
	if c, ok := check.(health.TLSCheck); err != nil || !ok || len(c.Config.Certificates) != 1 || c.Config.ServerName != "" {
		t.Errorf("got %+v, %v", check, err)
	}
	if _, err := poolCheck(configs.Pool{TLS: &configs.NodeTLS{CAFile: "none"}}); err == nil {
		t.Error("a file that is not there is no mistake")
	}
}

// requireNoneZero finds settings that no key leads to.
func requireNoneZero(t *testing.T, rules any) {
	t.Helper()
	v := reflect.ValueOf(rules)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("no key leads to %T.%s", rules, v.Type().Field(i).Name)
		}
	}
}

func TestPlacementOptions(t *testing.T) {
	got, err := placementOptions(document(t, everyKey).Placement)
	if err != nil {
		t.Fatal(err)
	}
	if want := (balancer.Options{Policy: balancer.PowerOfTwo, Epsilon: 0.5, Zone: "west", Queue: 9}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	requireNoneZero(t, got)
}

// The document's policies are the balancer's.
func TestEveryPolicyIsKnown(t *testing.T) {
	for policy := balancer.ByTable; !strings.HasPrefix(policy.String(), "Policy("); policy++ {
		doc := document(t, strings.Replace(everyKey, "power-of-two", policy.String(), 1))
		if got, err := placementOptions(doc.Placement); err != nil || got.Policy != policy {
			t.Errorf("%v is read as %v: %v", policy, got.Policy, err)
		}
	}
}

// A share of 0 is none, not the default.
func TestNoneOfAShare(t *testing.T) {
	text := strings.NewReplacer("jitter: 0.2", "jitter: 0", "max_ejected: 0.15", "max_ejected: 0").Replace(everyKey)
	got, err := healthOptions(document(t, text).Pools["listed"])
	if err != nil || got.Rules.Jitter >= 0 || got.MaxEjected >= 0 {
		t.Errorf("jitter %v and max_ejected %v (%v), want less than 0", got.Rules.Jitter, got.MaxEjected, err)
	}
}

func TestPoolSettings(t *testing.T) {
	doc := document(t, everyKey)
	listed, found := poolSettingsOf("listed", doc), poolSettingsOf("found", doc)
	if listed.park != 7*time.Second || listed.round != 2*time.Second {
		t.Errorf("got %+v", listed)
	}
	source, err := poolSource(listed.source, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	want := health.Static{
		{Name: "n", Addr: "10.0.0.1:1", Admin: "10.0.0.1:2", Weight: 3, Zone: "east", Capacity: 4, Draining: true, Meta: map[string]string{"backup": "true"}},
		{Name: "m", Addr: "10.0.0.2:1", Admin: "10.0.0.2:2", Weight: 1},
	}
	if !reflect.DeepEqual(source, want) {
		t.Errorf("the nodes are\n%+v\nwant\n%+v", source, want)
	}
	wantFound := sourceSettings{
		consul: &configs.PoolConsul{Service: "chat", Tag: "v2", Hold: 18 * time.Second},
		agent: health.ConsulAgent{
			Address: "https://127.0.0.1:8500", Datacenter: "dc1", TokenFile: "token",
			CAFile: "ca", CertFile: "cert", KeyFile: "key", ServerName: "agent.example",
		},
		cache: "/var/cache/imlb/pool-found.json",
	}
	if !found.source.equal(wantFound) {
		t.Errorf("the source is %+v, want %+v", found.source, wantFound)
	}
}

func TestCheckWithAuthorities(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{empty: "holds no PEM certificate", filepath.Join(t.TempDir(), "none"): "no such file"} {
		_, err := poolCheck(configs.Pool{Checks: []configs.Check{{Type: configs.CheckTLS, CAFile: file}}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "check 1 (tls): ") {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

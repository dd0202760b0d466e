package configs_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"imlb/configs"
)

func TestDefaultsAreFilledIn(t *testing.T) {
	got, err := configs.ParseProxy("f", []byte(front))
	if err != nil {
		t.Fatal(err)
	}
	want := configs.Proxy{
		Cluster: "imlb",
		Domains: []string{"example.com"},
		Listeners: []configs.Listener{{
			Name: "xmpp", Protocol: configs.XMPP, Address: ":5222", Pool: "chat",
			Rate: configs.Rate{PerSecond: 500, Burst: 1000, MaxWait: 2 * time.Second},
		}},
		Pools: map[string]configs.Pool{"chat": {
			Nodes:  []configs.PoolNode{{Name: "node-1", Address: "10.0.0.1:5280", Weight: 1}},
			Checks: []configs.Check{{Type: configs.CheckTCP, ProxyHeader: new(true)}},
			Check:  configs.CheckSchedule{Interval: time.Second, Jitter: 0.1, Timeout: time.Second, Rise: 2, Fall: 2},
			Outlier: configs.Outlier{
				Enabled: true, Consecutive: 5, Window: 30 * time.Second, MinSessions: 20, FailureRatio: 0.5,
				Ejection: 30 * time.Second, MaxEjection: 5 * time.Minute,
			},
			Damping:    configs.Damping{Enabled: true, Suppress: 3, Reuse: 1, HalfLife: 30 * time.Second, Max: 5 * time.Minute},
			MaxEjected: 0.5, PanicThreshold: 0.3,
			DialTimeout: 2 * time.Second, DialAttempts: 3, ProxyProtocol: configs.HeaderV2,
		}},
		TLS:       configs.TLS{Certificates: []configs.Certificate{{CertFile: "a.crt", KeyFile: "a.key"}}},
		Placement: configs.Placement{Policy: configs.TablePolicy, Epsilon: 0.25, Park: 10 * time.Second, ParkQueue: 1024},
		Secrets:   configs.Secrets{Period: 12 * time.Hour, Grace: 10 * time.Minute, Kept: 3},
		Limits: configs.ProxyLimits{
			MaxStanza: 256 << 10, MaxStanzaBeforeLogin: 16 << 10, MaxNodeStanza: 16 << 20, LoginAttempts: 5,
			LoginBackoff: configs.LoginBackoff{
				Enabled:       true,
				UserAndSource: configs.PairBackoff{Free: 3, First: time.Second, Max: 5 * time.Minute},
				Source:        configs.SourceBackoff{Free: 20, First: time.Second, Max: time.Minute},
				User:          configs.UserBackoff{Free: 10, First: 100 * time.Millisecond, Max: 2 * time.Second},
				MaxWait:       10 * time.Second, Window: 15 * time.Minute,
			},
			Source: configs.SourceLimits{Rate: configs.Pace{MaxWait: 2 * time.Second}, IPv4Prefix: 32, IPv6Prefix: 64},
			User:   configs.UserLimits{Rate: configs.Pace{MaxWait: 2 * time.Second}},
			Global: configs.GlobalLimits{Rate: configs.Pace{MaxWait: 2 * time.Second}, Unauthenticated: 10000},
		},
		Timeouts: configs.ProxyTimeouts{
			Handshake: 10 * time.Second, Identify: 30 * time.Second, Idle: time.Hour, Write: 30 * time.Second, HalfOpen: 30 * time.Second,
			Shutdown: 20 * time.Second,
		},
		Admin: configs.Admin{Address: "127.0.0.1:5225"},
		Log:   configs.Log{Level: configs.InfoLevel, Format: configs.TextFormat},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestDefaultsOfANode(t *testing.T) {
	got, err := configs.ParseNode("f", []byte(chatNode))
	if err != nil {
		t.Fatal(err)
	}
	want := configs.Defaults[configs.Node]()
	want.Name, want.Domain, want.Database.URL = "node-1", "example.com", "sqlite:imlb.db"
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}; !reflect.DeepEqual(got.TrustedFronts, want) {
		t.Errorf("trusted fronts are %v, want the loopback networks", got.TrustedFronts)
	}
}

// What is written down counts, also where it is zero.
func TestZeroIsNotTheDefault(t *testing.T) {
	p, err := configs.ParseProxy("f", []byte(edit(t, front, `":5222"}`, `":5222", rate: {per_second: 0, max_wait: 0s}}`)))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Listeners[0].Rate, (configs.Rate{Burst: 1000}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestListsReplaceDefaults(t *testing.T) {
	n, err := configs.ParseNode("f", []byte(chatNode+"sasl: {mechanisms: [PLAIN]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := n.SASL.Mechanisms; len(got) != 1 || got[0] != configs.Plain {
		t.Errorf("got %v, want PLAIN alone", got)
	}
}

func TestAliasesAndMerges(t *testing.T) {
	p, err := configs.ParseProxy("f", []byte(`
domains: &domains [example.com]
listeners: [{protocol: xmpp, address: ":1", pool: a}, {protocol: xmpps, address: ":2", pool: b}]
pools:
  a: &a
    check: &check {interval: 3s, rise: 7}
    nodes: [{name: n, address: "h:1"}]
  b:
    <<: *a
    check:
      <<: [{rise: 4}, *check]
      fall: 5
tls:
  certificates:
    - cert_file: !!str 1
      key_file: >-
        k
`))
	if err != nil {
		t.Fatal(err)
	}
	a, b := p.Pools["a"], p.Pools["b"]
	if !reflect.DeepEqual(a.Nodes, b.Nodes) {
		t.Errorf("the nodes of b are %v, want those of a", b.Nodes)
	}
	want := configs.CheckSchedule{Interval: 3 * time.Second, Jitter: 0.1, Timeout: time.Second, Rise: 4, Fall: 5}
	if b.Check != want {
		t.Errorf("the check of b is %+v, want %+v", b.Check, want)
	}
	if got, want := p.TLS.Certificates[0], (configs.Certificate{CertFile: "1", KeyFile: "k"}); got != want {
		t.Errorf("the certificate is %+v, want %+v", got, want)
	}
}

func TestNamesThatFollow(t *testing.T) {
	p, err := configs.ParseProxy("f", []byte(`
cluster: blue
domains: [example.com]
listeners: [{protocol: xmpp, address: "front.example.com:5222"}]
pools: {chat: {consul: {}}}
tls: {certificates: [{cert_file: a, key_file: b}]}
consul: {address: "127.0.0.1:8500", register: {}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Pools["chat"].Consul.Service; got != "blue-node" {
		t.Errorf("the pool looks for %q, want blue-node", got)
	}
	want := configs.Defaults[configs.Registration]()
	want.Service, want.Address, want.Admin = "blue-front", "front.example.com:5222", "127.0.0.1:5225"
	if got := *p.Consul.Register; !reflect.DeepEqual(got, want) {
		t.Errorf("the front registers %+v, want %+v", got, want)
	}

	n, err := configs.ParseNode("f", []byte(chatNode+"consul: {address: \"127.0.0.1:8500\", register: {admin: \"h:1\"}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want.Service, want.Address, want.Admin = "imlb-node", "127.0.0.1:5280", "h:1"
	if got := *n.Consul.Register; !reflect.DeepEqual(got, want) {
		t.Errorf("the node registers %+v, want %+v", got, want)
	}
}

func TestDatabaseURLIsNoFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "node.yaml")
	for _, url := range []string{"postgres://imlb:a%20b@db.example.com:5432/imlb?sslmode=verify-full", "postgresql:///imlb?host=/run/postgresql"} {
		write(t, file, strings.Replace(chatNode, "sqlite:imlb.db", url, 1))
		n, err := configs.LoadNode(file)
		if err != nil {
			t.Fatal(err)
		}
		if n.Database.URL != url {
			t.Errorf("the database is %q, want %q", n.Database.URL, url)
		}
	}
}

func TestRelativeFilesAreTakenFromTheDocument(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "node.yaml")
	write(t, file, chatNode+"sasl: {secret_file: ./s}\nbus: {cluster: {listen: ':1', secret_file: "+filepath.Join(dir, "s")+"}}\n")
	write(t, filepath.Join(dir, "s"), "  a secret\n")
	n, err := configs.LoadNode(file)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := n.Database.URL, "sqlite:"+filepath.Join(dir, "imlb.db"); got != want {
		t.Errorf("the database is %q, want %q", got, want)
	}
	if n.SASL.SecretFile != filepath.Join(dir, "s") || n.Bus.Cluster.SecretFile != n.SASL.SecretFile {
		t.Errorf("the secrets are %q and %q, want both in %s", n.SASL.SecretFile, n.Bus.Cluster.SecretFile, dir)
	}
	if secret, err := configs.ReadSecret(n.SASL.SecretFile); err != nil || secret != "a secret" {
		t.Errorf("the secret is %q, %v", secret, err)
	}
}

func TestDetect(t *testing.T) {
	for text, want := range map[string]configs.Kind{
		front:                     configs.KindProxy,
		chatNode:                  configs.KindNode,
		"listeners:\nlog: {}\n":   configs.KindProxy,
		"database: wrong\nx: 1\n": configs.KindNode,
	} {
		if got, err := configs.Detect("f", []byte(text)); got != want || err != nil {
			t.Errorf("Detect(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"log: {}\n", "listeners: []\ndatabase: {}\n"} {
		_, err := configs.Detect("f", []byte(text))
		compareErrors(t, err, []string{"f:1:1: this is neither the document of a front (it would have listeners and pools) nor of a node (it would have name, domain and database)"})
	}
	_, err := configs.Detect("f", []byte("- a\n"))
	compareErrors(t, err, []string{"f:1:1: this is a list; write keys with values"})
	if configs.KindProxy.String() != "proxy" || configs.KindNode.String() != "node" {
		t.Error("kinds are not named like their commands")
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]configs.Size{
		"0": 0, "17": 17, "17B": 17, "64KiB": 65536, "64 KiB": 65536, "3MiB": 3 << 20, "1GiB": 1 << 30, "10kB": 10000, "10KB": 10000, "2MB": 2e6, "1GB": 1e9,
	} {
		var s configs.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%q is read as %d, %v; want %d", text, s, err, want)
		}
		var again configs.Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%d is written as %q and read back as %d, %v", s, s, again, err)
		}
	}
	for _, text := range []string{"", "KiB", "-1", "1.5MiB", "1 XB", "9223372036854775808", "9007199254740992KiB", "٣"} {
		var s configs.Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %d, want an error", text, s)
		}
	}
}

func TestLevels(t *testing.T) {
	for level, want := range map[configs.Level]slog.Level{
		configs.DebugLevel: slog.LevelDebug, configs.InfoLevel: slog.LevelInfo,
		configs.WarnLevel: slog.LevelWarn, configs.ErrorLevel: slog.LevelError,
	} {
		if got := level.Level(); got != want {
			t.Errorf("%s is %v, want %v", level, got, want)
		}
	}
}

func FuzzParseProxy(f *testing.F) {
	f.Add([]byte(front))
	f.Add(sample(f, "proxy.example.yaml"))
	for _, tt := range wrongProxies {
		f.Add([]byte(tt.new))
	}
	for _, tt := range wrongListeners {
		f.Add([]byte("listeners: [{" + tt.listener + "}]"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		checkRoundTrip(t, data, configs.ParseProxy)
	})
}

func FuzzParseNode(f *testing.F) {
	f.Add([]byte(chatNode))
	f.Add(sample(f, "node.example.yaml"))
	f.Fuzz(func(t *testing.T, data []byte) {
		checkRoundTrip(t, data, configs.ParseNode)
	})
}

// checkRoundTrip reads a document; what was read has to come back from what it
// writes.
func checkRoundTrip[T interface{ YAML() ([]byte, error) }](t *testing.T, data []byte, parse func(string, []byte) (T, error)) {
	t.Helper()
	document, err := parse("f", data)
	if err != nil {
		if err.Error() == "" {
			t.Error("an error without a word")
		}
		return
	}
	text, err := document.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := parse("f", text)
	if err != nil {
		t.Fatalf("%v\nin what was written:\n%s", err, text)
	}
	if !reflect.DeepEqual(document, again) {
		t.Errorf("%+v\nwas written as\n%s\nand read back as\n%+v", document, text, again)
	}
	if once, _ := again.YAML(); !bytes.Equal(text, once) {
		t.Errorf("written once:\n%s\nand again:\n%s", text, once)
	}
}

func sample(f *testing.F, file string) []byte {
	f.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	return data
}

func TestChecksAreCompletedByTheirType(t *testing.T) {
	text := edit(t, front, "10.0.0.1:5280\"", "10.0.0.1:5280\", admin: \"h:1\"") + "cluster: c\n"
	text = edit(t, text, "tls:", `    checks:
      - type: tcp
      - {type: tls, verify: false, alpn: [xmpp-client]}
      - type: http
      - {type: https, path: /up, server_name: a.example}
      - type: agent
      - type: xmpp
      - {type: xmpp, domain: b.example, proxy_header: false}
      - {type: mqtt, accepted: true}
      - {type: script, steps: [{send: "PING\r\n", expect: PONG}, {pattern: "^O+K", timeout: 2s}]}
tls:`)
	p, err := configs.ParseProxy("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []configs.Check{
		{Type: configs.CheckTCP, ProxyHeader: new(true)},
		{Type: configs.CheckTLS, ProxyHeader: new(false), Verify: new(false), ALPN: []string{"xmpp-client"}},
		{Type: configs.CheckHTTP, Path: "/readyz"},
		{Type: configs.CheckHTTPS, Path: "/up", Verify: new(true), ServerName: "a.example"},
		{Type: configs.CheckAgent, Path: "/status"},
		{Type: configs.CheckXMPP, ProxyHeader: new(true), Domain: "example.com"},
		{Type: configs.CheckXMPP, ProxyHeader: new(false), Domain: "b.example"},
		{Type: configs.CheckMQTT, ProxyHeader: new(false), Accepted: true},
		{Type: configs.CheckScript, ProxyHeader: new(false), Steps: []configs.CheckStep{
			{Send: "PING\r\n", Expect: "PONG"}, {Pattern: "^O+K", Timeout: 2 * time.Second},
		}},
	}
	if got := p.Pools["chat"].Checks; !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	written, err := p.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := configs.ParseProxy("f", written)
	if err != nil {
		t.Fatalf("what was written cannot be read: %v\n%s", err, written)
	}
	if !reflect.DeepEqual(again, p) {
		t.Errorf("written and read again it is\n%+v\nwant\n%+v", again, p)
	}
}

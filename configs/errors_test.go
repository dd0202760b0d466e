package configs_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imlb/configs"
)

// front is the shortest document of a front; each test changes a thing.
const front = `domains: [example.com]
listeners:
  - {protocol: xmpp, address: ":5222"}
pools:
  chat:
    nodes:
      - {name: node-1, address: "10.0.0.1:5280"}
tls:
  certificates: [{cert_file: a.crt, key_file: a.key}]
`

// chatNode is the shortest document of a node.
const chatNode = `name: node-1
domain: example.com
database: {url: "sqlite:imlb.db"}
`

// Each document has to give exactly these errors.
var wrongProxies = []struct {
	name string
	old  string // what is replaced in front; empty: new is added at the end
	new  string
	want []string
}{
	{
		"typing mistake in a key", "listeners:", "listners:",
		[]string{`f:2:1: listners: unknown key; did you mean "listeners"?`},
	},
	{
		"a key nobody knows", "", "frobnicate: 1\n",
		[]string{`f:10:1: frobnicate: unknown key; the keys here are cluster, name, domains, listeners, pools, tls, secrets, sasl, placement, consul, cache_dir, limits, timeouts, admin, log`},
	},
	{
		"sources that no interface has", "    nodes:\n", "    source: [10.0.0.7, 0.0.0.0, 10.0.0.0/8]\n    nodes:\n",
		[]string{
			`f:6:24: pools.chat.source[1]: "0.0.0.0" is not the address of an interface; write it like 10.0.0.7 or fd00::7`,
			`f:6:33: pools.chat.source[2]: "10.0.0.0/8" is not the address of an interface; write it like 10.0.0.7 or fd00::7`,
		},
	},
	{
		"a node that no source reaches", "    nodes:\n", "    source: [\"fd00::7\"]\n    nodes:\n",
		[]string{`f:8:24: pools.chat.nodes[0].address: is of IPv4, and no address of source is; give it one, or leave source out`},
	},
	{
		"camel case", "", "limits: {maxStanza: 1MiB}\n",
		[]string{`f:10:10: limits.maxStanza: unknown key; did you mean "max_stanza"?`},
	},
	{
		"missing key", ", address: \":5222\"", "",
		[]string{`f:3:5: listeners[0].address: is missing; give the host:port to listen on, like ":5222" for all addresses`},
	},
	{
		"missing block", front[strings.Index(front, "tls:"):], "",
		[]string{`f:1:1: tls.certificates: is missing; TLS of the clients of listeners[0] (xmpp) ends here, so list at least one {cert_file, key_file}`},
	},
	{
		"key twice", "", "domains: [example.org]\n",
		[]string{`f:10:1: domains: the key is there twice, first in line 1`},
	},
	{
		"key without a value", "", "log:\n",
		[]string{`f:10:6: log: has no value; write {} for a block of defaults, or leave the key out`},
	},
	{
		"scalar without a value", "", "cluster: null\n",
		[]string{`f:10:10: cluster: has no value; give it one or leave the key out`},
	},
	{
		"scalar for a block", "", "log: debug\n",
		[]string{`f:10:6: log: this is a single value; write keys with values`},
	},
	{
		"list for a block", "", "log: [debug]\n",
		[]string{`f:10:6: log: this is a list; write keys with values`},
	},
	{
		"block for a scalar", "", "cluster: {name: a}\n",
		[]string{`f:10:10: cluster: this is a block of keys; write a single value`},
	},
	{
		"scalar for a list", "domains: [example.com]", "domains: example.com",
		[]string{`f:1:10: domains: this is a single value; write a list, like [a, b]`},
	},
	{
		"empty list", "- {protocol: xmpp, address: \":5222\"}", "[]",
		[]string{`f:2:1: listeners: is empty; give at least one, like {protocol: xmpp, address: ":5222"}`},
	},
	{
		"duration without a unit", "", "timeouts: {idle: 30}\n",
		[]string{`f:10:18: timeouts.idle: "30" is not a duration; write a number with its unit, like 500ms, 30s or 5m`},
	},
	{
		"duration too short", "", "timeouts: {idle: 10ms}\n",
		[]string{`f:10:18: timeouts.idle: 10ms is too small; the least is 1s`},
	},
	{
		"size too small", "", "limits: {max_stanza_before_login: 8KiB}\n",
		[]string{`f:10:35: limits.max_stanza_before_login: 8KiB is too small; the least is 10000`},
	},
	{
		"sizes that contradict each other", "", "limits: {max_stanza_before_login: 1MiB}\n",
		[]string{`f:10:10: limits.max_stanza_before_login: 1MiB is more than max_stanza, 256KiB`},
	},
	{
		"number", "", "placement: {epsilon: much}\n",
		[]string{`f:10:22: placement.epsilon: "much" is not a number`},
	},
	{
		"infinite number", "", "placement: {epsilon: .inf}\n",
		[]string{`f:10:22: placement.epsilon: ".inf" is not a number`},
	},
	{
		"whole number", "", "limits: {login_attempts: 2.5}\n",
		[]string{`f:10:26: limits.login_attempts: "2.5" is not a whole number`},
	},
	{
		"choice", "protocol: xmpp", "protocol: xmmp",
		[]string{`f:3:16: listeners[0].protocol: "xmmp" is not known here; did you mean "xmpp"? The choices are tcp, tls, xmpp, xmpps, mqtt, mqtts, ws, wss, quic`},
	},
	{
		"no choice is near", "", "placement: {policy: fastest}\n",
		[]string{`f:10:21: placement.policy: "fastest" is not known here; the choices are table, ring, maglev, least-sessions, power-of-two, round-robin`},
	},
	{
		"mechanisms that are none", "", "sasl: {mechanisms: [scram-sha-256, 'PL AIN', PLAIN, PLAIN]}\n",
		[]string{
			`f:10:21: sasl.mechanisms[0]: "scram-sha-256" is not written like a SASL mechanism; write "SCRAM-SHA-256"`,
			`f:10:36: sasl.mechanisms[1]: "PL AIN" is not the name of a SASL mechanism; they have up to 20 capital letters, digits, dashes and underscores, like SCRAM-SHA-256-PLUS`,
			`f:10:53: sasl.mechanisms[3]: "PLAIN" is in the list already`,
		},
	},
	{
		"no mechanisms", "", "sasl: {mechanisms: []}\n",
		[]string{`f:10:8: sasl.mechanisms: is empty, so that nobody could log in; leave the key out for the default`},
	},
	{
		"network", "protocol: xmpp,", "protocol: xmpp, proxy_protocol: {trusted: [10.0.0.0]},",
		[]string{`f:3:49: listeners[0].proxy_protocol.trusted[0]: "10.0.0.0" is not a network; write it like 10.0.0.0/8 or ::1/128`},
	},
	{
		"domain", "domains: [example.com]", "domains: [Example.com, 'a b', example.com, example.com]",
		[]string{
			`f:1:11: domains[0]: "Example.com" has capital letters; write "example.com"`,
			`f:1:24: domains[1]: "a b" is not a domain; write it like example.com`,
			`f:1:44: domains[3]: "example.com" is in the list already`,
		},
	},
	{
		"domain twice", "domains: [example.com]", "domains: [example.com, example.com]",
		[]string{`f:1:24: domains[1]: "example.com" is in the list already`},
	},
	{
		"listener without a host and port", ":5222", "5222",
		[]string{`f:3:31: listeners[0].address: "5222" is not an address to listen on; write host:port, like 127.0.0.1:5222, [::1]:5222 or :5222`},
	},
	{
		"port", ":5222", ":99999",
		[]string{`f:3:31: listeners[0].address: "99999" is not a port; ports are numbers from 0 to 65535`},
	},
	{
		"node without a host", "10.0.0.1:5280", ":5280",
		[]string{`f:7:33: pools.chat.nodes[0].address: the host is missing; write host:port`},
	},
	{
		"node on any port", "10.0.0.1:5280", "10.0.0.1:0",
		[]string{`f:7:33: pools.chat.nodes[0].address: "0" is not a port; ports are numbers from 1 to 65535`},
	},
	{
		"node with a name that is none", "name: node-1", "name: node 1",
		[]string{`f:7:16: pools.chat.nodes[0].name: "node 1" is not a name; use up to 64 letters, digits, dots, dashes and underscores, with a letter or digit first and last`},
	},
	{
		"pool with a name that is none", "chat:", "the chat:",
		[]string{`f:5:3: pools.the chat: "the chat" is not a name; use up to 64 letters, digits, dots, dashes and underscores, with a letter or digit first and last`},
	},
	{
		"listener of a pool that is not there", "protocol: xmpp,", "protocol: xmpp, pool: chatt,",
		[]string{`f:3:22: listeners[0].pool: "chatt" is not known here; did you mean "chat"? The choices are chat`},
	},
	{
		"listener that does not say its pool", "tls:", "  other: {nodes: [{name: n, address: \"h:1\"}]}\ntls:",
		[]string{`f:3:5: listeners[0].pool: is missing; say which of the pools this listener serves: chat, other`},
	},
	{
		"listeners of one name", "pools:", "  - {protocol: xmpp, address: \":5223\"}\npools:",
		[]string{`f:4:5: listeners[1].name: "xmpp" is the name of listeners[0] already; give each a name of its own`},
	},
	{
		"listeners of one address", "pools:", "  - {protocol: xmpps, address: \":5222\"}\npools:",
		[]string{`f:4:23: listeners[1].address: listeners[0] has the same address; give each its own`},
	},
	{
		"admin at a listener's address", "", "admin: {address: \":5222\"}\n",
		[]string{`f:10:9: admin.address: listeners[0] has the same address; give each its own`},
	},
	{
		"PROXY protocol for QUIC", "protocol: xmpp,", "protocol: quic, proxy_protocol: {trusted: ['::1/128']},",
		[]string{`f:3:22: listeners[0].proxy_protocol: there is no PROXY protocol for QUIC; leave it out`},
	},
	{
		"nodes of one name", "tls:", "      - {name: node-1, address: \"10.0.0.2:5280\"}\ntls:",
		[]string{`f:8:10: pools.chat.nodes[1].name: "node-1" is the name of nodes[0] already; give each a name of its own`},
	},
	{
		"nodes of one address", "tls:", "      - {name: node-2, address: \"10.0.0.1:5280\"}\ntls:",
		[]string{`f:8:24: pools.chat.nodes[1].address: nodes[0] has the same address`},
	},
	{
		"a node where the front itself listens", "tls:", "      - {name: node-2, address: \"127.0.0.1:5222\"}\ntls:",
		[]string{`f:8:24: pools.chat.nodes[1].address: listeners[0] listens there itself, so that sessions would come back for ever; give the address of a node`},
	},
	{
		"http checks without an admin address", "tls:", "    checks: [{type: http}]\ntls:",
		[]string{`f:7:9: pools.chat.nodes[0].admin: is missing; checks of type http ask the node's admin listener`},
	},
	{
		"pool without nodes", "    nodes:\n      - {name: node-1, address: \"10.0.0.1:5280\"}", "    dial_attempts: 2",
		[]string{`f:5:3: pools.chat: has no nodes; list them under nodes, or find them with a block consul`},
	},
	{
		"pool with two sources", "tls:", "    consul: {}\nconsul: {address: \"127.0.0.1:8500\"}\ntls:",
		[]string{`f:5:3: pools.chat: has both nodes and consul; keep one of them`},
	},
	{
		"pool in Consul without an agent", "    nodes:\n      - {name: node-1, address: \"10.0.0.1:5280\"}", "    consul: {}",
		[]string{`f:6:5: pools.chat.consul: no agent is named; add a block consul with its address to the document`},
	},
	{
		"registration that nobody could reach", "", "consul: {address: \"127.0.0.1:8500\", register: {}}\n",
		[]string{`f:10:37: consul.register.address: is missing; what this process listens on does not name one host and port, so say where others reach it`},
	},
	{
		"a check that would come less often when in doubt", "tls:", "    check: {interval: 1s, fast_interval: 2s}\ntls:",
		[]string{"f:8:27: pools.chat.check.fast_interval: 2s is more than interval, 1s"},
	},
	{
		"keys of other types of checks", "tls:", "    checks: [{type: tcp, path: /up, verify: false}, {type: tls, accepted: true}]\ntls:",
		[]string{
			"f:8:26: pools.chat.checks[0].path: is for checks of type http, https and agent; this one is of type tcp",
			"f:8:37: pools.chat.checks[0].verify: is for checks of type tls and https; this one is of type tcp",
			"f:8:65: pools.chat.checks[1].accepted: is for checks of type mqtt; this one is of type tls",
		},
	},
	{
		"a check of no type", "tls:", "    checks: [{path: /up}]\ntls:",
		[]string{"f:8:14: pools.chat.checks[0].type: is missing; say how the node is asked, like tcp or agent"},
	},
	{
		"a path that is none", "tls:", "    checks: [{type: http, path: up}]\ntls:",
		[]string{
			"f:7:9: pools.chat.nodes[0].admin: is missing; checks of type http ask the node's admin listener",
			`f:8:33: pools.chat.checks[0].path: "up" is not a path; write it like /readyz`,
		},
	},
	{
		"scripts that say nothing", "tls:", "    checks: [{type: script}, {type: script, steps: [{}, {expect: a, pattern: b}, {pattern: '('}, {send: a, timeout: -1s}]}]\ntls:",
		[]string{
			`f:8:14: pools.chat.checks[0].steps: is missing; say what to send and to expect, like [{send: "PING\r\n", expect: PONG}]`,
			`f:8:53: pools.chat.checks[1].steps[0]: does nothing; give it send, or expect, or both`,
			`f:8:57: pools.chat.checks[1].steps[1]: has both expect and pattern; keep one of them`,
			"f:8:92: pools.chat.checks[1].steps[2].pattern: \"(\" is not a regular expression of the kind of RE2: error parsing regexp: missing closing ): `(`",
			`f:8:117: pools.chat.checks[1].steps[3].timeout: -1s is too small; the least is 0s`,
		},
	},
	{
		"bounds that contradict each other", "tls:", "    outlier: {ejection: 10m}\n    damping: {reuse: 4}\ntls:",
		[]string{
			"f:8:5: pools.chat.outlier.max_ejection: 5m0s is less than ejection, 10m0s",
			"f:9:15: pools.chat.damping.reuse: 4 is more than suppress, 3",
		},
	},
	{
		"a policy nobody knows", "", "placement: {policy: tabel}\n",
		[]string{`f:10:21: placement.policy: "tabel" is not known here; did you mean "table"? The choices are table, ring, maglev, least-sessions, power-of-two, round-robin`},
	},
	{
		"a wait that outlasts the login", "", "placement: {park: 1m}\n",
		[]string{"f:10:13: placement.park: 1m0s is more than timeouts.identify, 30s, after which a login is over"},
	},
	{
		"half a client certificate", "", "consul: {address: \"127.0.0.1:8500\", tls: {cert_file: a}}\n",
		[]string{`f:10:37: consul.tls: has only one of cert_file and key_file; a client certificate needs both`},
	},
	{
		"alias of nothing", "[example.com]", "*nothing",
		[]string{`f:1:10: domains: nothing is marked &nothing`},
	},
	{
		"two documents", "", "---\na: b\n",
		[]string{`f:11:1: a second document starts here; keep one document in a file`},
	},
	{
		"not YAML", "[example.com]", "[example.com",
		[]string{`f:2:1: this is not YAML: ',' or ']' must be specified`},
	},
	{
		"everything at once", "domains: [example.com]", "domain: [example.com]\nlog: {level: warning}\nadmin: {address: nowhere}\nconsul: {register: {interval: 1}}",
		[]string{
			`f:1:1: domain: unknown key; did you mean "domains"?`,
			`f:2:14: log.level: "warning" is not known here; did you mean "warn"? The choices are debug, info, warn, error`,
			`f:3:18: admin.address: "nowhere" is not an address to listen on; write host:port, like 127.0.0.1:5222, [::1]:5222 or :5222`,
			`f:4:10: consul.register.address: is missing; what this process listens on does not name one host and port, so say where others reach it`,
			`f:4:10: consul.register.admin: is missing; what this process listens on does not name one host and port, so say where others reach it`,
			`f:4:31: consul.register.interval: "1" is not a duration; write a number with its unit, like 500ms, 30s or 5m`,
		},
	},
}

func TestWrongProxies(t *testing.T) {
	for _, tt := range wrongProxies {
		t.Run(tt.name, func(t *testing.T) {
			_, err := configs.ParseProxy("f", []byte(edit(t, front, tt.old, tt.new)))
			compareErrors(t, err, tt.want)
		})
	}
}

func TestWrongNodes(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"no name", "name: node-1\n", "", `f:1:1: name: is missing; name the node; the name decides which users live on it, so it must stay the same`},
		{"no database", "database: {url: \"sqlite:imlb.db\"}\n", "", `f:1:1: database.url: is missing; name the database of the cluster, like sqlite:imlb.db`},
		{"database of another kind", "sqlite:imlb.db", "mysql://h/imlb", `f:3:17: database.url: "mysql://h/imlb" is not a database; write sqlite: and a file name, like sqlite:/var/lib/imlb/imlb.db, or postgres://USER:PASSWORD@HOST/DATABASE`},
		{"database with a bad escape", "sqlite:imlb.db", "postgres://imlb:%zz@h/imlb", `f:3:17: database.url: this is not the URL of a PostgreSQL database; write postgres://USER:PASSWORD@HOST/DATABASE, odd characters as %XX`},
		{"database without a file", "sqlite:imlb.db", "sqlite:", `f:3:17: database.url: "" is not a file name`},
		{"no fronts", "", "trusted_fronts: []\n", `f:4:1: trusted_fronts: is empty, so that no front could connect; leave the key out for the default`},
		{"one address for two", "", "listen: 127.0.0.1:5281\n", `f:1:1: admin.address: is the same as listen; give each its own`},
		{"bus of two kinds", "", "bus: {urls: [\"nats://h:4222\"], cluster: {listen: \":6222\"}}\n", `f:4:1: bus: has both urls and cluster; keep urls for an external NATS, cluster for the embedded one`},
		{"routes without a listener", "", "bus: {cluster: {routes: [\"h:6222\"]}}\n", `f:4:7: bus.cluster.listen: is missing; a node of a cluster has to listen for the others`},
		{"contact without a scheme", "", "contacts: {abuse: [\"mailto:abuse@example.com\", \"abuse@example.com\"]}\n", `f:4:48: contacts.abuse[1]: "abuse@example.com" is not a URI; write one like mailto:admin@example.com or https://example.com/contact`},
		{"contact of words", "", "contacts: {status: [\"tel:call us\"]}\n", `f:4:21: contacts.status[0]: "tel:call us" is not a URI; write one like mailto:admin@example.com or https://example.com/contact`},
		{"bus at no URL", "", "bus: {urls: [\"h:4222\"]}\n", `f:4:14: bus.urls[0]: "h:4222" is not the URL of a NATS server; write nats://host:port or tls://host:port`},
		{"keys of little work", "", "sasl: {iterations: 100}\n", `f:4:20: sasl.iterations: 100 is too small; the least is 4096`},
		{"no mechanisms", "", "sasl: {mechanisms: []}\n", `f:4:8: sasl.mechanisms: is empty, so that nobody could log in; leave the key out for the default`},
		{"mechanism twice", "", "sasl: {mechanisms: [PLAIN, PLAIN]}\n", `f:4:28: sasl.mechanisms[1]: "PLAIN" is in the list already`},
		{"registration on all addresses", "", "listen: ':1'\nconsul: {address: 'h:1', register: {}}\n", `f:5:26: consul.register.address: is missing; what this process listens on does not name one host and port, so say where others reach it`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := configs.ParseNode("f", []byte(edit(t, chatNode, tt.old, tt.new)))
			compareErrors(t, err, []string{tt.want})
		})
	}
}

func TestEmptyDocuments(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "---\n"} {
		_, err := configs.ParseProxy("f", []byte(text))
		compareErrors(t, err, []string{"f: the document is empty"})
	}
}

func TestTooLargeDocument(t *testing.T) {
	_, err := configs.ParseProxy("f", make([]byte, 2<<20))
	compareErrors(t, err, []string{"f: the document has 2097152 bytes; at most 1048576 are read"})
}

// The YAML parser's work grows with the square of the nesting.
func TestDeeplyNestedDocuments(t *testing.T) {
	for text, want := range map[string]string{
		strings.Repeat("[", 50_000):           "f:1:33: ",
		strings.Repeat("{a: ", 20_000):        "f:1:129: ",
		strings.Repeat("- ", 20_000):          "f:1:2049: ",
		"a: " + strings.Repeat("&a ", 20_000): "f:1:3076: ",
	} {
		_, err := configs.ParseProxy("f", []byte(text))
		compareErrors(t, err, []string{want + "this is nested too deeply; no key is more than 32 levels down"})
	}
}

// Aliases that stand for more and more must not take the machine with them.
func TestAliasesThatGrow(t *testing.T) {
	for name, text := range map[string]string{
		"into itself":  "tls: &a {<<: *a}\n",
		"by the power": "a: &a {x: 1}\nb: &b {<<: [*a,*a,*a,*a,*a,*a,*a,*a]}\nc: &c {<<: [*b,*b,*b,*b,*b,*b,*b,*b]}\nd: &d {<<: [*c,*c,*c,*c,*c,*c,*c,*c]}\ne: &e {<<: [*d,*d,*d,*d,*d,*d,*d,*d]}\nf: &f {<<: [*e,*e,*e,*e,*e,*e,*e,*e]}\ntls: {<<: [*f,*f,*f,*f,*f,*f,*f,*f]}\n",
	} {
		_, err := configs.ParseProxy("f", []byte(text))
		if err == nil || !strings.Contains(err.Error(), "aliases stand for too much") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrorsAreBounded(t *testing.T) {
	var b strings.Builder
	for range 500 {
		b.WriteString("log: 1\n")
	}
	_, err := configs.ParseProxy("f", []byte(b.String()))
	list, ok := errors.AsType[configs.Errors](err)
	if !ok || len(list) != 51 {
		t.Fatalf("%d errors, want 50 and how many there are more", len(list))
	}
	if last := list[50].Error(); !strings.Contains(last, "more errors") {
		t.Errorf("the last one is %q", last)
	}
}

func TestErrorsCanBeTakenApart(t *testing.T) {
	_, err := configs.ParseProxy("f", []byte(front+"log: {levl: info}\n"))
	one, ok := errors.AsType[*configs.Error](err)
	if !ok {
		t.Fatalf("%v holds no *Error", err)
	}
	want := configs.Error{File: "f", Line: 10, Column: 7, Path: "log.levl", Message: `unknown key; did you mean "level"?`}
	if *one != want {
		t.Errorf("got %+v, want %+v", *one, want)
	}
}

func TestLoadTriesTheFiles(t *testing.T) {
	dir := t.TempDir()
	proxy := filepath.Join(dir, "proxy.yaml")
	write(t, proxy, front+"consul: {address: \"h:1\", token_file: token, tls: {ca_file: ca.pem, cert_file: c, key_file: k}}\n")
	write(t, filepath.Join(dir, "token"), " \n")
	write(t, filepath.Join(dir, "ca.pem"), "no certificate")
	_, err := configs.LoadProxy(proxy)
	compareErrors(t, err, []string{
		proxy + ":9:18: tls.certificates[0]: cannot be used: open " + filepath.Join(dir, "a.crt") + ": no such file or directory",
		proxy + ":10:26: consul.token_file: cannot be used: read secret: " + filepath.Join(dir, "token") + " is empty",
		proxy + ":10:51: consul.tls.ca_file: cannot be used: it holds no PEM certificate",
		proxy + ":10:68: consul.tls.cert_file: cannot be used: open " + filepath.Join(dir, "c") + ": no such file or directory",
	})
	write(t, proxy, edit(t, edit(t, front, `address: ":5222"`, `address: ":5222", client_auth: optional, client_ca_file: ca.pem`),
		"tls:", "    tls: {ca_file: none.pem, cert_file: c, key_file: k}\ntls:"))
	writeCertificate(t, dir)
	_, err = configs.LoadProxy(proxy)
	compareErrors(t, err, []string{
		proxy + ":3:63: listeners[0].client_ca_file: cannot be used: it holds no PEM certificate",
		proxy + ":8:11: pools.chat.tls.ca_file: cannot be used: open " + filepath.Join(dir, "none.pem") + ": no such file or directory",
		proxy + ":8:30: pools.chat.tls.cert_file: cannot be used: open " + filepath.Join(dir, "c") + ": no such file or directory",
	})
	node := filepath.Join(dir, "node.yaml")
	write(t, node, chatNode+"sasl: {secret_file: s}\nbus: {cluster: {listen: ':1', secret_file: token}}\n")
	_, err = configs.LoadNode(node)
	compareErrors(t, err, []string{
		node + ":4:8: sasl.secret_file: cannot be used: read secret: open " + filepath.Join(dir, "s") + ": no such file or directory",
		node + ":5:31: bus.cluster.secret_file: cannot be used: read secret: " + filepath.Join(dir, "token") + " is empty",
	})
}

func TestLoadWithoutAFile(t *testing.T) {
	_, proxyErr := configs.LoadProxy(filepath.Join(t.TempDir(), "none.yaml"))
	_, nodeErr := configs.LoadNode(filepath.Join(t.TempDir(), "none.yaml"))
	for _, err := range []error{proxyErr, nodeErr} {
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v, want one that is os.ErrNotExist", err)
		}
	}
}

func edit(t *testing.T, text, from, to string) string {
	t.Helper()
	if from == "" {
		return text + to
	}
	if !strings.Contains(text, from) {
		t.Fatalf("the document does not contain %q", from)
	}
	return strings.Replace(text, from, to, 1)
}

func compareErrors(t *testing.T, err error, want []string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want\n%s", strings.Join(want, "\n"))
	}
	if got := strings.Split(err.Error(), "\n"); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// SuggestName names the one that was meant, and not more than can be read.
func TestSuggestName(t *testing.T) {
	var many []string
	for i := range 23 {
		many = append(many, fmt.Sprintf("node-%02d", i))
	}
	for _, tt := range []struct {
		name  string
		names []string
		want  string
	}{
		{"a", nil, "there are none"},
		{"caht", []string{"chat", "work"}, `did you mean "chat"? There are chat, work`},
		{"elsewhere", []string{"chat", "work"}, "there are chat, work"},
		{"elsewhere", many, "there are " + strings.Join(many[:20], ", ") + " and 3 more"},
	} {
		if got := configs.SuggestName(tt.name, tt.names); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

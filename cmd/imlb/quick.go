package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"imlb/configs"
	"imlb/proxy"
)

// quickFlags describe a front on the command line, without a document.
type quickFlags struct {
	Listen    []string      `xor:"source" required:"" sep:"none" placeholder:"PROTO://ADDR" help:"Without a document: where clients connect, like tcp://127.0.0.1:7000; may be repeated. PROTO is tcp, tls, xmpp, xmpps, ws, wss, mqtt, mqtts or quic. ws and wss answer on any path, unless ADDR ends with one, like /xmpp-websocket."`
	To        []string      `placeholder:"ADDR" help:"With --listen: the nodes, as host:port or name=host:port."`
	Key       string        `placeholder:"KIND" help:"With --listen: what users are known by: source, mqtt, sni, random, pattern:REGEX, path, query:NAME, header:NAME, cookie:NAME or jwt:CLAIM. sni is the name that a TLS client asks for; with tcp:// that of TLS between client and node. pattern is tried whenever a line has ended, on all that came up to there; (?m) makes ^ the beginning of any line. Default: mqtt for MQTT (also in ws, wss and quic, where clients agree on it), else source."`
	KeyWait   time.Duration `placeholder:"DURATION" help:"With --key pattern and mqtt, and sni with tcp://: how long a client's first bytes may take; who is silent that long, as where the server speaks first, is known by the address. Default: 30s."`
	Check     string        `placeholder:"KIND" help:"With --listen: connect or none. connect makes a connection to each node every second and closes it, which a server may show as a client that comes and goes; with none a node is passed over when it refuses a client. Default: connect."`
	Policy    string        `placeholder:"NAME" help:"With --listen: table, ring, maglev, least-sessions, power-of-two or round-robin. Default: table."`
	SendProxy string        `placeholder:"FORM" help:"With --listen: the PROXY header that nodes get, v1, v2 or none; imlb's own nodes need v2. Default: none."`
	ALPN      []string      `name:"alpn" placeholder:"NAME" help:"With --listen: the application protocols of tls and quic. Without it quic takes XMPP (xmpp-client), which is to be listed if others are."`
	Cert      string        `placeholder:"FILE" type:"path" help:"With --listen: the certificate chain, PEM. Default: one that the front makes and signs itself."`
	CertOut   string        `placeholder:"FILE" type:"path" help:"With --listen and without --cert: where to write the certificate that the front makes, for clients to trust. Default: a temporary file, which goes with the front."`
	KeyFile   string        `placeholder:"FILE" type:"path" help:"With --listen: the certificate's key, PEM."`
	Admin     string        `placeholder:"ADDR" help:"With --listen: where /metrics, /status and so on are. Default: nowhere."`
	LogLevel  string        `placeholder:"LEVEL" help:"With --listen: debug, info, warn or error. Default: warn."`
}

// quickPool is the pool of a front without a document.
const quickPool = "nodes"

// selfSigned stands for the files of a certificate that the front makes itself.
const selfSigned = "self-signed"

// Validate checks the flags, so that a mistake is one of the command line.
func (q *quickFlags) Validate() error {
	if len(q.Listen) == 0 {
		if len(q.To)+len(q.ALPN) > 0 || q.KeyWait != 0 || q.Key+q.Check+q.Policy+q.SendProxy+q.Cert+q.CertOut+q.KeyFile+q.Admin+q.LogLevel != "" {
			return errors.New("--to, --key, --key-wait, --check, --policy, --send-proxy, --alpn, --cert, --cert-out, --key-file, --admin and --log-level go with --listen; with --config or --consul, write them in the document")
		}
		return nil
	}
	_, err := q.document()
	return err
}

// document writes down what the flags say, as an operator would. The error tells all
// that is wrong.
func (q *quickFlags) document() (configs.Proxy, error) {
	doc := configs.Defaults[configs.Proxy]()
	doc.Timeouts.Shutdown = 2 * time.Second // who tries it out does not want to wait
	doc.Limits.LoginBackoff.Enabled, doc.Limits.Global.Unauthenticated = false, 0
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	pool, err := q.pool()
	note(err)
	doc.Pools = map[string]configs.Pool{quickPool: pool}
	doc.Listeners, err = q.listeners()
	note(err)
	note(q.place(&doc))
	note(q.secure(&doc))
	note(choose("--log-level", cmp.Or(q.LogLevel, "warn"), &doc.Log.Level, configs.DebugLevel, configs.InfoLevel, configs.WarnLevel, configs.ErrorLevel))
	if err := errors.Join(errs...); err != nil {
		return doc, err
	}
	return q.completed(doc)
}

// completed fills in what follows from the rest of the document, and has it checked
// as any other.
func (q *quickFlags) completed(doc configs.Proxy) (configs.Proxy, error) {
	if q.Admin != "" {
		doc.Admin.Address = q.Admin
	}
	text, err := doc.YAML()
	if err != nil {
		return doc, err
	}
	doc, err = configs.ParseProxy("", text)
	if q.Admin == "" {
		doc.Admin.Address = "" // which no document can say
	}
	if pool, ok := doc.Pools[quickPool]; ok && q.Check == checkNone {
		pool.Checks = nil // nor this
		doc.Pools[quickPool] = pool
	}
	return doc, q.inFlags(err)
}

// inFlags names the flags in the place of what was made of them.
func (q *quickFlags) inFlags(err error) error {
	list, ok := errors.AsType[configs.Errors](err)
	if !ok {
		return err
	}
	errs := make([]error, len(list))
	for i, e := range list {
		errs[i] = fmt.Errorf("%s: %s", q.flagOf(e.Path), inDocument.ReplaceAllStringFunc(e.Message, func(at string) string {
			return q.flagOf(strings.Replace(at, "nodes", "pools."+quickPool+".nodes", 1))
		}))
	}
	return errors.Join(errs...)
}

// inDocument is what errors call a listener or a node in a document.
var inDocument = regexp.MustCompile(`\b(listeners|nodes)\[\d+\]`)

// flagOf returns the flag that has led to what is at a path in the document.
func (q *quickFlags) flagOf(path string) string {
	var i int
	switch {
	case strings.HasSuffix(path, ".identify.timeout"):
		return "--key-wait"
	case strings.Contains(path, ".identify"):
		return "--key " + q.Key
	case strings.Contains(path, ".alpn["):
		return "--alpn"
	case strings.HasPrefix(path, "admin"):
		return "--admin"
	}
	if _, err := fmt.Sscanf(path, "listeners[%d]", &i); err == nil && i < len(q.Listen) {
		return "--listen " + q.Listen[i]
	}
	if _, err := fmt.Sscanf(path, "pools."+quickPool+".nodes[%d]", &i); err == nil && i < len(q.To) {
		return "--to " + q.To[i]
	}
	return path
}

// choose sets a choice by its word.
func choose[T ~string](flag, word string, to *T, values ...T) error {
	if slices.Contains(values, T(word)) {
		*to = T(word)
		return nil
	}
	list := make([]string, len(values))
	for i, v := range values {
		list[i] = string(v)
	}
	return fmt.Errorf("%s %s: the choices are %s", flag, word, strings.Join(list, ", "))
}

// place says how users are placed.
func (q *quickFlags) place(doc *configs.Proxy) error {
	if q.Policy == "" {
		return nil
	}
	return choose("--policy", q.Policy, &doc.Placement.Policy, configs.TablePolicy, configs.RingPolicy, configs.MaglevPolicy,
		configs.LeastSessionsPolicy, configs.PowerOfTwoPolicy, configs.RoundRobinPolicy)
}

// secure names the certificate, where one is needed.
func (q *quickFlags) secure(doc *configs.Proxy) error {
	needed := slices.ContainsFunc(doc.Listeners, func(l configs.Listener) bool { return needsCertificate(l.Protocol) })
	switch {
	case q.CertOut != "" && (q.Cert != "" || !needed):
		return errors.New("--cert-out is for the certificate that the front makes itself, where a listener needs one and there is no --cert; leave it out")
	case (q.Cert == "") != (q.KeyFile == ""):
		return errors.New("--cert and --key-file go together: name the certificate and its key, or neither")
	case q.Cert == "" && needed:
		doc.TLS.Certificates = []configs.Certificate{{CertFile: selfSigned, KeyFile: selfSigned}}
	case q.Cert != "" && !needed:
		return errors.New("--cert: no listener needs a certificate; leave it out, or listen with tls, xmpp, xmpps, wss, mqtts or quic")
	case q.Cert != "":
		if _, err := tls.LoadX509KeyPair(q.Cert, q.KeyFile); err != nil {
			return fmt.Errorf("--cert %s --key-file %s: %w", q.Cert, q.KeyFile, err)
		}
		doc.TLS.Certificates = []configs.Certificate{{CertFile: q.Cert, KeyFile: q.KeyFile}}
	}
	return nil
}

// needsCertificate tells whether clients on a listener of the protocol are served in TLS.
func needsCertificate(p configs.Protocol) bool {
	switch p {
	case configs.OpaqueTLS, configs.XMPP, configs.XMPPS, configs.MQTTS, configs.WSS, configs.QUIC:
		return true
	case configs.TCP, configs.MQTT, configs.WS:
	}
	return false
}

// What --check can be.
const (
	checkConnect = "connect"
	checkNone    = "none"
)

// pool is the nodes. One connection tells whether a node is there, at once.
func (q *quickFlags) pool() (configs.Pool, error) {
	pool := configs.Defaults[configs.Pool]()
	pool.Checks = []configs.Check{{Type: configs.CheckTCP}}
	pool.Check.Rise = 1
	err := choose("--send-proxy", cmp.Or(q.SendProxy, "none"), &pool.ProxyProtocol, configs.HeaderV1, configs.HeaderV2, configs.HeaderNone)
	check := checkConnect
	errs := []error{err, choose("--check", cmp.Or(q.Check, checkConnect), &check, checkConnect, checkNone)}
	if len(q.To) == 0 {
		errs = append(errs, errors.New("--to is missing: say which nodes serve the clients, like --to 127.0.0.1:7001,127.0.0.1:7002"))
	}
	for i, to := range q.To {
		if slices.Contains(q.To[:i], to) {
			errs = append(errs, fmt.Errorf("--to %s is there twice: leave one out", to))
			continue
		}
		name, addr, named := strings.Cut(to, "=")
		if !named {
			name, addr = fmt.Sprintf("node-%d", i+1), to
		}
		node := configs.Defaults[configs.PoolNode]()
		node.Name, node.Address = name, addr
		pool.Nodes = append(pool.Nodes, node)
	}
	return pool, errors.Join(errs...)
}

// listeners are where clients connect. They are named like their protocols, the second
// of one like tcp-2.
func (q *quickFlags) listeners() ([]configs.Listener, error) {
	var list []configs.Listener
	var errs []error
	if q.Key != "" {
		if _, err := q.identifier(); err != nil {
			errs = append(errs, err)
		}
	}
	seen := make(map[string]int)
	for i, flag := range q.Listen {
		if slices.Contains(q.Listen[:i], flag) && !strings.HasSuffix(flag, ":0") { // of which each is another port
			errs = append(errs, fmt.Errorf("--listen %s is there twice: leave one out", flag))
			continue
		}
		l, err := q.listener(flag)
		if err != nil {
			errs = append(errs, fmt.Errorf("--listen %s: %w", flag, err))
			continue
		}
		l.Name = string(l.Protocol)
		if seen[l.Name]++; seen[l.Name] > 1 {
			l.Name = fmt.Sprintf("%s-%d", l.Protocol, seen[l.Name])
		}
		list = append(list, l)
	}
	if len(errs) == 0 {
		errs = append(errs, q.checkUse(list))
	}
	return list, errors.Join(errs...)
}

// checkUse refuses flags that no listener has a use for.
func (q *quickFlags) checkUse(list []configs.Listener) error {
	var errs []error
	if q.Key != "" && !slices.ContainsFunc(list, func(l configs.Listener) bool { return l.Identify != nil }) {
		errs = append(errs, errors.New("--key: users of XMPP are known by their logins; leave it out"))
	}
	if q.KeyWait != 0 && !slices.ContainsFunc(list, q.waits) {
		errs = append(errs, errors.New("--key-wait: no user is known by first bytes; leave it out, or say with --key pattern:REGEX, mqtt, or sni and tcp:// that they are"))
	}
	if len(q.ALPN) > 0 && !slices.ContainsFunc(list, func(l configs.Listener) bool { return len(l.ALPN) > 0 }) {
		errs = append(errs, errors.New("--alpn: no listener has a use for it; leave it out, or listen with tls or quic"))
	}
	return errors.Join(errs...)
}

// waits tells whether users on a listener are known by first bytes, which can be waited for.
func (q *quickFlags) waits(l configs.Listener) bool {
	kind, _, _ := strings.Cut(q.Key, ":")
	switch {
	case l.Identify == nil:
		return false
	case kind == "pattern", kind == "mqtt":
		return true
	case kind == "sni":
		return l.Protocol == configs.TCP // on which TLS is the nodes'
	case kind != "":
		return false
	}
	switch l.Protocol {
	case configs.MQTT, configs.MQTTS, configs.WS, configs.WSS:
		return true
	case configs.OpaqueTLS, configs.QUIC:
		return slices.Contains(l.ALPN, "mqtt")
	case configs.TCP, configs.XMPP, configs.XMPPS:
	}
	return false
}

func (q *quickFlags) listener(flag string) (configs.Listener, error) {
	l := configs.Defaults[configs.Listener]()
	l.Rate.PerSecond = 0 // who tries it out floods it first of all
	word, addr, ok := strings.Cut(flag, "://")
	if _, known := proxy.ParseProtocol(word); !ok || !known {
		return l, errors.New("write PROTO://ADDR, like tcp://127.0.0.1:7000; PROTO is tcp, tls, xmpp, xmpps, ws, wss, mqtt, mqtts or quic")
	}
	l.Protocol, l.Pool = configs.Protocol(word), quickPool
	var path string
	if at := strings.IndexByte(addr, '/'); at >= 0 {
		addr, path = addr[:at], addr[at:]
	}
	l.Address = addr
	switch l.Protocol {
	case configs.XMPP, configs.XMPPS:
	case configs.WS, configs.WSS:
		l.WebSocket = &configs.WebSocket{Path: cmp.Or(path, "/"), Subprotocols: []string{"xmpp", "mqtt", configs.NoSubprotocol}}
		path = ""
	case configs.QUIC, configs.OpaqueTLS:
		l.ALPN = q.ALPN
	case configs.TCP, configs.MQTT, configs.MQTTS:
	}
	if path != "" {
		return l, fmt.Errorf("%s has no path; only ws and wss do", word)
	}
	if !isOpaque(l) {
		return l, nil
	}
	identify := configs.Defaults[configs.Identify]()
	identify.By, identify.Timeout = q.key(), q.KeyWait
	l.Identify = &identify
	return l, nil
}

// isOpaque tells whether opaque sessions can come on a listener.
func isOpaque(l configs.Listener) bool {
	switch l.Protocol {
	case configs.XMPP, configs.XMPPS:
		return false
	case configs.QUIC:
		return slices.ContainsFunc(l.ALPN, func(protocol string) bool { return protocol != "xmpp-client" })
	case configs.TCP, configs.OpaqueTLS, configs.MQTT, configs.MQTTS, configs.WS, configs.WSS:
	}
	return true
}

// identifier is what --key says. The error tells what to write instead.
func (q *quickFlags) identifier() (configs.Identifier, error) {
	kind, value, valued := strings.Cut(q.Key, ":")
	by := configs.Identifier{Type: configs.IdentifierType(kind)}
	wantsValue := false
	switch kind {
	case "source", "mqtt", "sni", "random":
	case "path":
		by = configs.Identifier{Type: configs.ByWebSocket, From: configs.FromSegment, Segment: -1}
	case "query", "header", "cookie":
		by = configs.Identifier{Type: configs.ByWebSocket, From: configs.RequestPart(kind), Name: value}
		wantsValue = true
	case "jwt":
		by = configs.Identifier{Type: configs.ByWebSocket, From: configs.FromBearer, Claim: value}
		wantsValue = true
	case "pattern":
		by.Pattern = configs.Line(value)
		wantsValue = true
	default:
		return by, fmt.Errorf("--key %s: write source, mqtt, sni, random, pattern:REGEX, path, query:NAME, header:NAME, cookie:NAME or jwt:CLAIM", q.Key)
	}
	if wantsValue && value == "" || !wantsValue && valued {
		return by, fmt.Errorf("--key %s: source, mqtt, sni, random and path stand alone; the others need a value, like query:user", q.Key)
	}
	return by, nil
}

// key is what users are known by. Who is not known by that is known by the address. nil
// leaves it to the protocols.
func (q *quickFlags) key() []configs.Identifier {
	if q.Key == "" {
		return nil
	}
	by, _ := q.identifier() // listeners has told the error
	if by.Type == configs.BySource || by.Type == configs.ByRandom {
		return []configs.Identifier{by}
	}
	return []configs.Identifier{by, {Type: configs.BySource}}
}

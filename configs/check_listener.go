package configs

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// complete fills in what by default follows from the protocol, and from there being
// one pool.
func (l *Listener) complete(pools map[string]Pool) {
	l.Name = cmp.Or(l.Name, string(l.Protocol))
	if l.Pool == "" && len(pools) == 1 {
		l.Pool = slices.Collect(maps.Keys(pools))[0]
	}
	for i := range l.Routes {
		l.Routes[i].Pool = cmp.Or(l.Routes[i].Pool, l.Pool)
	}
	if l.Protocol == MQTTS && len(l.ALPN) == 0 {
		l.ALPN = []string{"mqtt"} // as registered with IANA
	}
	if l.WebSocket == nil && slices.Contains(webProtocols, l.Protocol) {
		l.WebSocket = new(Defaults[WebSocket]())
	}
	if !l.opaque() {
		return
	}
	if l.Identify == nil {
		l.Identify = new(Defaults[Identify]())
	}
	if len(l.Identify.By) == 0 {
		l.Identify.By = l.identifiers()
	}
	for i := range l.Identify.By {
		l.Identify.By[i].complete()
	}
	if l.Identify.MaxBytes == 0 {
		l.Identify.MaxBytes = l.Identify.firstBytes()
	}
}

// firstBytes is how many of the first bytes are looked at by default. An MQTT CONNECT has up to
// 64 KiB each of client identifier and of the topic and the payload of the will, before as many of
// the user name.
func (i *Identify) firstBytes() Size {
	if slices.ContainsFunc(i.By, func(by Identifier) bool { return by.Type == ByMQTT }) {
		return 256 << 10
	}
	return 16 << 10
}

// opaque reports whether opaque sessions can come on the listener.
func (l *Listener) opaque() bool {
	switch l.Protocol {
	case TCP, OpaqueTLS, MQTT, MQTTS:
		return true
	case WS, WSS:
		return l.WebSocket != nil && slices.ContainsFunc(l.WebSocket.Subprotocols, func(s string) bool { return s != "xmpp" })
	case QUIC:
		other := func(protocol string) bool { return protocol != alpnXMPP }
		return slices.ContainsFunc(l.ALPN, other) || slices.ContainsFunc(l.Routes, func(r Route) bool { return slices.ContainsFunc(r.ALPN, other) })
	case XMPP, XMPPS:
	}
	return false
}

// endsTLS reports whether TLS of clients can end at the listener.
func (l *Listener) endsTLS() bool {
	ends := func(r Route) bool { return !r.Passthrough }
	return l.Protocol.endsTLS() && (!l.Passthrough || slices.ContainsFunc(l.Routes, ends))
}

// identifiers are those of a listener that does not say.
func (l *Listener) identifiers() []Identifier {
	switch {
	case l.Protocol == MQTT || l.Protocol == MQTTS:
		return []Identifier{{Type: ByMQTT}, {Type: BySource}}
	case l.agreesOnMQTT():
		return []Identifier{{Type: ByMQTT, Agreed: true}, {Type: BySource}}
	}
	return []Identifier{{Type: BySource}}
}

// agreesOnMQTT reports whether clients can agree on MQTT with the front, beside other
// protocols.
func (l *Listener) agreesOnMQTT() bool {
	list := slices.Clone(l.ALPN)
	for _, r := range l.Routes {
		list = append(list, r.ALPN...)
	}
	if l.WebSocket != nil {
		list = append(list, l.WebSocket.Subprotocols...)
	}
	return slices.ContainsFunc(list, func(name string) bool { return strings.HasPrefix(name, "mqtt") })
}

// complete fills in what follows from the identifier's type.
func (i *Identifier) complete() {
	switch i.Type {
	case ByMQTT:
		i.First = cmp.Or(i.First, UserName)
	case ByCertificate:
		i.Field = cmp.Or(i.Field, CommonName)
	case ByPattern:
		i.MaxLines = cmp.Or(i.MaxLines, 16)
	case BySource:
		i.IPv4Prefix = cmp.Or(i.IPv4Prefix, 32)
		i.IPv6Prefix = cmp.Or(i.IPv6Prefix, 64)
	case BySNI, ByWebSocket, ByProxyTLV, ByRandom:
	}
}

func (p *Proxy) checkListeners(d *decoder) {
	names, ports := map[string]int{}, map[string]int{}
	for i, l := range p.Listeners {
		at := fmt.Sprintf("listeners[%d]", i)
		if first, ok := names[l.Name]; ok && l.Name != "" {
			d.refuse(at+".name", "%q is the name of listeners[%d] already; give each a name of its own", l.Name, first)
		} else {
			names[l.Name] = i
		}
		port := l.Protocol.network() + " " + l.Address
		if first, ok := ports[port]; ok && l.Address != "" && !anyPort(l.Address) {
			d.refuse(at+".address", "listeners[%d] has the same address; give each its own", first)
		} else {
			ports[port] = i
		}
		p.checkPoolOf(d, at, l.Pool)
		l.check(d, at)
		l.checkLimits(d, at)
		for i, r := range l.Routes {
			at := fmt.Sprintf("%s.routes[%d]", at, i)
			p.checkRoute(d, at, l, r)
			if first := slices.IndexFunc(l.Routes[:i], r.within); first >= 0 {
				d.refuse(at, "never counts, as routes[%d] matches the same clients; leave one of them out", first)
			}
		}
	}
	port := "tcp " + p.Admin.Address
	if first, ok := ports[port]; ok && !anyPort(p.Admin.Address) {
		d.refuse("admin.address", "listeners[%d] has the same address; give each its own", first)
	}
	p.checkCertificates(d)
}

// checkCertificates reports when there is nothing to end TLS with.
func (p *Proxy) checkCertificates(d *decoder) {
	i := slices.IndexFunc(p.Listeners, func(l Listener) bool { return l.endsTLS() })
	if i >= 0 && len(p.TLS.Certificates) == 0 {
		d.refuse("tls.certificates", "is missing; TLS of the clients of listeners[%d] (%s) ends here, so list at least one {cert_file, key_file}",
			i, p.Listeners[i].Protocol)
	}
}

func (p *Proxy) checkPoolOf(d *decoder, at, pool string) {
	names := slices.Sorted(maps.Keys(p.Pools))
	if pool == "" {
		d.refuse(at+".pool", "is missing; say which of the pools this listener serves: %s", strings.Join(names, ", "))
		return
	}
	if err := oneOf(pool, names); err != nil {
		d.refuse(at+".pool", "%v", err)
	}
}

func (p *Proxy) checkRoute(d *decoder, at string, l Listener, r Route) {
	if len(r.ServerNames) == 0 && len(r.ALPN) == 0 {
		d.refuse(at, "matches everybody; give it server_names or alpn, or write its pool and passthrough at the listener")
	}
	noneTwice(d, at+".server_names", r.ServerNames)
	noneTwice(d, at+".alpn", r.ALPN)
	if r.Pool != l.Pool {
		p.checkPoolOf(d, at, r.Pool)
	}
	if r.Passthrough && l.Protocol != OpaqueTLS {
		d.refuse(at+".passthrough", "is for listeners of protocol tls; this one is of protocol %s", l.Protocol)
	}
}

// within reports whether all that match a route match another, and as well.
func (r Route) within(other Route) bool {
	among := func(list, all []string) bool {
		return (len(list) == 0) == (len(all) == 0) && !slices.ContainsFunc(list, func(s string) bool { return !slices.Contains(all, s) })
	}
	return among(r.ServerNames, other.ServerNames) && among(r.ALPN, other.ALPN)
}

// check holds the keys of the listener at a path against each other.
func (l *Listener) check(d *decoder, at string) {
	if l.Protocol == "" {
		return // said already
	}
	for _, k := range listenerKeys {
		if d.has(at, k.key) && !slices.Contains(k.protocols, l.Protocol) {
			d.refuse(join(at, k.key), "is for listeners of protocol %s; this one is of protocol %s", listed(k.protocols), l.Protocol)
		}
	}
	if l.ProxyProtocol != nil && l.Protocol == QUIC {
		d.refuse(at+".proxy_protocol", "there is no PROXY protocol for QUIC; leave it out")
	}
	noneTwice(d, at+".alpn", l.ALPN)
	l.checkPassthrough(d, at)
	l.checkClientAuth(d, at)
	if l.WebSocket != nil {
		l.WebSocket.check(d, at+".websocket")
	}
	if l.BOSH != nil && l.WebSocket != nil {
		l.BOSH.check(d, at+".bosh", *l.WebSocket)
	}
	if !l.opaque() {
		if d.has(at, "identify") {
			d.refuse(at+".identify", "is for opaque sessions, and this listener has XMPP alone; name another protocol in %s", l.opaqueKey())
		}
		return
	}
	everybody := false // is found by one before
	for i, by := range l.Identify.By {
		at := fmt.Sprintf("%s.identify.by[%d]", at, i)
		by.check(d, at, l)
		if everybody {
			d.refuse(at, "is never asked, as %s before it finds everybody; leave one of them out, or put that last", l.Identify.By[i-1].Type)
			break
		}
		everybody = by.Type == BySource || by.Type == ByRandom
	}
}

// alpnXMPP is what clients of XMPP agree on (XEP-0368 §4, XEP-0467).
const alpnXMPP = "xmpp-client"

// opaqueKey is what lets opaque sessions come on a listener that has XMPP alone.
func (l *Listener) opaqueKey() string {
	if l.Protocol == QUIC {
		return "alpn"
	}
	return "websocket.subprotocols"
}

// checkPassthrough refuses what has to do with TLS that ends here, where none does.
func (l *Listener) checkPassthrough(d *decoder, at string) {
	if !l.Passthrough || l.Protocol != OpaqueTLS || l.endsTLS() {
		return
	}
	for _, key := range []string{"alpn", "client_auth", "client_ca_file"} {
		if d.has(at, key) {
			d.refuse(join(at, key), "has no effect, as all TLS is left to the nodes; leave it out, or passthrough")
		}
	}
}

func (l *Listener) checkClientAuth(d *decoder, at string) {
	asked := l.ClientAuth != "" && l.ClientAuth != NoClientAuth
	switch {
	case asked && l.ClientCAFile == "":
		d.refuse(at+".client_ca_file", "is missing; name the PEM file of who signed the clients' certificates")
	case !asked && l.ClientCAFile != "":
		d.refuse(at+".client_ca_file", "has no use while clients show no certificates; set client_auth to optional or required")
	}
}

// check holds BOSH against the WebSocket on the same port.
func (b *BOSH) check(d *decoder, at string, w WebSocket) {
	if !slices.Contains(w.Subprotocols, "xmpp") {
		d.refuse(at, "is for XMPP, and this listener has none; add xmpp to websocket.subprotocols, or leave the block out")
	}
	checkPath(d, at, b.Path, "/http-bind")
	if b.Path == w.Path && b.Path != "" {
		d.refuse(at+".path", "is that of the WebSocket; choose another, or leave the key out for /http-bind")
	}
}

// checkPath holds the path of a block against what clients can ask for.
func checkPath(d *decoder, at, path, usual string) {
	if path == "" {
		d.refuse(at+".path", "is empty; write it like %s, or leave the key out", usual)
	}
	if u, err := url.Parse(path); err == nil && u.Path != path && u.Path != "" {
		d.refuse(at+".path", "%q is more than a path, and no client would find it; write %q, which they may ask for with any query", path, u.Path)
	}
}

func (w *WebSocket) check(d *decoder, at string) {
	noneTwice(d, at+".subprotocols", w.Subprotocols)
	if len(w.Subprotocols) == 0 {
		d.refuse(at+".subprotocols", "is empty, so that nobody could connect; leave the key out for xmpp")
	}
	checkPath(d, at, w.Path, "/xmpp-websocket")
}

// check holds the keys of the identifier at a path against its type and its listener.
func (i Identifier) check(d *decoder, at string, l *Listener) {
	if i.Type == "" {
		return // said already
	}
	for _, k := range identifierKeys {
		if d.has(at, k.key) && !slices.Contains(k.types, i.Type) {
			d.refuse(join(at, k.key), "is for identifiers of type %s; this one is of type %s", listed(k.types), i.Type)
		}
	}
	if p := i.Type.protocols(); !slices.Contains(p, l.Protocol) {
		d.refuse(join(at, "type"), "%s can find nobody here: it is for listeners of protocol %s; this one is of protocol %s", i.Type, listed(p), l.Protocol)
	}
	switch i.Type {
	case ByWebSocket:
		i.checkRequest(d, at)
	case ByPattern:
		d.needs(at, "pattern", "write a regular expression with a group named user, like ^LOGIN (?P<user>\\S+)")
	case ByProxyTLV:
		i.checkTLV(d, at, l)
	case ByCertificate:
		if l.ClientAuth == "" || l.ClientAuth == NoClientAuth {
			d.refuse(join(at, "type"), "certificate can find nobody while clients show none; set client_auth of the listener")
		}
	case BySNI, ByMQTT, BySource, ByRandom:
	}
}

func (i Identifier) checkTLV(d *decoder, at string, l *Listener) {
	d.needs(at, "tlv", "say which field of the PROXY header names the user, like 0xE0")
	switch {
	case l.ProxyProtocol == nil:
		d.refuse(join(at, "type"), "proxy-tlv can find nobody without a PROXY header; set proxy_protocol of the listener")
	case i.TLV == sslTLV && i.Sub == 0:
		d.needs(at, "sub", "say which field in the one of TLS counts; 0x22 is the common name of the certificate")
	case i.TLV != sslTLV && i.Sub != 0:
		d.refuse(join(at, "sub"), "is for tlv 0x20, the field that has others in it")
	}
}

// checkRequest holds the keys of an identifier of type websocket against the part of the
// request that it is from.
func (i Identifier) checkRequest(d *decoder, at string) {
	if i.From == "" {
		d.needs(at, "from", "say which part of the request names the user, like query or bearer")
		return
	}
	for _, k := range partKeys {
		switch uses := slices.Contains(k.parts, i.From); {
		case uses:
			d.needs(at, k.key, k.advice)
		case d.has(at, k.key):
			d.refuse(join(at, k.key), "is for what is from %s; this is from %s", listed(k.parts), i.From)
		}
	}
}

// has reports whether the document has a key in the block at a path.
func (d *decoder) has(at, key string) bool {
	_, given := d.places[join(at, key)]
	return given
}

// needs reports a key that the block at a path does not have.
func (d *decoder) needs(at, key, advice string) {
	if !d.has(at, key) {
		d.refuse(join(at, key), "is missing; %s", advice)
	}
}

package configs

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// complete fills in what by default follows from other parts of the document.
func (p *Proxy) complete(local Local) {
	for i := range p.Listeners {
		p.Listeners[i].complete(p.Pools)
	}
	for name, pool := range p.Pools {
		if pool.Consul != nil && pool.Consul.Service == "" {
			pool.Consul.Service = p.Cluster + "-node"
		}
		if len(pool.Checks) == 0 {
			pool.Checks = []Check{{Type: CheckTCP}}
		}
		for i := range pool.Checks {
			pool.Checks[i].complete(p.Domains, pool.ProxyProtocol)
		}
		p.Pools[name] = pool
	}
	if len(p.Listeners) > 0 {
		p.Consul.complete(p.Cluster+"-front", local.reach(p.Listeners[0].Address), local.reach(p.Admin.Address))
	}
}

// complete fills in what follows from the check's type and its pool.
func (c *Check) complete(domains []string, header HeaderVersion) {
	if c.ProxyHeader == nil && c.Type.takes("proxy_header") {
		c.ProxyHeader = new((c.Type == CheckTCP || c.Type == CheckXMPP) && header != HeaderNone)
	}
	if c.Verify == nil && c.Type.takes("verify") {
		c.Verify = new(true)
	}
	c.Path = cmp.Or(c.Path, c.Type.path())
	if c.Type == CheckXMPP && c.Domain == "" && len(domains) > 0 {
		c.Domain = domains[0]
	}
}

// check holds the parts of the document against each other.
func (p *Proxy) check(d *decoder) {
	noneTwice(d, "domains", p.Domains)
	noneTwice(d, "sasl.mechanisms", p.SASL.Mechanisms)
	p.checkListeners(d)
	for name, pool := range p.Pools {
		p.checkPool(d, join("pools", name), pool)
	}
	if _, given := d.places["sasl.mechanisms"]; given && len(p.SASL.Mechanisms) == 0 {
		d.refuse("sasl.mechanisms", "is empty, so that nobody could log in; leave the key out for the default")
	}
	p.Limits.check(d, p.Timeouts.Identify)
	p.Secrets.check(d, p.Consul)
	if _, given := d.places["placement.park"]; given && p.Placement.Park > p.Timeouts.Identify {
		d.refuse("placement.park", "%v is more than timeouts.identify, %v, after which a login is over", p.Placement.Park, p.Timeouts.Identify)
	}
	p.Consul.check(d)
}

func (p *Proxy) checkPool(d *decoder, at string, pool Pool) {
	switch {
	case pool.Consul != nil && len(pool.Nodes) > 0:
		d.refuse(at, "has both nodes and consul; keep one of them")
	case pool.Consul != nil && p.Consul == nil:
		d.refuse(at+".consul", "no agent is named; add a block consul with its address to the document")
	case pool.Consul == nil && len(pool.Nodes) == 0:
		d.refuse(at, "has no nodes; list them under nodes, or find them with a block consul")
	}
	if t := pool.TLS; t != nil && (t.CertFile == "") != (t.KeyFile == "") {
		d.refuse(at+".tls", "has only one of cert_file and key_file; a client certificate needs both")
	}
	if pool.Check.FastInterval > pool.Check.Interval {
		d.refuse(at+".check.fast_interval", "%v is more than interval, %v", pool.Check.FastInterval, pool.Check.Interval)
	}
	if pool.Outlier.Ejection > pool.Outlier.MaxEjection {
		d.refuse(at+".outlier.max_ejection", "%v is less than ejection, %v", pool.Outlier.MaxEjection, pool.Outlier.Ejection)
	}
	if pool.Damping.Reuse > pool.Damping.Suppress {
		d.refuse(at+".damping.reuse", "%v is more than suppress, %v", pool.Damping.Reuse, pool.Damping.Suppress)
	}
	for i, c := range pool.Checks {
		c.check(d, fmt.Sprintf("%s.checks[%d]", at, i))
	}
	pool.checkSource(d, at)
	names, addresses := map[string]int{}, map[string]int{}
	for i, n := range pool.Nodes {
		at := fmt.Sprintf("%s.nodes[%d]", at, i)
		if first, ok := names[n.Name]; ok && n.Name != "" {
			d.refuse(at+".name", "%q is the name of nodes[%d] already; give each a name of its own", n.Name, first)
		}
		if first, ok := addresses[n.Address]; ok && n.Address != "" {
			d.refuse(at+".address", "nodes[%d] has the same address", first)
		}
		if c, ok := pool.adminCheck(); ok && n.Admin == "" {
			d.refuse(at+".admin", "is missing; checks of type %s ask the node's admin listener", c.Type)
		}
		if l := p.listenerAt(n.Address); l >= 0 {
			d.refuse(at+".address", "listeners[%d] listens there itself, so that sessions would come back for ever; give the address of a node", l)
		}
		names[n.Name], addresses[n.Address] = i, i
	}
}

// checkSource refuses nodes that cannot be reached from any address of source, as far as the
// addresses tell.
func (p Pool) checkSource(d *decoder, at string) {
	if len(p.Source) == 0 {
		return
	}
	for i, n := range p.Nodes {
		for _, to := range []struct{ key, address string }{{"address", n.Address}, {"admin", n.Admin}} {
			node, err := netip.ParseAddrPort(to.address)
			if err != nil {
				continue // a name, none, or no address, which is said elsewhere
			}
			is4 := node.Addr().Unmap().Is4()
			if slices.ContainsFunc(p.Source, func(s netip.Addr) bool { return s.Is4() == is4 }) {
				continue
			}
			kind := "IPv6"
			if is4 {
				kind = "IPv4"
			}
			d.refuse(fmt.Sprintf("%s.nodes[%d].%s", at, i, to.key), "is of %s, and no address of source is; give it one, or leave source out", kind)
		}
	}
}

// listenerAt returns the index of the listener that accepts at a node's address; −1 if there
// is none, as far as the addresses tell.
func (p *Proxy) listenerAt(address string) int {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return -1 // said already
	}
	return slices.IndexFunc(p.Listeners, func(l Listener) bool {
		at, its, err := net.SplitHostPort(l.Address)
		if err != nil || its != port || anyPort(l.Address) || l.Protocol.network() != "tcp" {
			return false
		}
		return at == host || anyHost(at) && (anyHost(host) || isLoopback(host))
	})
}

// anyHost tells whether a listener with this host accepts at all addresses.
func anyHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// adminCheck returns a check that asks the node's admin listener, if there is one.
func (p Pool) adminCheck() (Check, bool) {
	i := slices.IndexFunc(p.Checks, func(c Check) bool { return c.Type.takes("path") })
	if i < 0 {
		return Check{}, false
	}
	return p.Checks[i], true
}

// check holds the keys of the check at a path against its type.
func (c Check) check(d *decoder, at string) {
	if c.Type == "" {
		return // said already
	}
	for _, k := range checkKeys {
		if _, given := d.places[join(at, k.key)]; given && !c.Type.takes(k.key) {
			d.refuse(join(at, k.key), "is for checks of type %s; this one is of type %s", listed(k.types), c.Type)
		}
	}
	if c.Type == CheckXMPP && c.Domain == "" {
		d.refuse(join(at, "domain"), "is missing; say to which domain the stream is opened, or list your domains in domains")
	}
	if c.Type == CheckScript && len(c.Steps) == 0 {
		d.refuse(join(at, "steps"), "is missing; say what to send and to expect, like [{send: \"PING\\r\\n\", expect: PONG}]")
	}
	for i, s := range c.Steps {
		at := fmt.Sprintf("%s.steps[%d]", at, i)
		switch {
		case s.Expect != "" && s.Pattern != "":
			d.refuse(at, "has both expect and pattern; keep one of them")
		case s.Send == "" && s.Expect == "" && s.Pattern == "":
			d.refuse(at, "does nothing; give it send, or expect, or both")
		}
	}
}

// listed writes the values of a choice as a sentence has them.
func listed[T ~string](values []T) string {
	list := words(values...)
	last := len(list) - 1
	if last == 0 {
		return list[0]
	}
	return strings.Join(list[:last], ", ") + " and " + list[last]
}

// checkFiles tries the files that the document names.
func (p *Proxy) checkFiles(d *decoder) {
	for i, c := range p.TLS.Certificates {
		if _, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile); err != nil {
			d.refuse(fmt.Sprintf("tls.certificates[%d]", i), "cannot be used: %v", err)
		}
	}
	for i, l := range p.Listeners {
		d.checkCA(fmt.Sprintf("listeners[%d].client_ca_file", i), l.ClientCAFile)
	}
	for name, pool := range p.Pools {
		pool.TLS.checkFiles(d, join("pools", name)+".tls")
		for i, c := range pool.Checks {
			d.checkCA(fmt.Sprintf("%s.checks[%d].ca_file", join("pools", name), i), c.CAFile)
		}
	}
	d.checkDirOf("secrets.file", p.Secrets.File)
	p.Consul.checkFiles(d)
}

// checkDirOf tries where a file is made when it is not there, if one is named.
func (d *decoder) checkDirOf(path, file string) {
	if file == "" {
		return
	}
	info, err := os.Stat(filepath.Dir(file))
	switch {
	case err != nil:
		d.refuse(path, "cannot be used: %v", err)
	case !info.IsDir():
		d.refuse(path, "cannot be used: %s is no directory", filepath.Dir(file))
	}
}

func (t *NodeTLS) checkFiles(d *decoder, at string) {
	if t == nil {
		return
	}
	d.checkCA(at+".ca_file", t.CAFile)
	d.checkPair(at+".cert_file", t.CertFile, t.KeyFile)
}

// checkPair tries a certificate that is shown to servers, if one is named.
func (d *decoder) checkPair(path, cert, key string) {
	if cert == "" {
		return
	}
	if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
		d.refuse(path, "cannot be used: %v", err)
	}
}

// complete fills in what by default follows from other parts of the document.
func (n *Node) complete() {
	n.Consul.complete(n.Cluster+"-node", Local{}.reach(n.Listen), Local{}.reach(n.Admin.Address))
}

// check holds the parts of the document against each other.
func (n *Node) check(d *decoder) {
	n.SASL.check(d)
	if a, r := n.SASL.Accounts, n.Registration; (a.LDAP != nil || a.HTTP != nil) && (r.Open || r.PasswordChange || r.Cancel) {
		d.refuse("registration", "makes and changes accounts, but passwords are checked elsewhere (sasl.accounts); switch its keys off")
	}
	if len(n.TrustedFronts) == 0 {
		d.refuse("trusted_fronts", "is empty, so that no front could connect; leave the key out for the default")
	}
	if n.Listen == n.Admin.Address && !anyPort(n.Listen) {
		d.refuse("admin.address", "is the same as listen; give each its own")
	}
	n.Bus.check(d)
	n.Consul.check(d)
}

func (b *Bus) check(d *decoder) {
	c := b.Cluster
	if c.Listen == "" && (len(c.Routes) > 0 || c.Advertise != "" || c.SecretFile != "") {
		d.refuse("bus.cluster.listen", "is missing; a node of a cluster has to listen for the others")
	}
	if len(b.URLs) > 0 && c.Listen != "" {
		d.refuse("bus", "has both urls and cluster; keep urls for an external NATS, cluster for the embedded one")
	}
}

// checkFiles tries the files that the document names. The database is not one of
// them: it is made when it is not there.
func (n *Node) checkFiles(d *decoder) {
	d.checkSecret("bus.cluster.secret_file", n.Bus.Cluster.SecretFile)
	n.SASL.checkFiles(d)
	n.Consul.checkFiles(d)
}

// complete fills in what a registration leaves out: the service's name, and where
// others reach the process, if that is known.
func (c *Consul) complete(service, address, admin string) {
	if c == nil || c.Register == nil {
		return
	}
	r := c.Register
	if r.Service == "" {
		r.Service = service
	}
	r.Address = cmp.Or(r.Address, address)
	r.Admin = cmp.Or(r.Admin, admin)
}

func (c *Consul) check(d *decoder) {
	if c == nil {
		return
	}
	if t := c.TLS; t != nil && (t.CertFile == "") != (t.KeyFile == "") {
		d.refuse("consul.tls", "has only one of cert_file and key_file; a client certificate needs both")
	}
	if c.Register == nil {
		return
	}
	const advice = "is missing; what this process listens on does not name one host and port, so say where others reach it"
	if c.Register.Address == "" {
		d.refuse("consul.register.address", advice)
	}
	if c.Register.Admin == "" {
		d.refuse("consul.register.admin", advice)
	}
}

func (c *Consul) checkFiles(d *decoder) {
	if c == nil {
		return
	}
	d.checkSecret("consul.token_file", c.TokenFile)
	if c.TLS == nil {
		return
	}
	d.checkCA("consul.tls.ca_file", c.TLS.CAFile)
	d.checkPair("consul.tls.cert_file", c.TLS.CertFile, c.TLS.KeyFile)
}

// checkSecret tries a file that holds a secret, if one is named.
func (d *decoder) checkSecret(path, file string) {
	if _, err := ReadSecret(file); err != nil {
		d.refuse(path, "cannot be used: %v", err)
	}
}

// ReadSecret returns what a file holds, without the space around it; nothing when
// no file is named. It is an error when a file holds nothing.
func ReadSecret(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	data, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	secret := strings.TrimSpace(string(data))
	if secret == "" {
		return "", fmt.Errorf("read secret: %s is empty", file)
	}
	return secret, nil
}

// checkCA tries a file of certificate authorities, if one is named.
func (d *decoder) checkCA(path, file string) {
	if file == "" {
		return
	}
	if err := checkCA(file); err != nil {
		d.refuse(path, "cannot be used: %v", err)
	}
}

func checkCA(path string) error {
	pem, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return errors.New("it holds no PEM certificate")
	}
	return nil
}

// noneTwice reports texts that are in a list more than once.
func noneTwice[T ~string](d *decoder, path string, list []T) {
	for i, s := range list {
		if slices.Contains(list[:i], s) {
			d.refuse(fmt.Sprintf("%s[%d]", path, i), "%q is in the list already", s)
		}
	}
}

// anyPort reports whether an address leaves the port to the system.
func anyPort(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && port == "0"
}

// reachable reports whether an address to listen on also tells others where to
// connect.
func reachable(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "" || anyPort(address) {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err != nil || !ip.IsUnspecified()
}

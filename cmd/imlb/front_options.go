package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"imlb/configs"
	"imlb/proxy"
)

// What of a document the front needs, in the words of package proxy.

// proxyOptions translates a document. What can fail are the files that it names, which
// may have changed since it was validated.
func (f *front) proxyOptions(doc configs.Proxy, pools map[string]*runningPool) (proxy.Options, error) {
	listeners, errListeners := proxyListeners(doc.Listeners)
	legs, errPools := proxyPools(doc.Pools)
	for name, p := range pools {
		leg := legs[name]
		leg.Picker, leg.Park = p.pool, doc.Placement.Park
		legs[name] = leg
	}
	return proxy.Options{
		Listeners:  listeners,
		Pools:      legs,
		Domains:    doc.Domains,
		Front:      frontName(doc),
		TLS:        &tls.Config{GetCertificate: f.certificates.get, MinVersion: tls.VersionTLS12},
		Mechanisms: doc.SASL.Mechanisms,
		Limits: proxy.Limits{
			MaxStanza:     int(doc.Limits.MaxStanza),
			MaxPreAuth:    int(doc.Limits.MaxStanzaBeforeLogin),
			MaxNodeStanza: int(doc.Limits.MaxNodeStanza),
			AuthAttempts:  doc.Limits.LoginAttempts,
		},
		Rules: limitRules(doc),
		Timeouts: proxy.Timeouts{
			Handshake: doc.Timeouts.Handshake,
			Identify:  doc.Timeouts.Identify,
			Write:     doc.Timeouts.Write,
			Idle:      doc.Timeouts.Idle,
			HalfOpen:  doc.Timeouts.HalfOpen,
			Shutdown:  doc.Timeouts.Shutdown,
		},
		Logger:     f.log,
		Registerer: f.registry,
	}, errors.Join(errListeners, errPools)
}

func proxyPools(list map[string]configs.Pool) (map[string]proxy.Pool, error) {
	pools := make(map[string]proxy.Pool, len(list))
	var errs []error
	for name, c := range list {
		nodeTLS, err := nodeTLSOf(c.TLS)
		if err != nil {
			errs = append(errs, fmt.Errorf("pool %s: %w", name, err))
		}
		pools[name] = proxy.Pool{
			DialTimeout: c.DialTimeout, DialAttempts: c.DialAttempts, Source: c.Source, Header: headerOf(c.ProxyProtocol), TLS: nodeTLS,
		}
	}
	return pools, errors.Join(errs...)
}

func headerOf(v configs.HeaderVersion) proxy.Header {
	switch v {
	case configs.HeaderV1:
		return proxy.HeaderV1
	case configs.HeaderNone:
		return proxy.HeaderNone
	case configs.HeaderV2:
	}
	return proxy.HeaderV2
}

// nodeTLSOf says what the front shows to the nodes, and what it wants to see.
func nodeTLSOf(c *configs.NodeTLS) (*tls.Config, error) {
	if c == nil {
		return nil, nil
	}
	roots, err := authorities(c.CAFile)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: c.ServerName, RootCAs: roots,
		InsecureSkipVerify: !c.Verify, //nolint:gosec // the operator says so
	}
	if c.CertFile == "" {
		return config, nil
	}
	cert, err := readPair(configs.Certificate{CertFile: c.CertFile, KeyFile: c.KeyFile})
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.CertFile, err)
	}
	config.Certificates = []tls.Certificate{*cert}
	return config, nil
}

// authorities reads a file of certificate authorities; nil when none is named.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read certificate authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read certificate authorities: %s holds no PEM certificate", file)
	}
	return pool, nil
}

func proxyListeners(list []configs.Listener) ([]proxy.Listener, error) {
	listeners := make([]proxy.Listener, len(list))
	var errs []error
	for i, l := range list {
		var err error
		if listeners[i], err = proxyListener(l); err != nil {
			errs = append(errs, fmt.Errorf("listener %s: %w", l.Name, err))
		}
	}
	return listeners, errors.Join(errs...)
}

func proxyListener(c configs.Listener) (proxy.Listener, error) {
	protocol, ok := proxy.ParseProtocol(string(c.Protocol))
	if !ok {
		return proxy.Listener{}, fmt.Errorf("no protocol is called %q", c.Protocol)
	}
	l := proxy.Listener{
		Name:        c.Name,
		Protocol:    protocol,
		Address:     c.Address,
		Pool:        c.Pool,
		Passthrough: c.Passthrough,
		DirectTLS:   c.DirectTLS,
		ALPN:        c.ALPN,
		ClientAuth:  clientAuthOf(c.ClientAuth),
	}
	if c.ProxyProtocol != nil {
		l.TrustedProxies = c.ProxyProtocol.Trusted
	}
	for _, r := range c.Routes {
		l.Routes = append(l.Routes, proxy.Route{ServerNames: r.ServerNames, ALPN: r.ALPN, Pool: r.Pool, Passthrough: r.Passthrough})
	}
	if c.WebSocket != nil {
		l.WebSocket = webSocketOf(*c.WebSocket)
	}
	if b := c.BOSH; b != nil {
		l.BOSH = &proxy.BOSH{Path: b.Path, Wait: b.Wait, Inactivity: b.Inactivity, MaxPause: b.MaxPause}
	}
	var errCA, errIdentify error
	l.ClientCAs, errCA = authorities(c.ClientCAFile)
	if c.Identify != nil {
		l.Identify, errIdentify = identifyOf(*c.Identify, protocol)
	}
	return l, errors.Join(errCA, errIdentify)
}

func clientAuthOf(c configs.ClientAuth) tls.ClientAuthType {
	switch c {
	case configs.OptionalClientAuth:
		return tls.VerifyClientCertIfGiven
	case configs.RequiredClientAuth:
		return tls.RequireAndVerifyClientCert
	case configs.NoClientAuth:
	}
	return tls.NoClientCert
}

func webSocketOf(c configs.WebSocket) proxy.WebSocket {
	w := proxy.WebSocket{Path: c.Path, Compress: c.Compression}
	for _, s := range c.Subprotocols {
		if s == configs.NoSubprotocol {
			s = ""
		}
		w.Subprotocols = append(w.Subprotocols, s)
	}
	return w
}

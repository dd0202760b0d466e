package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/configs"
	"imlb/proxy"
)

// certificates are what a front shows to its clients. They are read again when
// their files change. It is safe for concurrent use, and a prometheus.Collector.
type certificates struct {
	log  *slog.Logger
	now  func() time.Time
	read func(configs.Certificate) (*tls.Certificate, error)
	stat func(configs.Certificate) pairStamp

	mu    sync.Mutex
	pairs []certPair // in the document's order; a new slice for each change
}

// certPair is a certificate and what is known of its files.
type certPair struct {
	files    configs.Certificate
	cert     *tls.Certificate // the last that could be used
	used     pairStamp        // of the files that were last read, good or bad
	seen     pairStamp        // of the files at the last look
	failures int              // times that changed files could not be used
}

// pairStamp tells two states of a pair's files apart.
type pairStamp struct {
	certChanged, keyChanged time.Time
	certSize, keySize       int64
}

// loadCertificates reads the files that a document names, as read does.
func loadCertificates(t configs.TLS, read func(configs.Certificate) (*tls.Certificate, error), log *slog.Logger) (*certificates, error) {
	c := &certificates{log: log, now: time.Now, read: read, stat: statPair}
	return c, c.replace(t)
}

// replace goes over to the files of another document, and reads those that were
// not there before. When one of them cannot be used the error tells all that is
// wrong, and nothing changes.
func (c *certificates) replace(t configs.TLS) error {
	before := c.current()
	pairs := make([]certPair, 0, len(t.Certificates))
	var errs []error
	for _, files := range t.Certificates {
		p, err := c.pair(before, files)
		if err != nil {
			errs = append(errs, fmt.Errorf("certificate %s: %w", files.CertFile, err))
		}
		pairs = append(pairs, p)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pairs = pairs
	return nil
}

// pair returns the pair of files, which is read unless it is there already.
func (c *certificates) pair(before []certPair, files configs.Certificate) (certPair, error) {
	for _, p := range before {
		if p.files == files {
			return p, nil
		}
	}
	stamp := c.stat(files) // before reading: what changes meanwhile is read again
	cert, err := c.read(files)
	return certPair{files: files, cert: cert, used: stamp, seen: stamp}, err
}

// get is a tls.Config's GetCertificate: the first certificate for the name that the
// client asks for, else the first of a kind that the client knows, else the first.
func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	pairs := c.current()
	if len(pairs) == 0 {
		return nil, fmt.Errorf("no certificate for %q", hello.ServerName)
	}
	nameless := *hello
	nameless.ServerName = ""
	for _, h := range []*tls.ClientHelloInfo{hello, &nameless} {
		for _, p := range pairs {
			if h.SupportsCertificate(p.cert) == nil {
				return p.cert, nil
			}
		}
	}
	return pairs[0].cert, nil
}

// run looks at the files once in every interval until ctx ends.
func (c *certificates) run(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			c.look(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// look reads again the pairs whose files have changed. A change counts when two
// looks have seen the same, because a certificate and its key are not written at
// the same time.
func (c *certificates) look(ctx context.Context) {
	for _, p := range c.current() {
		stamp := c.stat(p.files)
		switch {
		case stamp != p.seen:
			p.seen = stamp
		case stamp != p.used:
			p = c.readAgain(ctx, p, stamp)
		default:
			continue
		}
		c.update(p)
	}
}

// readAgain returns the pair as its changed files are. When they cannot be used the
// certificate stays, and the log says so once.
func (c *certificates) readAgain(ctx context.Context, p certPair, stamp pairStamp) certPair {
	p.used = stamp
	cert, err := c.read(p.files)
	file := slog.String("file", p.files.CertFile)
	if err != nil {
		p.failures++
		c.log.ErrorContext(ctx, "changed certificate files cannot be used; the certificate before stays until both are good and match",
			file, slog.String("key_file", p.files.KeyFile), slog.Time("expires", expiry(p.cert)), slog.Any("error", err))
		return p
	}
	p.cert = cert
	c.log.InfoContext(ctx, "certificate read again", file, slog.Time("expires", expiry(cert)))
	return p
}

// update puts a pair in the place of its older self, if that is still there.
func (c *certificates) update(p certPair) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pairs := append([]certPair(nil), c.pairs...)
	for i := range pairs {
		if pairs[i].files == p.files {
			pairs[i] = p
		}
	}
	c.pairs = pairs
}

// current returns the pairs, which must not be changed.
func (c *certificates) current() []certPair {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pairs
}

// certificateFamilies are what a front tells of its certificates.
//
//nolint:gochecknoglobals // descriptions, never changed
var certificateFamilies = struct{ expiry, failures *prometheus.Desc }{
	prometheus.NewDesc("imlb_proxy_certificate_expiry_seconds",
		"Seconds until the certificate, or the first of its chain to do so, expires; negative when it has.", []string{"file"}, nil),
	prometheus.NewDesc("imlb_proxy_certificate_reload_failures_total",
		"Changes of a certificate's files that could not be used.", []string{"file"}, nil),
}

// Describe sends the descriptions of the metrics.
func (c *certificates) Describe(ch chan<- *prometheus.Desc) {
	ch <- certificateFamilies.expiry
	ch <- certificateFamilies.failures
}

// Collect sends the metrics.
func (c *certificates) Collect(ch chan<- prometheus.Metric) {
	now := c.now()
	told := make(map[string]bool) // a chain may be named with two keys
	for _, p := range c.current() {
		file := p.files.CertFile
		if told[file] {
			continue
		}
		told[file] = true
		ch <- prometheus.MustNewConstMetric(certificateFamilies.expiry, prometheus.GaugeValue, expiry(p.cert).Sub(now).Seconds(), file)
		ch <- prometheus.MustNewConstMetric(certificateFamilies.failures, prometheus.CounterValue, float64(p.failures), file)
	}
}

// nodeCertificates tell of what a front shows to the nodes of its pools that ask for a certificate.
// It is a prometheus.Collector.
type nodeCertificates struct {
	now   func() time.Time
	pools func() map[string]proxy.Pool // by name
}

//nolint:gochecknoglobals // a description, never changed
var nodeCertificateExpiry = prometheus.NewDesc("imlb_pool_certificate_expiry_seconds",
	"Seconds until the certificate that nodes are shown, or the first of its chain to do so, expires; negative when it has.", []string{"pool"}, nil)

// Describe sends the description of the metric.
func (nodeCertificates) Describe(ch chan<- *prometheus.Desc) { ch <- nodeCertificateExpiry }

// Collect sends the metric.
func (c nodeCertificates) Collect(ch chan<- prometheus.Metric) {
	now := c.now()
	for name, p := range c.pools() {
		if p.TLS != nil && len(p.TLS.Certificates) > 0 {
			left := expiry(&p.TLS.Certificates[0]).Sub(now)
			ch <- prometheus.MustNewConstMetric(nodeCertificateExpiry, prometheus.GaugeValue, left.Seconds(), name)
		}
	}
}

// expiry returns when the first certificate of a chain expires.
func expiry(chain *tls.Certificate) time.Time {
	first := chain.Leaf.NotAfter
	for _, der := range chain.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil && c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}

func readPair(files configs.Certificate) (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		return nil, err
	}
	if cert.Leaf == nil { // as GODEBUG may have it
		cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0])
	}
	return &cert, err
}

func statPair(files configs.Certificate) pairStamp {
	var s pairStamp
	s.certChanged, s.certSize = statFile(files.CertFile)
	s.keyChanged, s.keySize = statFile(files.KeyFile)
	return s
}

// statFile returns nothing for a file that is not there.
func statFile(name string) (changed time.Time, size int64) {
	info, err := os.Stat(name)
	if err != nil {
		return time.Time{}, 0
	}
	return info.ModTime(), info.Size()
}

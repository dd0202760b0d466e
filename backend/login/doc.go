// Package login asks others who may log in: an LDAP directory or an HTTP service about
// passwords, and the keys of an issuer about tokens.
//
// Each asker has a limit to what it has under way and to how long an answer may take. What
// cannot be found out is an error, never a no: a node then tells its client to try
// again later. Passwords and tokens are neither kept nor logged.
//
// Every method is safe for concurrent use.
package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"time"
)

// places lets a number of callers do something at a time.
type places chan struct{}

func (p places) take(ctx context.Context) error {
	select {
	case p <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for one of %d places: %w", cap(p), ctx.Err())
	}
}

func (p places) giveBack() { <-p }

// authorities reads who is trusted to sign certificates; nil, the system's, without a file.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file) //nolint:gosec // The operator names the file.
	if err != nil {
		return nil, fmt.Errorf("read certificate authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read certificate authorities: %s holds no certificate", file)
	}
	return pool, nil
}

// newClient returns a client that follows no redirection: what is sent is for one
// service only.
func newClient(caFile string, conns int, timeout time.Duration) (*http.Client, error) {
	pool, err := authorities(caFile)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:   true,
			MaxConnsPerHost:     conns,
			MaxIdleConnsPerHost: conns,
			IdleConnTimeout:     time.Minute,
			TLSHandshakeTimeout: timeout,
		},
	}, nil
}

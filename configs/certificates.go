package configs

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Certificates are what a front shows to its clients, read from files again when
// those change. It is safe for concurrent use.
type Certificates struct {
	mu     sync.Mutex
	files  []Certificate
	states []fileState // of the files when they were last looked at
	loaded []tls.Certificate
}

// LoadCertificates reads the files that a document names.
func LoadCertificates(t TLS) (*Certificates, error) {
	c := new(Certificates)
	return c, c.Replace(t)
}

// Replace goes over to the files of another document. When one of them cannot be
// used the error says so, and the certificates stay what they were.
func (c *Certificates) Replace(t TLS) error {
	states := statesOf(t.Certificates)
	loaded, err := loadAll(t.Certificates)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files, c.states, c.loaded = t.Certificates, states, loaded
	return nil
}

func loadAll(files []Certificate) ([]tls.Certificate, error) {
	loaded := make([]tls.Certificate, len(files))
	for i, f := range files {
		var err error
		if loaded[i], err = tls.LoadX509KeyPair(f.CertFile, f.KeyFile); err != nil {
			return nil, fmt.Errorf("certificate %s: %w", f.CertFile, err)
		}
	}
	return loaded, nil
}

func statesOf(files []Certificate) []fileState {
	states := make([]fileState, 0, 2*len(files))
	for _, f := range files {
		states = append(states, stateOf(f.CertFile), stateOf(f.KeyFile))
	}
	return states
}

// Get is a tls.Config's GetCertificate: the first certificate that suits the
// client, else the first one.
func (c *Certificates) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	loaded := c.loaded
	c.mu.Unlock()
	for i := range loaded {
		if hello.SupportsCertificate(&loaded[i]) == nil {
			return &loaded[i], nil
		}
	}
	if len(loaded) == 0 {
		return nil, fmt.Errorf("no certificate for %q", hello.ServerName)
	}
	return &loaded[0], nil
}

// Watch looks at the files once in every interval until ctx ends, and reads them
// again when one has changed. Files that cannot be used, as while a key and its
// certificate are being written, leave the certificates what they were.
func (c *Certificates) Watch(ctx context.Context, interval time.Duration, log *slog.Logger) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			c.look(ctx, log)
		case <-ctx.Done():
			return
		}
	}
}

func (c *Certificates) look(ctx context.Context, log *slog.Logger) {
	c.mu.Lock()
	files, before := c.files, c.states
	c.mu.Unlock()
	now := statesOf(files)
	if slices.Equal(now, before) {
		return
	}
	loaded, err := loadAll(files)
	c.mu.Lock()
	if slices.Equal(c.files, files) { // else they have been replaced meanwhile
		c.states = now
		if err == nil {
			c.loaded = loaded
		}
	}
	c.mu.Unlock()
	if err != nil {
		log.ErrorContext(ctx, "changed certificate files cannot be used; the old certificates stay", slog.Any("error", err))
		return
	}
	log.InfoContext(ctx, "certificates read again")
}

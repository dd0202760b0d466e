//go:build linux

package servers_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"imlb/backend/chatload"
	"imlb/test/bench/chat/servers"
	"imlb/test/bench/rounds"
	"imlb/test/need"
)

const users = 6

// TestServers starts each server and puts each load on it, shortly: the comparison
// compares servers that work, with the archive on.
func TestServers(t *testing.T) {
	t.Parallel()
	t.Run("IMLB", func(t *testing.T) {
		t.Parallel()
		program := filepath.Join(t.TempDir(), "imlb")
		if err := rounds.Build(t.Context(), program); err != nil {
			t.Fatal(err)
		}
		all := servers.IMLB(program)
		if servers.PostgresMissing() {
			t.Log("MISSING postgresql")
			all = all[:1]
		}
		try(t, all)
	})
	for name, find := range map[string]func(context.Context) ([]servers.Server, []string, error){"ejabberd": servers.Ejabberds, "prosody": servers.Prosodies} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, _, err := find(t.Context())
			if errors.Is(err, servers.ErrMissing) {
				need.Missing(t, name)
			}
			if err != nil {
				t.Fatal(err)
			}
			try(t, all)
		})
	}
}

// try puts all loads on servers.
func try(t *testing.T, all []servers.Server) {
	t.Helper()
	certs, err := servers.MakeCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) {
			if s.Settings == "" || s.Family == "" {
				t.Errorf("%+v", s)
			}
			r, err := s.Start(t.Context(), servers.Task{Dir: t.TempDir(), Users: users, Certs: certs})
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range loads() {
				o.Servers, o.Domain, o.PIDs = []string{r.Addr}, r.Domain(o.Mechanism), r.PIDs
				o.TLSConfig = trusting(t, certs.Cert)
				result, err := chatload.Run(t.Context(), o)
				if err != nil {
					t.Errorf("%s %s: %v", o.Workload, o.Mechanism, err)
					continue
				}
				costs := result.CPU != nil && result.CPU.Server > 0 || result.Memory != nil && result.Memory.Before > 0 // who is idle may cost nothing
				if !result.OK() || !costs || o.Workload == chatload.Messages && !result.Managed {
					t.Errorf("%s %s: %+v, messages %+v", o.Workload, o.Mechanism, result, result.Messages)
				}
			}
			if err := r.Stop(); err != nil {
				t.Error(err)
			}
			for _, pid := range r.PIDs {
				if syscall.Kill(pid, 0) == nil {
					t.Errorf("process %d of %s still lives", pid, s.Name)
				}
			}
		})
	}
}

func trusting(t *testing.T, file string) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate")
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// loads are all that the comparison has, but short.
func loads() (all []chatload.Options) {
	base := chatload.Default()
	base.Warmup, base.Duration, base.Settle, base.Connecting = 50*time.Millisecond, 300*time.Millisecond, 50*time.Millisecond, 2
	for i := range users {
		base.Accounts = append(base.Accounts, chatload.Account{Name: fmt.Sprintf(servers.UserFormat, i+1), Password: servers.Password})
	}
	with := func(change func(*chatload.Options)) {
		o := base
		change(&o)
		all = append(all, o)
	}
	with(func(o *chatload.Options) { o.Workload = chatload.Idle })
	with(func(o *chatload.Options) { o.Rate = 50 })
	with(func(o *chatload.Options) { o.Window = 2 })
	for _, mechanism := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN"} {
		with(func(o *chatload.Options) { o.Workload, o.Mechanism = chatload.Logins, mechanism })
	}
	with(func(o *chatload.Options) { o.Workload, o.Preload, o.Queries = chatload.Archive, 60, 5 })
	return all
}

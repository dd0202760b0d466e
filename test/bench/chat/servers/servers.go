//go:build linux

// Package servers starts the chat servers that are compared, each in a directory of its
// own on loopback, with accounts made, the archive and stream management on, and a
// certificate.
package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"imlb/test/bench/peers"
)

// Families of servers.
const (
	Ours     = "imlb"
	Ejabberd = "ejabberd"
	Prosody  = "prosody"
)

// The users of every server, and the password of them all.
const (
	Domain   = "localhost"
	Password = "secret"
)

// UserFormat is what users are called, numbered from 1 on.
const UserFormat = "u%d"

func userName(i int) string { return fmt.Sprintf(UserFormat, i) }

// sha256Domain is where those have the users with keys for SCRAM-SHA-256 who keep keys
// for one mechanism only.
const sha256Domain = "sha256.localhost"

// Server is one of those that are compared.
type Server struct {
	Name     string
	Family   string
	Version  string
	Settings string // with what it promises about messages
	// Start starts it anew, or goes on with what it has left in its directory.
	Start func(ctx context.Context, task Task) (*Running, error)
	// Fill replaces what is in all archives while the server is stopped. It has to have
	// stored messages from others to the first user. The newest of what this user then has
	// is returned by the messages' ids, in order. Nil: there is no way.
	Fill func(ctx context.Context, task Task, f Fill) (newest []string, err error)
}

// Task is what a server is started for.
type Task struct {
	Dir   string // its own, for its files
	Users int
	Certs peers.Certs
}

// Running is a server that serves.
type Running struct {
	Addr string // STARTTLS
	PIDs []int  // all its processes, but for those that these have started
	// Domains of the users by mechanism, where it is not that of all.
	Domains map[string]string

	stops []func() error // the last is called first
}

// Domain returns where users log in by a mechanism.
func (r *Running) Domain(mechanism string) string {
	if d, ok := r.Domains[mechanism]; ok {
		return d
	}
	return Domain
}

// Stop ends it. The error tells that it had ended before, and what it said.
func (r *Running) Stop() error {
	var errs []error
	for i := len(r.stops) - 1; i >= 0; i-- {
		errs = append(errs, r.stops[i]())
	}
	r.stops = nil
	return errors.Join(errs...)
}

// add notes a process that belongs to the server.
func (r *Running) add(p *peers.Process) {
	r.PIDs = append(r.PIDs, p.PID())
	r.stops = append(r.stops, p.Stop)
}

// ErrMissing says that a program is not installed.
var ErrMissing = peers.ErrMissing

// startTime is until a server has to serve.
const startTime = 90 * time.Second

// word is a writer that waits for a word.
type word struct {
	text string
	mu   sync.Mutex
	said []byte
}

func (w *word) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.said) < 64<<10 {
		w.said = append(w.said, p...)
	}
	return len(p), nil
}

func (w *word) Close() error { return nil }

// came tells whether the word came.
func (w *word) came(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !bytes.Contains(w.said, []byte(w.text)) {
		return fmt.Errorf("no %q in what it says: %s", w.text, w.said)
	}
	return nil
}

// freeAddrs returns loopback addresses that nobody listens on, outside of the range from
// which the system takes ports for connections.
func freeAddrs(ctx context.Context, n int) (addrs []string, err error) {
	var lc net.ListenConfig
	for range 100 * n {
		l, failed := lc.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(12000)))) //nolint:gosec // no secret
		if err = failed; err != nil {
			continue
		}
		defer l.Close() // not before all are found, so that they differ
		if addrs = append(addrs, l.Addr().String()); len(addrs) == n {
			return addrs, nil
		}
	}
	return nil, fmt.Errorf("no free port: %w", err)
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// write writes a file of a task and returns its name.
func (t Task) write(name, text string) (string, error) {
	file := filepath.Join(t.Dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", err
	}
	return file, os.WriteFile(file, []byte(text), 0o600)
}

// MakeCerts makes a certificate for all domains of the servers that signs itself.
func MakeCerts(dir string) (peers.Certs, error) { return peers.MakeCerts(dir, sha256Domain) }

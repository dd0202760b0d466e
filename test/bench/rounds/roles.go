//go:build linux

package rounds

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"imlb/test/bench/load"
	"imlb/test/bench/peers"
)

// The roles in which this program starts itself: its first argument.
const (
	RoleClient  = "client"  // SPEC, in JSON
	RoleBackend = "backend" // CERT KEY
	RoleCopy    = "copy"    // LISTEN BACKEND [CERT KEY]
)

// Play plays a role of these arguments. ok is false when they are none.
func Play(ctx context.Context, args []string, out, log io.Writer) (ok bool, err error) {
	switch {
	case len(args) == 2 && args[0] == RoleClient:
		return true, playClient(ctx, args[1], out)
	case len(args) == 3 && args[0] == RoleBackend:
		return true, load.RunBackend(ctx, args[1], args[2], log, func(a load.Addresses) error {
			return json.NewEncoder(out).Encode(a)
		})
	case len(args) >= 3 && args[0] == RoleCopy:
		return true, peers.Copy(ctx, out, args[1], args[2], args[3:]...)
	}
	return false, nil
}

func playClient(ctx context.Context, text string, out io.Writer) error {
	var spec load.Spec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	result, err := load.RunClient(ctx, spec)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

// runClient makes a measurement in a process of its own.
func runClient(ctx context.Context, self string, spec load.Spec) (result load.Result, err error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return result, err
	}
	var out output
	p, err := peers.Launch(ctx, "client", &out, quiet(), self, RoleClient, string(text))
	if err != nil {
		return result, err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return result, errors.Join(fmt.Errorf("client: %w", context.Cause(ctx)), p.Stop())
	}
	if err := p.Err(); err != nil {
		return result, err
	}
	err = json.Unmarshal(out.bytes(), &result)
	return result, err
}

// quiet keeps quic-go from saying on standard error how large it would like the
// system's buffers to be.
func quiet() []string { return []string{"QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING=true"} }

// backend is a backend in a process of its own.
type backend struct {
	addrs   load.Addresses
	process *peers.Process
}

func startBackend(ctx context.Context, self string, certs peers.Certs) (*backend, error) {
	out := output{line: make(chan struct{})}
	p, err := peers.Launch(ctx, "backend", &out, quiet(), self, RoleBackend, certs.Cert, certs.Key)
	if err != nil {
		return nil, err
	}
	b := &backend{process: p}
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case <-out.line:
		err = json.Unmarshal(out.bytes(), &b.addrs)
	case <-p.Done():
		err = errors.New("the backend ended")
	case <-timer.C:
		err = errors.New("the backend does not start")
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return b, nil
}

// stop ends the backend. What it said of the bytes that came is an error.
func (b *backend) stop() error {
	if err := b.process.Stop(); err != nil {
		return err
	}
	if said := b.process.Said(); strings.Contains(said, "backend: ") {
		return errors.New(said)
	}
	return nil
}

// output keeps what a process says, and tells when that is a line.
type output struct {
	line chan struct{} // closed then; may be nil

	mu   sync.Mutex
	text []byte
	told bool
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if !o.told && o.line != nil && bytes.ContainsRune(o.text, '\n') {
		o.told = true
		close(o.line)
	}
	return len(p), nil
}

func (o *output) Close() error { return nil }

func (o *output) bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.text)
}

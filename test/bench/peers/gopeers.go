//go:build linux

package peers

import (
	"context"
	"net/netip"
	"runtime"
)

// IMLB returns the variants of our own program, in its quick mode. Their versions
// are for the caller to fill in, who may have it built later.
func IMLB(path string) []Peer {
	return []Peer{
		{
			Name: "imlb", Family: Ours, Settings: "quick mode, defaults",
			Protocols: []Protocol{TCP, TLS, XMPPS, QUIC, WS}, Start: quick{path: path}.start,
		},
		{
			// As comparable as can be with others' one thread.
			Name: "imlb-1", Family: Ours, Settings: "quick mode, GOMAXPROCS=1",
			Protocols: []Protocol{TCP, TLS, WS}, Only: threaded(), Start: quick{path: path, env: []string{"GOMAXPROCS=1"}}.start,
		},
		{
			// What the framing of stanzas costs is seen beside our own blind copying.
			Name: "imlb-tls", Family: OursBlind, Settings: "quick mode, tls:// instead of xmpps://",
			Protocols: []Protocol{XMPPS}, Start: quick{path: path, blind: true}.start,
		},
	}
}

// quick is imlb proxy without a document.
type quick struct {
	path  string
	env   []string
	blind bool // XMPP is carried as bytes
}

func (q quick) start(ctx context.Context, task Task) (*Running, error) {
	protocol := task.Protocol
	if q.blind {
		protocol = TLS
	}
	return startReady(ctx, "imlb", task, q.env, q.path, func(addr netip.AddrPort) []string {
		args := []string{"proxy", "--listen", string(protocol) + "://" + addr.String(), "--to", task.Backend.String()}
		if protocol.secure() {
			args = append(args, "--cert", task.Certs.Cert, "--key-file", task.Certs.Key)
		}
		return args
	})
}

// startReady starts a program that prints a line "ready" when it serves.
func startReady(ctx context.Context, name string, task Task, env []string, path string, args func(netip.AddrPort) []string) (*Running, error) {
	addr, err := freePort(ctx, task.Protocol)
	if err != nil {
		return nil, err
	}
	line := awaitLine("ready")
	p, err := Launch(ctx, name, line, env, path, args(addr)...)
	if err != nil {
		return nil, err
	}
	if err := p.Await(ctx, startTime, line.came); err != nil {
		_ = p.Stop()
		return nil, err
	}
	return &Running{Addr: addr, PIDs: []int{p.PID()}, process: p}, nil
}

// Copying returns the simplest proxy in Go, which is this very program under
// another name: self has to call [Copy] for it.
func Copying(self string) Peer {
	return Peer{
		Name: "go-copy", Family: Go, Version: runtime.Version(), Settings: "two goroutines a session, io.Copy",
		Protocols: []Protocol{TCP, TLS, XMPPS},
		// For TCP io.Copy splices, through a pipe for each direction that it holds
		// while it waits.
		Descriptors: 6,
		Start: func(ctx context.Context, task Task) (*Running, error) {
			return startReady(ctx, "go-copy", task, nil, self, func(addr netip.AddrPort) []string {
				args := []string{"copy", addr.String(), task.Backend.String()}
				if task.Protocol.secure() {
					args = append(args, task.Certs.Cert, task.Certs.Key)
				}
				return args
			})
		},
	}
}

//go:build linux

package peers

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// splicing are the workloads for which HAProxy is also measured with splice.
func splicing() []string { return []string{"bulk-down", "bulk-up"} }

// threaded are the workloads for which programs are also measured with two threads
// or processes.
func threaded() []string {
	return []string{"round-trips", "paced", "connect", "bulk-down", "bulk-up", "tls-round-trips", "tls-handshakes", "tls-bulk", "ws-round-trips"}
}

// HAProxies returns the variants of one haproxy program; suffix tells them from
// another one's. ErrMissing says that there is none.
func HAProxies(ctx context.Context, path, suffix string) ([]Peer, error) {
	path, err := exec.LookPath(path)
	if err != nil {
		return nil, ErrMissing
	}
	version, err := haproxyVersion(ctx, path)
	if err != nil {
		return nil, err
	}
	peer := func(name string, threads int, splice bool, only []string) Peer {
		h := haproxy{path: path, threads: threads, splice: splice}
		settings := fmt.Sprintf("mode tcp (ws: http), nbthread %d", threads)
		if splice {
			settings = fmt.Sprintf("mode tcp, nbthread %d, option splice-auto", threads)
		}
		return Peer{
			Name: "haproxy" + suffix + name, Family: HAProxy, Version: version, Settings: settings,
			Protocols: []Protocol{TCP, TLS, XMPPS, WS}, Tunnels: []Protocol{WS}, Only: only, Start: h.start,
		}
	}
	return []Peer{
		peer("", 1, false, nil),
		peer("-2", 2, false, threaded()),
		peer("-splice", 1, true, splicing()),
		peer("-2-splice", 2, true, splicing()),
	}, nil
}

func haproxyVersion(ctx context.Context, path string) (string, error) {
	out, err := exec.CommandContext(ctx, path, "-v").Output() //nolint:gosec // a program that is to be compared
	if err != nil {
		return "", fmt.Errorf("%s -v: %w", path, err)
	}
	fields := strings.Fields(string(out))
	if len(fields) < 3 {
		return "", fmt.Errorf("%s -v says %q", path, out)
	}
	return fields[2], nil
}

type haproxy struct {
	path    string
	threads int
	splice  bool
}

func (h haproxy) start(ctx context.Context, task Task) (*Running, error) {
	addr, err := freePort(ctx, task.Protocol)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(task.Dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(h.config(addr, task)), 0o600); err != nil {
		return nil, err
	}
	p, err := Launch(ctx, "haproxy", nil, nil, h.path, "-db", "-f", file)
	if err != nil {
		return nil, err
	}
	r := &Running{Addr: addr, PIDs: []int{p.PID()}, process: p}
	if err := p.Await(ctx, startTime, Accepts(addr.String())); err != nil {
		_ = p.Stop()
		return nil, err
	}
	return r, nil
}

// config is HAProxy as it is meant to be used for this: no logs, no statistics, no
// checks, and otherwise its defaults.
func (h haproxy) config(addr netip.AddrPort, task Task) string {
	mode, bind, splice := "mode tcp", "", ""
	if task.Protocol == WS {
		mode = "mode http\n    timeout tunnel 10m"
	}
	if task.Protocol.secure() {
		bind = fmt.Sprintf(" ssl crt %s ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256 curves X25519", task.Certs.Both)
	}
	if h.splice {
		splice = "    option splice-auto\n"
	}
	return fmt.Sprintf(`global
    nbthread %d
    maxconn %d
defaults
    %s
%s    timeout connect 5s
    timeout client 10m
    timeout server 10m
frontend front
    bind %s%s
    maxconn %d
    default_backend node
backend node
    server node %s
`, h.threads, task.Sessions+400, mode, splice, addr, bind, task.Sessions+400, task.Backend)
}

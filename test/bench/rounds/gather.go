//go:build linux

package rounds

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"imlb/test/bench/peers"
	"imlb/test/bench/report"
	"imlb/test/need"
)

// gather finds the peers, builds our own program if it is to be, and heads the
// report.
func (r *runner) gather(ctx context.Context) error {
	own := r.IMLB
	if own == "" {
		own = filepath.Join(r.dir, "imlb")
	}
	others, missing, err := r.others(ctx)
	if err != nil {
		return err
	}
	if r.peers, err = choosePeers(slices.Concat(peers.IMLB(own), others), r.Peers); err != nil {
		return err
	}
	if err := r.readyOwn(ctx, own); err != nil {
		return err
	}
	r.report = &report.Report{Command: r.Command, Missing: missing, Apart: []string{peers.Nobody, peers.OursBlind}}
	for _, p := range r.peers {
		r.report.Peers = append(r.report.Peers, report.Peer{Name: p.Name, Family: p.Family, Version: p.Version, Settings: p.Settings})
	}
	for _, p := range r.plans {
		r.report.Workloads = append(r.report.Workloads, p.Workload)
	}
	return nil
}

// others returns the peers that are installed, and the names of those that are not.
func (r *runner) others(ctx context.Context) (found []peers.Peer, missing []string, err error) {
	programs := []struct {
		name string
		find func() ([]peers.Peer, error)
	}{
		{"haproxy", func() ([]peers.Peer, error) { return peers.HAProxies(ctx, "haproxy", "") }},
		{"a newer haproxy (IMLB_BENCH_HAPROXY)", func() ([]peers.Peer, error) { return peers.HAProxies(ctx, r.NewerHAProxy, "-new") }},
		{"nginx with its stream module", func() ([]peers.Peer, error) { return peers.Nginxes(ctx) }},
	}
	for _, program := range programs {
		variants, err := program.find()
		switch {
		case errors.Is(err, peers.ErrMissing):
			missing = append(missing, program.name)
		case err != nil:
			return nil, nil, err
		}
		found = append(found, variants...)
	}
	return append(found, peers.Copying(r.Self), peers.Direct()), missing, nil
}

// readyOwn builds our own program if it takes part and is to be built, and asks it
// for its version.
func (r *runner) readyOwn(ctx context.Context, path string) error {
	ours := func(p peers.Peer) bool { return p.Family == peers.Ours || p.Family == peers.OursBlind }
	if !slices.ContainsFunc(r.peers, ours) {
		return nil
	}
	if r.IMLB == "" {
		if err := Build(ctx, path); err != nil {
			return err
		}
	}
	out, err := exec.CommandContext(ctx, path, "version").Output() //nolint:gosec // our own
	if err != nil {
		return fmt.Errorf("%s version: %w", path, err)
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "imlb "), ",")
	for i := range r.peers {
		if ours(r.peers[i]) {
			r.peers[i].Version = version
		}
	}
	return nil
}

// Build builds our own program.
func Build(ctx context.Context, path string) error {
	root, err := need.Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "./cmd/imlb") //nolint:gosec // our own
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build imlb: %w\n%s", err, out)
	}
	return nil
}

//go:build linux

package servers

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/xdg-go/scram"

	"imlb/test/bench/peers"
)

// Prosodies returns the variants of Debian's prosody: with the archive where it is by
// default, and where Prosody advises to have it. The second needs a library.
func Prosodies(ctx context.Context) (found []Server, missing []string, err error) {
	if _, err := exec.LookPath("prosody"); err != nil {
		return nil, nil, ErrMissing
	}
	version := debianVersion(ctx, "prosody")
	found = []Server{{
		Name: "prosody", Family: Prosody, Version: version,
		Settings: "mod_mam in files (its default) without a limit, not synced to disk",
		Start:    prosody{}.start,
	}}
	if installed("/usr/lib/*/lua/5.4/dbd/sqlite3.so") {
		found = append(found, Server{
			Name: "prosody-sqlite", Family: Prosody, Version: version,
			Settings: "mod_mam in SQLite (as it advises), SQLite's defaults: each entry synced to disk",
			Start:    prosody{sqlite: true}.start,
			Fill:     prosodyLayout().fill,
		})
	} else {
		missing = append(missing, "lua-dbi-sqlite3")
	}
	return found, missing, nil
}

type prosody struct{ sqlite bool }

// start runs it. Accounts are written as registering would write them.
func (p prosody) start(ctx context.Context, task Task) (*Running, error) {
	addrs, err := freeAddrs(ctx, 1)
	if err != nil {
		return nil, err
	}
	config, err := task.write("prosody.cfg.lua", p.config(task, addrs[0]))
	if err != nil {
		return nil, err
	}
	if err := prosodyAccounts(task); err != nil {
		return nil, err
	}
	process, err := peers.Launch(ctx, "prosody", nil, nil, "prosody", "-F", "--config", config)
	if err != nil {
		return nil, err
	}
	r := &Running{Addr: addrs[0], Domains: map[string]string{"SCRAM-SHA-256": sha256Domain}}
	r.add(process)
	if err := process.Await(ctx, startTime, peers.Accepts(addrs[0])); err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return r, nil
}

func (p prosody) config(task Task, addr string) string {
	storage := ""
	if p.sqlite {
		storage = fmt.Sprintf("storage = { archive = \"sql\" }\nsql = { driver = \"SQLite3\", database = %q }\n", filepath.Join(task.Dir, prosodyDatabase))
	}
	return fmt.Sprintf(`
run_as_root = true
pidfile = %[1]q
data_path = %[2]q
interfaces = { "127.0.0.1" }
c2s_ports = { %[3]s }
c2s_direct_tls_ports = {}
http_ports = {}
https_ports = {}
network_backend = "epoll"
ssl = { certificate = %[4]q, key = %[5]q }
c2s_require_encryption = true
modules_enabled = { "disco", "mam", "offline", "ping", "roster", "saslauth", "smacks", "tls" }
modules_disabled = { "s2s" }
default_archive_policy = true
storage_archive_item_limit = 1000000000
limits = {}
%[6]sauthentication = "internal_hashed"
log = { warn = "*console" }
VirtualHost %[7]q
VirtualHost %[8]q
  password_hash = "SHA-256"
`, filepath.Join(task.Dir, "prosody.pid"), task.Dir, port(addr), task.Certs.Cert, task.Certs.Key, storage, Domain, sha256Domain)
}

// prosodyIterations is its default.
const prosodyIterations = 10000

// prosodyAccounts writes the users' files; all have the same keys.
func prosodyAccounts(task Task) error {
	for _, host := range []struct {
		directory string // as Prosody escapes the name
		client    scram.HashGeneratorFcn
	}{{"localhost", scram.SHA1}, {"sha256%2elocalhost", scram.SHA256}} {
		c, err := host.client.NewClient("any", Password, "")
		if err != nil {
			return err
		}
		keys, err := c.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "a salt for all", Iters: prosodyIterations})
		if err != nil {
			return err
		}
		text := fmt.Sprintf("return {\n\t[\"salt\"] = %q;\n\t[\"iteration_count\"] = %d;\n\t[\"stored_key\"] = %q;\n\t[\"server_key\"] = %q;\n};\n",
			keys.Salt, keys.Iters, hex.EncodeToString(keys.StoredKey), hex.EncodeToString(keys.ServerKey))
		for i := range task.Users {
			if _, err := task.write(filepath.Join(host.directory, "accounts", userName(i+1)+".dat"), text); err != nil {
				return err
			}
		}
	}
	return nil
}

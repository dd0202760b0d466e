//go:build linux

package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"imlb/test/bench/peers"
)

// Ejabberds returns the variants of Debian's ejabberd: with the archive where it is by
// default, and where ejabberd advises to have it. The second needs a library.
func Ejabberds(ctx context.Context) (found []Server, missing []string, err error) {
	libs, err := ejabberdLibs()
	if err != nil {
		return nil, nil, err
	}
	version := debianVersion(ctx, "ejabberd")
	found = []Server{{
		Name: "ejabberd", Family: Ejabberd, Version: version,
		Settings: "mod_mam in Mnesia (its default), not synced to disk; backlog 128",
		Start:    ejabberd{libs: libs}.start,
	}}
	if installed("/usr/lib/erlang/lib/p1_sqlite3-*") {
		found = append(found, Server{
			Name: "ejabberd-sqlite", Family: Ejabberd, Version: version,
			Settings: "mod_mam in SQLite (as it advises), SQLite's defaults: each entry synced to disk; backlog 128",
			Start:    ejabberd{libs: libs, sqlite: true}.start,
			Fill:     ejabberdLayout().fill,
		})
	} else {
		missing = append(missing, "erlang-p1-sqlite3")
	}
	return found, missing, nil
}

// ejabberdLibs returns where its modules are, which ejabberdctl knows: the place differs
// from one architecture to the other.
func ejabberdLibs() (string, error) {
	ctl, err := exec.LookPath("ejabberdctl")
	if err != nil {
		return "", ErrMissing
	}
	script, err := os.ReadFile(ctl) //nolint:gosec // ejabberd's
	if err != nil {
		return "", err
	}
	_, libs, _ := strings.Cut(string(script), "\nERL_LIBS='")
	libs, _, ok := strings.Cut(libs, "'")
	if !ok {
		return "", errors.New("ejabberdctl does not say where its modules are")
	}
	return libs, nil
}

type ejabberd struct {
	libs   string
	sqlite bool
}

// start runs it without the distribution of Erlang, so that there is no epmd and no cookie.
// Users have their keys written as registering would write them, but derived once for all.
func (e ejabberd) start(ctx context.Context, task Task) (*Running, error) {
	addrs, err := freeAddrs(ctx, 1)
	if err != nil {
		return nil, err
	}
	config, err := task.write("ejabberd.yml", e.config(task, addrs[0]))
	if err != nil {
		return nil, err
	}
	users := fmt.Sprintf(`[begin K = ejabberd_auth:password_to_scram(S, <<%q>>), [ok = mnesia:dirty_write({passwd, {list_to_binary(io_lib:format(%q, [I])), S}, K}) `+
		`|| I <- lists:seq(1, %d)] end || S <- [<<%q>>, <<%q>>]], io:format("accounts are there~n").`,
		Password, strings.Replace(UserFormat, "%d", "~b", 1), task.Users, Domain, sha256Domain)
	said := &word{text: "accounts are there"}
	env := []string{
		"HOME=" + task.Dir, "ERL_LIBS=" + e.libs, "ERL_CRASH_DUMP_BYTES=0", "ERL_MAX_PORTS=65536", "EJABBERD_CONFIG_PATH=" + config,
		"EJABBERD_LOG_PATH=" + filepath.Join(task.Dir, "ejabberd.log"),
	}
	spool := fmt.Sprintf("%q", filepath.Join(task.Dir, "spool"))
	p, err := peers.Launch(ctx, "ejabberd", said, env, "erl", "+K", "true", "+P", "250000", "-noinput", "-mnesia", "dir", spool, "-s", "ejabberd", "-eval", users)
	if err != nil {
		return nil, err
	}
	r := &Running{Addr: addrs[0], Domains: map[string]string{"SCRAM-SHA-256": sha256Domain}}
	r.add(p)
	if err := p.Await(ctx, startTime, said.came); err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return r, nil
}

func (e ejabberd) config(task Task, addr string) string {
	archive, sql := "{default: always}", ""
	if e.sqlite {
		archive = "{default: always, db_type: sql}"
		sql = fmt.Sprintf("sql_type: sqlite\nsql_database: %q\n", filepath.Join(task.Dir, ejabberdDatabase))
	}
	return fmt.Sprintf(`
hosts: [%s, %s]
loglevel: warning
certfiles: [%q]
%slisten:
  - {module: ejabberd_c2s, ip: "127.0.0.1", port: %s, starttls: true, backlog: 128}
auth_method: internal
auth_password_format: scram
host_config:
  %s: {auth_scram_hash: sha256}
modules:
  mod_disco: {}
  mod_mam: %s
  mod_offline: {}
  mod_ping: {}
  mod_roster: {}
  mod_stream_mgmt: {}
`, Domain, sha256Domain, task.Certs.Both, sql, port(addr), sha256Domain, archive)
}

// installed tells whether there is a file that matches.
func installed(pattern string) bool {
	found, err := filepath.Glob(pattern)
	return err == nil && len(found) > 0
}

// debianVersion returns the version of a package.
func debianVersion(ctx context.Context, name string) string {
	out, err := exec.CommandContext(ctx, "dpkg-query", "--show", "--showformat", "${Version}", name).Output() //nolint:gosec // a package
	if err != nil {
		return "unknown"
	}
	return string(out)
}

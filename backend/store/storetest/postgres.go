package storetest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver
)

// ErrNoPostgres says that PostgreSQL's server is not installed here.
var ErrNoPostgres = errors.New("postgresql is not installed")

// Postgres is a PostgreSQL server for tests, in a directory of its own and on a
// port of 127.0.0.1. On Linux it dies with the process that started it.
type Postgres struct {
	bin      string
	dir      string
	port     int
	settings []string
	owner    *identity // whom it runs as; nil for the caller
	server   *serverRun
	last     atomic.Int64 // number of the last database
}

// serverRun is one run of the server.
type serverRun struct {
	process *os.Process
	done    chan struct{}
}

const (
	postgresUser    = "imlb"
	postgresStart   = 60 * time.Second // crash recovery and a busy machine included
	postgresPolling = 20 * time.Millisecond
)

// StartPostgres makes and starts a server with the given settings (name=value)
// besides its defaults; ErrNoPostgres. The caller has to Stop it. It does not run
// as root, which it would refuse.
func StartPostgres(ctx context.Context, settings ...string) (*Postgres, error) {
	bin, err := postgresPrograms()
	if err != nil {
		return nil, err
	}
	p := &Postgres{bin: bin, settings: settings}
	if p.owner, err = postgresOwner(); err != nil {
		return nil, fmt.Errorf("find a user for postgres: %w", err)
	}
	if err := p.create(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("create a postgres server: %w", err), os.RemoveAll(p.dir))
	}
	if err := p.Start(ctx); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// postgresPrograms returns the directory that holds the server's programs. Debian
// keeps them out of the way.
func postgresPrograms() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", ErrNoPostgres
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return postgresVersion(a) - postgresVersion(b) })
	return filepath.Dir(newest), nil
}

func postgresVersion(path string) int {
	version, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return version
}

// identity is a user of this machine.
type identity struct{ uid, gid uint32 }

// postgresOwner returns somebody who is not root, when root asks.
func postgresOwner() (*identity, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &identity{uid: uint32(uid), gid: uint32(gid)}, err
}

// create makes the directory and what is in it.
func (p *Postgres) create(ctx context.Context) (err error) {
	if p.port, err = freePort(ctx); err != nil {
		return err
	}
	if p.dir, err = os.MkdirTemp("", "imlb-postgres-"); err != nil {
		return err
	}
	if p.owner != nil {
		if err := os.Chown(p.dir, int(p.owner.uid), int(p.owner.gid)); err != nil {
			return err
		}
	}
	initdb := p.command(ctx, "initdb", "--pgdata", p.data(), "--username", postgresUser, "--auth", "trust",
		"--encoding", "UTF8", "--locale", "C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// The ports of servers lie below those that systems give to outgoing connections, and to
// who asks for any: others take these while a server is made, or after it was killed, its
// own clients among them. Nor are they those of other tests' nodes and agents.
const (
	postgresFrom = 7_000
	postgresTo   = 10_000
)

func freePort(ctx context.Context) (int, error) {
	var failed error
	for range 100 {
		port := postgresFrom + rand.IntN(postgresTo-postgresFrom) //nolint:gosec // no secret
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
		failed = err
	}
	return 0, fmt.Errorf("no free port: %w", failed)
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// command is a program of PostgreSQL's that runs as the server does.
func (p *Postgres) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, program), args...) //nolint:gosec // PostgreSQL's own
	cmd.Dir = p.dir
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH"), "HOME=" + p.dir}
	cmd.SysProcAttr = attributes(p.owner)
	return cmd
}

// Start starts the server, after Kill too, and waits until it lets somebody in.
func (p *Postgres) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, postgresStart)
	defer cancel()
	for {
		err := p.launch(ctx)
		if err == nil {
			err = p.await(ctx)
		}
		if err == nil {
			return nil
		}
		// What a killed server has left behind may take a while to end.
		p.Kill()
		if pause(ctx) != nil {
			log, _ := os.ReadFile(p.log())
			return fmt.Errorf("start postgres: %w\n%s", err, log)
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-time.After(postgresPolling):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Postgres) log() string { return filepath.Join(p.dir, "log") }

// launch starts the process, which outlives ctx.
func (p *Postgres) launch(ctx context.Context) error {
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{
		"-D", p.data(), "-p", strconv.Itoa(p.port), "-h", "127.0.0.1", "-k", "",
		"-c", "max_connections=200", "-c", "shared_buffers=64MB", "-c", "dynamic_shared_memory_type=mmap",
	}
	for _, s := range p.settings {
		args = append(args, "-c", s)
	}
	cmd := p.command(context.WithoutCancel(ctx), "postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	run := &serverRun{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The signal at this process's death comes at the death of the thread
		// that started the child.
		runtime.LockOSThread()
		defer close(run.done)
		err := cmd.Start()
		run.process = cmd.Process
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	p.server = run
	return nil
}

// await waits until the server answers. It is an error if it ends instead.
func (p *Postgres) await(ctx context.Context) error {
	db, err := sql.Open("pgx", p.url("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		select {
		case <-p.server.done:
			return errors.New("the server has ended")
		default:
		}
		if pause(ctx) != nil {
			return err
		}
	}
}

// Kill ends the server and all its processes as kill -9 does. It does nothing when
// the server does not run.
func (p *Postgres) Kill() {
	if p.server == nil {
		return
	}
	children := childrenOf(p.server.process.Pid)
	_ = p.server.process.Kill()
	for _, pid := range children {
		if child, err := os.FindProcess(pid); err == nil {
			_ = child.Kill()
		}
	}
	<-p.server.done
	p.server = nil
}

// childrenOf reads a process's children where the system tells (Linux). The
// server's end by themselves once they notice that it is dead, but that takes time.
func childrenOf(pid int) (children []int) {
	list, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for field := range bytes.FieldsSeq(list) {
		if child, err := strconv.Atoi(string(field)); err == nil {
			children = append(children, child)
		}
	}
	return children
}

// HasPostgres tells whether PostgreSQL's server is installed here.
func HasPostgres() bool {
	_, err := postgresPrograms()
	return err == nil
}

// PID returns the process that has started all others of the server; 0 when it does not
// run.
func (p *Postgres) PID() int {
	if p.server == nil {
		return 0
	}
	return p.server.process.Pid
}

// Shutdown ends the server in order, without waiting for its clients (pg_ctl's mode
// fast). It does nothing when the server does not run.
func (p *Postgres) Shutdown() error {
	if p.server == nil {
		return nil
	}
	err := p.server.process.Signal(os.Interrupt)
	if err == nil {
		<-p.server.done
		p.server = nil
	}
	return err
}

// Stop ends the server, at once, and removes it.
func (p *Postgres) Stop() error {
	p.Kill()
	return os.RemoveAll(p.dir)
}

// Addr returns where the server listens, as host:port.
func (p *Postgres) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)) }

func (p *Postgres) url(database string) string {
	return "postgres://" + postgresUser + "@" + p.Addr() + "/" + database
}

// NewDatabase makes an empty database and returns its URL.
func (p *Postgres) NewDatabase(ctx context.Context) (string, error) {
	db, err := sql.Open("pgx", p.url("postgres"))
	if err != nil {
		return "", err
	}
	defer db.Close()
	name := fmt.Sprintf("test%d", p.last.Add(1))
	if _, err := db.ExecContext(ctx, `CREATE DATABASE `+name); err != nil {
		return "", fmt.Errorf("create database: %w", err)
	}
	return p.url(name), nil
}

// Log returns what the server has said that contains a word.
func (p *Postgres) Log(word string) (lines []string, err error) {
	log, err := os.ReadFile(p.log())
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, word) {
			lines = append(lines, line)
		}
	}
	return lines, err
}

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

	"imlb/test/bench/proc"
)

// Nginxes returns the variants of nginx. ErrMissing says that it, or its stream
// module, is not installed.
func Nginxes(ctx context.Context) ([]Peer, error) {
	path, err := exec.LookPath("nginx")
	if err != nil {
		return nil, ErrMissing
	}
	n := nginx{path: path}
	version, err := n.version(ctx)
	if err != nil {
		return nil, err
	}
	if n.module, err = streamModule(ctx, path); err != nil {
		return nil, err
	}
	peer := func(name string, workers int, only []string) Peer {
		n := n
		n.workers = workers
		return Peer{
			Name: name, Family: Nginx, Version: version, Settings: fmt.Sprintf("stream (ws: http), worker_processes %d", workers),
			Protocols: []Protocol{TCP, TLS, XMPPS, WS}, Tunnels: []Protocol{WS}, Only: only, Start: n.start,
		}
	}
	return []Peer{peer("nginx", 1, nil), peer("nginx-2", 2, threaded())}, nil
}

type nginx struct {
	path    string
	module  string // file; empty: it is built in
	workers int
}

func (n nginx) version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, n.path, "-v").CombinedOutput() //nolint:gosec // a program that is to be compared
	_, version, found := strings.Cut(strings.TrimSpace(string(out)), "nginx/")
	if err != nil || !found {
		return "", fmt.Errorf("%s -v says %q: %w", n.path, out, err)
	}
	return version, nil
}

// streamModule finds the module that Debian has in a package of its own.
func streamModule(ctx context.Context, path string) (string, error) {
	const file = "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	out, err := exec.CommandContext(ctx, path, "-V").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s -V: %w", path, err)
	}
	for _, option := range strings.Fields(string(out)) {
		if option == "--with-stream" {
			return "", nil
		}
	}
	return "", fmt.Errorf("stream module: %w", ErrMissing)
}

func (n nginx) start(ctx context.Context, task Task) (*Running, error) {
	addr, err := freePort(ctx, task.Protocol)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(task.Dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(n.config(addr, task)), 0o600); err != nil {
		return nil, err
	}
	p, err := Launch(ctx, "nginx", nil, nil, n.path, "-e", "stderr", "-p", task.Dir, "-c", file)
	if err != nil {
		return nil, err
	}
	r := &Running{Addr: addr, process: p}
	if err := n.ready(ctx, r); err != nil {
		_ = p.Stop()
		return nil, err
	}
	return r, nil
}

func (n nginx) ready(ctx context.Context, r *Running) error {
	if err := r.process.Await(ctx, startTime, Accepts(r.Addr.String())); err != nil {
		return err
	}
	if err := r.process.Await(ctx, startTime, r.process.workers(n.workers)); err != nil {
		return err
	}
	workers, err := proc.Children(r.process.PID())
	r.PIDs = append(workers, r.process.PID())
	return err
}

// config is nginx as it is meant to be used for this: no logs, the end of one
// direction is passed on, and otherwise its defaults.
func (n nginx) config(addr netip.AddrPort, task Task) string {
	var load string
	if n.module != "" {
		load = fmt.Sprintf("load_module %s;\n", n.module)
	}
	if os.Geteuid() == 0 {
		load += "user root;\n" // otherwise its workers may not read the directory
	}
	serve := n.stream
	if task.Protocol == WS {
		serve = n.http
	}
	return fmt.Sprintf(`%sdaemon off;
worker_processes %d;
worker_rlimit_nofile 20000;
pid %s;
error_log stderr crit;
events { worker_connections 19500; }
%s`, load, n.workers, filepath.Join(task.Dir, "nginx.pid"), serve(addr, task))
}

func (nginx) stream(addr netip.AddrPort, task Task) string {
	var listen, secure string
	if task.Protocol.secure() {
		listen = " ssl"
		secure = fmt.Sprintf(`
        ssl_certificate %s;
        ssl_certificate_key %s;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        ssl_ecdh_curve X25519;
        ssl_session_tickets on;`, task.Certs.Cert, task.Certs.Key)
	}
	return fmt.Sprintf(`stream {
    access_log off;
    server {
        listen %s%s backlog=4096;
        proxy_pass %s;
        proxy_timeout 10m;
        proxy_half_close on;%s
    }
}
`, addr, listen, task.Backend, secure)
}

// http carries WebSockets. Its directories are for requests that are longer than these,
// but it has to have them.
func (nginx) http(addr netip.AddrPort, task Task) string {
	return fmt.Sprintf(`http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen %s backlog=4096;
        location / {
            proxy_pass http://%s;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_read_timeout 10m;
            proxy_send_timeout 10m;
        }
    }
}
`, addr, task.Backend)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"imlb/configs"
)

// healthCmd is `imlb health`.
type healthCmd struct {
	Config  string        `placeholder:"FILE" help:"Ask the admin listener that this document of a front or node names."`
	URL     string        `name:"url" env:"IMLB_HEALTH_URL" placeholder:"URL" help:"What to ask when no document is named, like http://127.0.0.1:5225/readyz."`
	Timeout time.Duration `default:"3s" help:"How long to wait for the answer. Default: ${default}."`
}

// Help is the long text of `imlb health --help`.
func (healthCmd) Help() string {
	return `Asks the admin listener of a front or node on this machine for /readyz and ends with status 0 when it is ready, 1 when it is
not. Without --url and --config it asks a front's default address and, when nothing listens there, a node's.`
}

// Run asks until somebody answers.
func (c *healthCmd) Run(ctx context.Context) error {
	urls, err := c.urls()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	for _, url := range urls {
		err = askReady(ctx, url)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
	}
	return err
}

// urls lists what to ask, one after the other.
func (c *healthCmd) urls() ([]string, error) {
	switch {
	case c.Config != "":
		admin, err := adminAddress(c.Config)
		return []string{readyURL(admin)}, err
	case c.URL != "":
		return []string{c.URL}, nil
	default:
		front, node := configs.Defaults[configs.Proxy](), configs.Defaults[configs.Node]()
		return []string{readyURL(front.Admin.Address), readyURL(node.Admin.Address)}, nil
	}
}

// adminAddress reads the address of the admin listener from a document.
func adminAddress(path string) (string, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return "", fmt.Errorf("read configuration: %w", err)
	}
	kind, err := configs.Detect(path, data)
	if err != nil {
		return "", err
	}
	if kind == configs.KindNode {
		n, err := configs.ParseNode(path, data)
		return n.Admin.Address, err
	}
	p, err := configs.ParseProxy(path, data)
	return p.Admin.Address, err
}

// readyURL is where a process that listens on the address is asked whether it is ready.
func readyURL(address string) string { return adminURL(address) + "/readyz" }

// adminURL is where a process that listens on the address is asked from its own
// machine: on the loopback interface when it listens on all.
func adminURL(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = address, ""
	}
	switch ip, err := netip.ParseAddr(host); {
	case host == "", err == nil && ip.IsUnspecified() && ip.Is4():
		host = "127.0.0.1"
	case err == nil && ip.IsUnspecified():
		host = "::1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// askReady reports nothing when the process at the URL is ready, and otherwise
// what it answered.
func askReady(ctx context.Context, url string) error {
	resp, err := askAdmin(ctx, http.MethodGet, url)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	defer resp.Body.Close()
	const most = 1 << 10 // enough for a reason
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return fmt.Errorf("health: read the answer of %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s answers %s: %s", url, resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// askAdmin asks a process on this machine, for which a proxy from the environment is not meant.
func askAdmin(ctx context.Context, method, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req.Host = "localhost" // whatever its name is
	return client.Do(req)
}

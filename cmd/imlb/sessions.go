package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"imlb/configs"
)

// sessionsCmd is `imlb sessions`: those of a front on this machine.
type sessionsCmd struct {
	List sessionsListCmd `cmd:"" default:"withargs" help:"List sessions, one on a line."`
	End  sessionsEndCmd  `cmd:"" help:"End sessions."`
}

// Help is the long text of `imlb sessions --help`.
func (sessionsCmd) Help() string {
	return `Asks a front on this machine for the sessions that are on its nodes. Users are called as in the log.

    imlb sessions --user alice@example.com
    imlb sessions end 0123456789abcdef0123456789abcdef`
}

// sessionsFlags say which front is asked.
type sessionsFlags struct {
	Config  string        `placeholder:"FILE" xor:"front" help:"Ask the admin listener that this document of a front names."`
	Admin   string        `placeholder:"ADDR" xor:"front" help:"Ask the admin listener at this address, like 127.0.0.1:5225, which is the default."`
	Timeout time.Duration `default:"10s" help:"How long to wait for the answer. Default: ${default}."`
}

// ask asks the front for a path, and returns what it answers.
func (f *sessionsFlags) ask(ctx context.Context, method, path string, status int) ([]byte, error) {
	address := f.Admin
	switch {
	case f.Config != "":
		var err error
		if address, err = adminAddress(f.Config); err != nil {
			return nil, err
		}
	case address == "":
		address = configs.Defaults[configs.Proxy]().Admin.Address
	}
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	resp, err := askAdmin(ctx, method, adminURL(address)+path)
	if err != nil {
		return nil, fmt.Errorf("ask the front: %w", err)
	}
	defer resp.Body.Close()
	const most = maxSessions * (8 << 10) // names are bounded
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer of the front: %w", err)
	case resp.StatusCode != status:
		return nil, fmt.Errorf("the front answers %s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// sessionsListCmd is `imlb sessions list`, and `imlb sessions` alone.
type sessionsListCmd struct {
	sessionsFlags
	User  string `placeholder:"NAME" help:"Only those of this user."`
	Node  string `placeholder:"NAME" help:"Only those on this node."`
	Pool  string `placeholder:"NAME" help:"Only those of this pool."`
	Limit int    `default:"100" help:"How many at most, up to 1000. Default: ${default}."`
	After string `placeholder:"ID" help:"Only those that come after this one in the order of ids."`
	JSON  bool   `name:"json" help:"Print JSON."`
}

// Run prints them.
func (c *sessionsListCmd) Run(ctx context.Context) error {
	asked := url.Values{"limit": {strconv.Itoa(c.Limit)}}
	for key, value := range map[string]string{"user": c.User, "node": c.Node, "pool": c.Pool, "after": c.After} {
		if value != "" {
			asked.Set(key, value)
		}
	}
	body, err := c.ask(ctx, http.MethodGet, "/sessions?"+asked.Encode(), http.StatusOK)
	if err != nil {
		return err
	}
	var page sessionsPage
	if err := json.Unmarshal(body, &page); err != nil {
		return fmt.Errorf("the answer of the front: %w", err)
	}
	if c.JSON {
		return printJSON(page)
	}
	rows := [][]string{{"ID", "USER", "SOURCE", "LISTENER", "TRANSPORT", "NODE", "AGE", "IN", "OUT"}}
	for _, s := range page.Sessions {
		rows = append(rows, []string{
			s.ID, s.User, s.Source, s.Listener, s.Transport, s.Node,
			time.Since(s.Since).Round(time.Second).String(), strconv.FormatInt(s.In, 10), strconv.FormatInt(s.Out, 10),
		})
	}
	if err := printTable(rows); err != nil {
		return err
	}
	if page.Next != "" {
		fmt.Fprintf(os.Stderr, "There are more: go on with --after %s.\n", page.Next)
	}
	return nil
}

// sessionsEndCmd is `imlb sessions end`.
type sessionsEndCmd struct {
	sessionsFlags
	IDs []string `arg:"" name:"id" help:"The sessions' ids, as imlb sessions and the log have them."`
}

// Help is the long text of `imlb sessions end --help`.
func (sessionsEndCmd) Help() string {
	return `A client of XMPP is told that an administrator has ended its session, one on a WebSocket gets the status 1008, and other connections are reset.
Clients may connect again at once; imlb user suspend is what keeps somebody out.`
}

// Run ends all that there are, and fails if one is not.
func (c *sessionsEndCmd) Run(ctx context.Context) error {
	var errs []error
	for _, id := range c.IDs {
		if _, err := c.ask(ctx, http.MethodDelete, "/sessions/"+url.PathEscape(id), http.StatusAccepted); err != nil {
			errs = append(errs, fmt.Errorf("session %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

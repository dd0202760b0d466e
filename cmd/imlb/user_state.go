package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"imlb/backend/store"
)

// userSuspendCmd is `imlb user suspend`.
type userSuspendCmd struct {
	Name   string `arg:"" help:"The user: alice or alice@example.com."`
	Reason string `placeholder:"TEXT" help:"What the user is told."`
	Until  string `placeholder:"WHEN" help:"When it ends: a time like 2027-01-31T12:00:00Z or a duration like 72h. Without it, with imlb user resume."`
}

// Help is the long text of `imlb user suspend --help`.
func (userSuspendCmd) Help() string {
	return `A suspended account cannot log in, and its sessions end within seconds, on all nodes. Everything it has stays; messages for it
wait until it may log in again.`
}

// Run suspends the account.
func (c *userSuspendCmd) Run(ctx context.Context, parent *userCmd) error {
	until, err := parseUntil(c.Until, time.Now())
	if err != nil {
		return err
	}
	state := store.AccountState{Suspended: true, Reason: c.Reason, Until: until}
	done := "suspended"
	if !until.IsZero() {
		done += " until " + until.Format(time.RFC3339)
	}
	return parent.change(ctx, c.Name, "suspend", done, func(d *directory, user string) error {
		return d.SetState(ctx, user, state)
	})
}

// parseUntil reads a time or a duration from now; nothing is for ever.
func parseUntil(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	until, err := time.Parse(time.RFC3339, text)
	if err != nil {
		d, durationErr := time.ParseDuration(text)
		if durationErr != nil {
			return time.Time{}, fmt.Errorf("--until %s: give a time like 2027-01-31T12:00:00Z or a duration like 72h", text)
		}
		until = now.Add(d)
	}
	if !until.After(now) {
		return time.Time{}, fmt.Errorf("--until %s: that is over", text)
	}
	return until.UTC(), nil
}

// userResumeCmd is `imlb user resume`.
type userResumeCmd struct {
	Name string `arg:"" help:"The user: alice or alice@example.com."`
}

// Run ends a suspension.
func (c *userResumeCmd) Run(ctx context.Context, parent *userCmd) error {
	return parent.change(ctx, c.Name, "resume", "active", func(d *directory, user string) error {
		return d.SetState(ctx, user, store.AccountState{})
	})
}

// userRoleCmd is `imlb user role`.
type userRoleCmd struct {
	Name string `arg:"" help:"The user: alice or alice@example.com."`
	Role string `arg:"" enum:"user,moderator,admin" help:"The role: user, moderator or admin."`
}

// Help is the long text of `imlb user role --help`.
func (userRoleCmd) Help() string {
	return `An admin administers the service from a client, with ad-hoc commands (XEP-0133). A moderator looks after rooms.`
}

// Run gives the role.
func (c *userRoleCmd) Run(ctx context.Context, parent *userCmd) error {
	role, err := store.ParseRole(c.Role)
	if err != nil {
		return err
	}
	return parent.change(ctx, c.Name, "set the role of", "has the role "+c.Role, func(d *directory, user string) error {
		return d.SetRole(ctx, user, role)
	})
}

// change opens the database, does something to a user and prints what was done.
func (c *userCmd) change(ctx context.Context, name, what, done string, do func(*directory, string) error) error {
	return c.with(ctx, func(d *directory) error {
		user, err := d.address(name)
		if err != nil {
			return err
		}
		if err := do(d, user); err != nil {
			return fmt.Errorf("%s %s: %w", what, user, err)
		}
		return tell(user, done, "")
	})
}

// userShowCmd is `imlb user show`.
type userShowCmd struct {
	Name string `arg:"" help:"The user: alice or alice@example.com."`
}

// Run prints what is known of the account, one thing on a line.
func (c *userShowCmd) Run(ctx context.Context, parent *userCmd) error {
	return parent.with(ctx, func(d *directory) error {
		user, err := d.address(c.Name)
		if err != nil {
			return err
		}
		account, err := d.Account(ctx, user)
		if err != nil {
			return fmt.Errorf("show %s: %w", user, err)
		}
		sessions, err := d.SessionsOf(ctx, account.Owner)
		if err != nil {
			return fmt.Errorf("show %s: %w", user, err)
		}
		return printAccount(account, sessions)
	})
}

// stateText says in one line what state an account is in.
func stateText(s store.AccountState, now time.Time) string {
	if !s.SuspendedAt(now) {
		return "active"
	}
	text := "suspended"
	if !s.Until.IsZero() {
		text += " until " + s.Until.Format(time.RFC3339)
	}
	if s.Reason != "" {
		text += ": " + strings.Join(strings.Fields(s.Reason), " ")
	}
	return text
}

func printAccount(a store.Account, sessions []store.Session) error {
	login := "never"
	if !a.LastLogin.IsZero() {
		login = a.LastLogin.Format(time.RFC3339)
	}
	_, err := fmt.Fprintf(os.Stdout, "user: %s\nrole: %s\nstate: %s\ncreated: %s\nlast login: %s\n",
		a.User, a.Role, stateText(a.State, time.Now()), a.Created.Format(time.RFC3339), login)
	for _, s := range sessions {
		if err == nil {
			_, err = fmt.Fprintf(os.Stdout, "session: %s on %s since %s\n", s.Resource, s.Node, s.Created.Format(time.RFC3339))
		}
	}
	return err
}

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"imlb/backend/chatload"
)

// benchCmd is `imlb bench`: loads to measure servers with.
type benchCmd struct {
	Chat benchChatCmd `cmd:"" help:"Put load on an XMPP server, anybody's, and check every message."`
}

// benchChatCmd is `imlb bench chat`.
type benchChatCmd struct {
	Server   []string          `required:"" placeholder:"HOST:PORT" help:"Where the server listens; sessions take turns among several."`
	Domain   string            `required:"" help:"The users' domain."`
	Workload chatload.Workload `default:"messages" enum:"messages,logins,idle,archive" help:"One of ${enum}. Default: ${default}."`

	User           []string `placeholder:"NAME:PASSWORD" sep:"none" help:"An account to log in as; may be given several times. Or:"`
	Users          int      `placeholder:"N" help:"How many accounts there are, with names and passwords made from the numbers from 1 on."`
	UserFormat     string   `default:"u%d" help:"A user's name. Default: ${default}."`
	PasswordFormat string   `default:"p%d" help:"A user's password; without %d all have the same. Default: ${default}."`
	Sessions       int      `placeholder:"N" help:"How many sessions to open, for the accounts in turns. Default: one each."`

	TLS       chatload.TLSMode `name:"tls" default:"starttls" enum:"starttls,direct,none" help:"One of ${enum}. Default: ${default}."`
	CA        string           `name:"ca" placeholder:"FILE" type:"existingfile" help:"The authority that has signed the server's certificate. Default: the system's."`
	Insecure  bool             `help:"Take any certificate."`
	Resume    bool             `help:"Resume TLS sessions in logins."`
	Mechanism string           `placeholder:"NAME" help:"SASL mechanism: SCRAM-SHA-512, SCRAM-SHA-256, SCRAM-SHA-1 or PLAIN. Default: the first of these that the server offers."`

	Rate       int            `placeholder:"N" help:"Messages or logins per second, whether or not earlier ones are done. Default: as fast as it goes."`
	Window     int            `default:"8" help:"Without --rate, how many messages of each session are on their way. Default: ${default}."`
	Size       int            `default:"256" help:"Bytes of a message's body. Default: ${default}."`
	Peers      chatload.Peers `default:"pairs" enum:"pairs,random" help:"Who writes to whom. Default: ${default}."`
	Connecting int            `default:"16" help:"Logins at a time. Default: ${default}."`
	Warmup     time.Duration  `default:"2s" help:"Before it counts. Default: ${default}."`
	Duration   time.Duration  `default:"10s" help:"Of what counts. Default: ${default}."`
	Settle     time.Duration  `default:"3s" help:"Before memory is read. Default: ${default}."`
	Timeout    time.Duration  `default:"30s" help:"For each login and answer, and for the last messages. Default: ${default}."`

	Preload int `placeholder:"N" help:"Messages to fill the first user's archive with before it is read."`
	Max     int `default:"50" help:"Messages on a page of the archive. Default: ${default}."`
	Queries int `default:"200" help:"Pages to read. Default: ${default}."`

	PID    []int  `name:"pid" placeholder:"PID" help:"The server's processes, whose processor time and memory are reported, with those that they have started (Linux)."`
	Format string `default:"text" enum:"text,json" help:"Of the result: ${enum}. Default: ${default}."`
}

// Help is the long text of `imlb bench chat --help`.
func (benchChatCmd) Help() string {
	return `messages: users write to each other, at a fixed rate or with a window; each message is numbered, and has to arrive once and in order.
Latency counts from when a message was due. logins: users log in and out. idle: users are there and quiet, and the server's memory is read.
archive: the last page of the first user's archive is read again and again. The accounts have to be there. It ends by itself, with status 1 when
something was lost, doubled, out of order or failed, and never because of a figure.

  imlb dev --user u1:p1 --user u2:p2
  imlb bench chat --server 127.0.0.1:5222 --domain localhost --users 2 --insecure`
}

// errBench is what a run ends with whose result has shown what is wrong.
var errBench = errors.New("bench chat: not all went well")

// Run puts the load on the server and prints what came of it.
func (c *benchChatCmd) Run(ctx context.Context) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	result, err := chatload.Run(ctx, o)
	if err != nil {
		return fmt.Errorf("bench chat: %w", err)
	}
	write := result.WriteText
	if c.Format == "json" {
		write = result.WriteJSON
	}
	if err := write(os.Stdout); err != nil {
		return err
	}
	if !result.OK() {
		return errBench
	}
	return nil
}

func (c *benchChatCmd) options() (chatload.Options, error) {
	o := chatload.Options{
		Servers: c.Server, Domain: c.Domain, TLS: c.TLS, Resume: c.Resume, Mechanism: c.Mechanism, Sessions: c.Sessions,
		Workload: c.Workload, Connecting: c.Connecting, Rate: c.Rate, Window: c.Window, Size: c.Size, Peers: c.Peers,
		Warmup: c.Warmup, Duration: c.Duration, Settle: c.Settle, Timeout: c.Timeout,
		Preload: c.Preload, Page: c.Max, Queries: c.Queries, PIDs: c.PID,
	}
	var err error
	if o.Accounts, err = c.accounts(); err != nil {
		return o, err
	}
	o.TLSConfig, err = c.tlsConfig()
	return o, err
}

// accounts are those that were named, or those that were numbered.
func (c *benchChatCmd) accounts() (all []chatload.Account, err error) {
	const most = 1_000_000
	if len(c.User) > 0 && c.Users > 0 {
		return nil, errors.New("--user names the accounts; leave out --users")
	}
	for _, u := range c.User {
		name, password, ok := strings.Cut(u, ":")
		if !ok || name == "" || password == "" {
			return nil, fmt.Errorf("--user %s: want NAME:PASSWORD", u)
		}
		all = append(all, chatload.Account{Name: name, Password: password})
	}
	if c.Users < 0 || c.Users > most || c.Users+len(c.User) == 0 {
		return nil, fmt.Errorf("name accounts with --user, or say with --users how many there are, up to %d", most)
	}
	for i := range c.Users {
		name, err := numbered(c.UserFormat, i+1)
		if err != nil {
			return nil, fmt.Errorf("--user-format: %w", err)
		}
		password, err := numbered(c.PasswordFormat, i+1)
		if err != nil {
			return nil, fmt.Errorf("--password-format: %w", err)
		}
		all = append(all, chatload.Account{Name: name, Password: password})
	}
	return all, nil
}

// numbered puts a number into a format, which may have no place for it.
func numbered(format string, n int) (string, error) {
	if !strings.Contains(format, "%") {
		return format, nil
	}
	text := fmt.Sprintf(format, n)
	if strings.Contains(text, "%!") {
		return "", fmt.Errorf("%q: want one number, like u%%d or user%%04d", format)
	}
	return text, nil
}

func (c *benchChatCmd) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.Insecure} //nolint:gosec // only if told to
	if c.CA == "" {
		return config, nil
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca %s: no certificate in it", c.CA)
	}
	return config, nil
}

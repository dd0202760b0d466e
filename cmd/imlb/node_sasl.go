package main

import (
	"errors"
	"fmt"
	"io"

	"imlb/backend"
	"imlb/backend/login"
	"imlb/configs"
)

// loginChecks are what checks logins besides the database.
type loginChecks struct {
	passwords backend.Passwords // nil: the database's keys
	tokens    backend.Tokens    // nil: there are none
	closers   []io.Closer
}

func (c *loginChecks) close() error {
	var all []error
	for _, part := range c.closers {
		all = append(all, part.Close())
	}
	return errors.Join(all...)
}

func newLoginChecks(doc configs.Node) (c loginChecks, err error) {
	a, o := doc.SASL.Accounts, doc.SASL.OAuth
	if a.LDAP != nil {
		err = c.askLDAP(*a.LDAP)
	}
	if err == nil && a.HTTP != nil {
		err = c.askHTTP(*a.HTTP, doc.Domain)
	}
	if err == nil && o != nil {
		err = c.verifyTokens(*o)
	}
	return c, err
}

func (c *loginChecks) askLDAP(l configs.NodeLDAP) error {
	o := login.LDAPOptions{
		URL: l.URL, StartTLS: l.StartTLS, CAFile: l.CAFile, ServerName: l.ServerName,
		BindDN: l.BindDN, Timeout: l.Timeout, Connections: l.Connections,
	}
	if s := l.Search; s != nil {
		password, err := configs.ReadSecret(s.PasswordFile)
		if err != nil {
			return fmt.Errorf("password for LDAP: %w", err)
		}
		o.Base, o.Filter, o.SearchDN, o.SearchPassword = s.Base, s.Filter, s.DN, password
	}
	directory, err := login.NewLDAP(o)
	if err != nil {
		return fmt.Errorf("accounts in LDAP: %w", err)
	}
	c.passwords, c.closers = directory, append(c.closers, directory)
	return nil
}

func (c *loginChecks) askHTTP(h configs.NodeHTTP, domain string) error {
	token, err := configs.ReadSecret(h.TokenFile)
	if err != nil {
		return fmt.Errorf("token for HTTP: %w", err)
	}
	service, err := login.NewHTTP(login.HTTPOptions{
		URL: h.URL, Domain: domain, Token: token, CAFile: h.CAFile, Timeout: h.Timeout, Concurrency: h.Concurrency,
	})
	if err != nil {
		return fmt.Errorf("accounts by HTTP: %w", err)
	}
	c.passwords, c.closers = service, append(c.closers, service)
	return nil
}

func (c *loginChecks) verifyTokens(o configs.NodeOAuth) error {
	options := login.TokenOptions{
		KeysFile: o.Keys, CAFile: o.CAFile, Issuer: o.Issuer, Audience: o.Audience, Claim: o.UserClaim,
		Leeway: o.Leeway, Refresh: o.Refresh, Configuration: o.Configuration,
	}
	if configs.IsURL(o.Keys) {
		options.KeysFile, options.KeysURL = "", o.Keys
	}
	tokens, err := login.NewTokens(options)
	if err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	c.tokens, c.closers = tokens, append(c.closers, tokens)
	return nil
}

func loginBackoff(b configs.NodeBackoff) backend.Backoff {
	return backend.Backoff{Free: b.Free, SourceFree: b.SourceFree, First: b.First, Max: b.Max, Window: b.Window}
}

// mechanismNames are those that the document lists; nil, for the default, if it lists none.
func mechanismNames(mechanisms []configs.Mechanism) []string {
	var names []string
	for _, m := range mechanisms {
		names = append(names, string(m))
	}
	return names
}

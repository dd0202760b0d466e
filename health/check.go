package health

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// Check finds out whether a node is fit. It is safe for concurrent use and obeys
// the deadline of its context.
type Check interface {
	// Probe returns nil when the node is fit, and what it said about itself, if
	// anything.
	Probe(ctx context.Context, e Endpoint) (*Answer, error)
}

// Answer is what a node says about itself.
type Answer struct {
	Node     string  `json:"node"`     // its name
	Sessions int     `json:"sessions"` // that live on it, of all fronts; −1 means no answer
	Draining bool    `json:"draining"` // wants no new users
	Ready    bool    `json:"ready"`    // can serve
	Capacity int     `json:"capacity"` // most sessions that it wants; 0 means no answer
	Weight   float64 `json:"weight"`   // share relative to others; 0 means no answer
	// Mechanisms are those that it offers to log in with (SASL); nil means no answer.
	Mechanisms []string `json:"mechanisms"`
}

// All is a check that passes when every one of several does. They are made at the
// same time. What they answer is put together: a node drains when one says so,
// and otherwise the first answer counts.
type All []Check

// Probe implements [Check].
func (all All) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	answers, errs := make([]*Answer, len(all)), make([]error, len(all))
	var probing sync.WaitGroup
	for i, c := range all {
		probing.Go(func() { answers[i], errs[i] = c.Probe(ctx, e) })
	}
	probing.Wait()
	var together *Answer
	var failed error
	for i := range all {
		together = together.with(answers[i])
		switch {
		case failed == nil:
			failed = errs[i]
		case errs[i] != nil:
			failed = fmt.Errorf("%w; %w", failed, errs[i]) // on one line
		}
	}
	return together, failed
}

// with returns what a and b say together.
func (a *Answer) with(b *Answer) *Answer {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	both := *a
	both.Node = cmp.Or(a.Node, b.Node)
	both.Draining = a.Draining || b.Draining
	both.Ready = a.Ready && b.Ready
	both.Capacity = cmp.Or(a.Capacity, b.Capacity)
	both.Weight = cmp.Or(a.Weight, b.Weight)
	if a.Sessions < 0 {
		both.Sessions = b.Sessions
	}
	if a.Mechanisms == nil {
		both.Mechanisms = b.Mechanisms
	}
	return &both
}

// HTTPCheck gets a path from the node's admin address and expects a status of 2xx.
type HTTPCheck struct {
	Path string
	// TLS, if set, makes it HTTPS. An empty ServerName is the host of the address.
	TLS *tls.Config
}

// Probe implements [Check].
func (c HTTPCheck) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	_, err := get(ctx, e, c.Path, c.TLS)
	return nil, err
}

// AgentCheck gets a path from the node's admin address, where the node describes
// itself (see [Answer]), and expects that it is ready or draining.
type AgentCheck struct {
	Path string
	// TLS, if set, makes it HTTPS. An empty ServerName is the host of the address.
	TLS *tls.Config
}

// Probe implements [Check].
func (c AgentCheck) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	body, err := get(ctx, e, c.Path, c.TLS)
	if err != nil {
		return nil, err
	}
	a := Answer{Sessions: -1}
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	switch {
	case a.Node != "" && a.Node != e.Name:
		return nil, fmt.Errorf("node %q answers there", a.Node)
	case !a.Ready && !a.Draining:
		return &a, errors.New("node is not ready")
	}
	return &a, nil
}

// maxAnswer is the most bytes that are read of an answer.
const maxAnswer = 64 << 10

// get asks a node. Every check is a connection of its own, so that it also finds a
// node that accepts none; proxies and redirects have no place between a front and its
// nodes.
func get(ctx context.Context, e Endpoint, path string, secure *tls.Config) ([]byte, error) {
	if e.Admin == "" {
		return nil, errors.New("node has no admin address to check")
	}
	scheme := "http://"
	if secure != nil {
		scheme = "https://"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+e.Admin+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("prepare request: %w", err)
	}
	client := &http.Client{
		Transport:     &http.Transport{DialContext: dialFrom, DisableKeepAlives: true, TLSClientConfig: secure.Clone()},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if response.StatusCode/100 != 2 {
		return nil, fmt.Errorf("GET %s: %s", path, response.Status)
	}
	return body, nil
}

package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/pires/go-proxyproto"
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

// TCPCheck opens a connection to the node's session address.
type TCPCheck struct {
	// ProxyHeader sends a PROXY v2 header with the LOCAL command, by which the
	// node knows that this is a check and nothing else will follow.
	ProxyHeader bool
}

// Probe implements [Check].
func (c TCPCheck) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", e.Addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if !c.ProxyHeader {
		return nil, nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetWriteDeadline(deadline)
	}
	header := proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	if _, err := header.WriteTo(conn); err != nil {
		return nil, fmt.Errorf("send PROXY header: %w", err)
	}
	return nil, nil
}

// HTTPCheck gets a path from the node's admin address and expects a status of 2xx.
type HTTPCheck struct{ Path string }

// Probe implements [Check].
func (c HTTPCheck) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	_, err := get(ctx, e, c.Path)
	return nil, err
}

// AgentCheck gets a path from the node's admin address, where the node describes
// itself (see [Answer]), and expects that it is ready or draining.
type AgentCheck struct{ Path string }

// Probe implements [Check].
func (c AgentCheck) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	body, err := get(ctx, e, c.Path)
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

// client asks nodes. Every check is a connection of its own, so that it also finds
// a node that accepts none; proxies and redirects have no place between a front and its nodes.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// maxAnswer is the most bytes that are read of an answer.
const maxAnswer = 64 << 10

func get(ctx context.Context, e Endpoint, path string) ([]byte, error) {
	if e.Admin == "" {
		return nil, errors.New("node has no admin address to check")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.Admin+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("prepare request: %w", err)
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

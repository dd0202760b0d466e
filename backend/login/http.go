package login

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// HTTPOptions say whom to ask by HTTP.
type HTTPOptions struct {
	URL         string
	Domain      string        // of the users
	Token       string        // by which the service knows us; empty: none
	CAFile      string        // who has signed its certificate; empty: one of the system's authorities
	Timeout     time.Duration // for a place and an answer; 5 s
	Concurrency int           // questions at a time; 16
}

// HTTP asks a service by HTTP. It posts the JSON object {"user", "domain", "password"};
// the answer 200 means yes, 401 and 403 mean no, and anything else that it could not be
// found out.
type HTTP struct {
	o      HTTPOptions
	client *http.Client
	places places
}

// NewHTTP returns an asker that has not yet asked.
func NewHTTP(o HTTPOptions) (*HTTP, error) {
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	o.Concurrency = cmp.Or(o.Concurrency, 16)
	client, err := newClient(o.CAFile, o.Concurrency, o.Timeout)
	if err != nil {
		return nil, err
	}
	return &HTTP{o: o, client: client, places: make(places, o.Concurrency)}, nil
}

// Close closes the connections.
func (h *HTTP) Close() error {
	h.client.CloseIdleConnections()
	return nil
}

// Check asks whether that is the password of a user.
func (h *HTTP) Check(ctx context.Context, user, password string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, h.o.Timeout)
	defer cancel()
	if err := h.places.take(ctx); err != nil {
		return false, err
	}
	defer h.places.giveBack()
	req, err := h.question(ctx, user, password)
	if err != nil {
		return false, err
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return false, fmt.Errorf("ask about a password: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
	switch resp.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return false, nil
	default:
		return false, fmt.Errorf("ask about a password: the answer is %s", resp.Status)
	}
}

func (h *HTTP) question(ctx context.Context, user, password string) (*http.Request, error) {
	body, err := json.Marshal(map[string]string{"user": user, "domain": h.o.Domain, "password": password})
	if err != nil {
		return nil, fmt.Errorf("ask about a password: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.o.URL, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask about a password: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if h.o.Token != "" {
		req.Header.Set("Authorization", "Bearer "+h.o.Token)
	}
	return req, nil
}

package login

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// maxKeySet bounds what is read of a set of keys, in bytes.
const maxKeySet = 1 << 20

// keyring has an issuer's keys. It reads them again when they are old, and when a token
// names one that it does not have, but not more often than every again: who makes up names
// of keys does not make it ask. When reading fails it keeps what it has for a time.
type keyring struct {
	read    func(ctx context.Context) ([]byte, error)
	timeout time.Duration // for reading
	fresh   time.Duration // for which keys are good without asking
	stale   time.Duration // for which they are while they cannot be read again
	again   time.Duration // between one reading and the next

	mu      sync.Mutex
	keys    []key
	at      time.Time     // when they were read
	tried   time.Time     // when reading was over last
	failed  error         // of the last reading; nil: it went well
	reading chan struct{} // closed when it is over; nil: nobody reads
}

// fromFile reads keys from a file.
func fromFile(file string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) {
		f, err := os.Open(file) //nolint:gosec // The operator names the file.
		if err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
		defer f.Close()
		return readKeySet(f)
	}
}

// fromURL reads keys by HTTP.
func fromURL(client *http.Client, url string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
		req.Header.Set("Accept", "application/jwk-set+json, application/json")
		resp, err := client.Do(req)
		if err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("read keys: %s answers %s", url, resp.Status)
		}
		return readKeySet(resp.Body)
	}
}

func readKeySet(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKeySet+1))
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	if len(data) > maxKeySet {
		return nil, fmt.Errorf("read keys: the set has more than %d bytes", maxKeySet)
	}
	return data, nil
}

// find returns the keys of that name, or all without one, and reads them if need be. The
// error means that there are none that could be believed.
func (r *keyring) find(ctx context.Context, id string) ([]key, error) {
	for {
		found, reading, mine, err := r.look(time.Now(), id)
		switch {
		case mine:
			r.fetch(ctx)
			continue
		case reading == nil:
			return found, err
		}
		select {
		case <-reading:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for keys: %w", ctx.Err())
		}
	}
}

// look returns what is to be done: to take what was found, to wait until reading is closed,
// or, if mine, to read.
func (r *keyring) look(now time.Time, id string) (found []key, reading chan struct{}, mine bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found = r.named(id)
	age := now.Sub(r.at)
	if len(found) > 0 && age < r.fresh {
		return found, nil, false, nil
	}
	if r.reading != nil {
		return nil, r.reading, false, nil
	}
	if now.Sub(r.tried) >= r.again {
		r.reading = make(chan struct{})
		return nil, nil, true, nil
	}
	if r.failed != nil && (len(found) == 0 || age >= r.stale) {
		return nil, nil, false, r.failed
	}
	return found, nil, false, nil
}

func (r *keyring) named(id string) []key {
	if id == "" {
		return r.keys
	}
	var found []key
	for _, k := range r.keys {
		if k.id == id {
			found = append(found, k)
		}
	}
	return found
}

// fetch reads the keys for all who wait for them, and so not only as long as the caller
// does.
func (r *keyring) fetch(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.timeout)
	defer cancel()
	data, err := r.read(ctx)
	var keys []key
	if err == nil {
		keys, err = parseKeys(data)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed, r.tried = err, time.Now()
	if err == nil {
		r.keys, r.at = keys, r.tried
	}
	close(r.reading)
	r.reading = nil
}

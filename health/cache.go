package health

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"
)

// cache keeps the nodes that a source knew last in a file, for a start while the
// source does not answer.
type cache struct {
	path    string // empty: nothing is kept
	service string // whose nodes they are
	tag     string
	saved   time.Time
}

// cacheVersion is of the file's format. A file of another version is not read.
const cacheVersion = 1

// maxCache is the most bytes of a file that is read.
const maxCache = 16 << 20

// cacheRefresh is how often the file is written while nothing changes, so that its
// age says how long the source has not answered.
const cacheRefresh = time.Minute

// cached is what the file holds, as JSON.
type cached struct {
	Version int
	Service string
	Tag     string
	Saved   time.Time // when the source last said so
	Nodes   []Endpoint
}

// load returns the nodes, and since when they may be out of date; no nodes and
// no error when there is no file.
func (c *cache) load() (nodes []Endpoint, saved time.Time, err error) {
	if c.path == "" {
		return nil, time.Time{}, nil
	}
	data, err := readFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read cached nodes: %w", err)
	}
	var file cached
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, time.Time{}, fmt.Errorf("read cached nodes from %s: %w", c.path, err)
	}
	if err := c.check(file); err != nil {
		return nil, time.Time{}, fmt.Errorf("read cached nodes from %s: %w", c.path, err)
	}
	return oneOfEach(file.Nodes), file.Saved, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the directory
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCache+1))
	if err == nil && len(data) > maxCache {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxCache)
	}
	return data, err
}

// check refuses a file that is not what save writes.
func (c *cache) check(file cached) error {
	switch {
	case file.Version != cacheVersion:
		return fmt.Errorf("it has version %d, not %d", file.Version, cacheVersion)
	case file.Service != c.service || file.Tag != c.tag:
		return fmt.Errorf("it holds service %q with tag %q, not %q with %q", file.Service, file.Tag, c.service, c.tag)
	case file.Saved.IsZero():
		return errors.New("it has no time")
	}
	for _, e := range file.Nodes {
		if _, _, err := net.SplitHostPort(e.Addr); e.Name == "" || err != nil {
			return fmt.Errorf("node %q has address %q", e.Name, e.Addr)
		}
	}
	return nil
}

// save writes what the source said now if that is news or the file has become old.
func (c *cache) save(now time.Time, nodes []Endpoint, news bool) error {
	if c.path == "" || !news && now.Sub(c.saved) < cacheRefresh {
		return nil
	}
	data, err := json.MarshalIndent(cached{cacheVersion, c.service, c.tag, now.UTC(), nodes}, "", "  ")
	if err == nil {
		err = replaceFile(c.path, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("cache nodes: %w", err)
	}
	c.saved = now
	return nil
}

// replaceFile writes a file so that at any moment the old or the new one is there
// whole.
func replaceFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = io.Copy(f, bytes.NewReader(data))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

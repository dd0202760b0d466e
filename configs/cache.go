package configs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// cache is the file in which what is in force for a cluster is kept.
type cache struct {
	dir     string // empty: nothing is kept
	cluster string
}

// kept is what the file holds.
type kept struct {
	Version  uint64            `json:"version"`
	Document string            `json:"document,omitempty"` // when it came from Consul
	Nodes    map[string]string `json:"nodes,omitempty"`    // overrides, as they are stored in Consul
	Origin   origin            `json:"origin"`             // of the overrides
}

// origin says up to where a cluster's overrides were followed. Who knows that tells a
// Consul in which there are none any more from one that has lost its state.
type origin struct {
	Agent string `json:"agent,omitempty"` // who was asked
	Index uint64 `json:"index,omitempty"` // of the last good answer
	Lost  bool   `json:"lost,omitempty"`  // Consul has lost its state, and has nothing about nodes since
}

func (c cache) file() string { return filepath.Join(c.dir, c.cluster+".config.json") }

// read returns what was kept; nothing when it cannot be read, for then there is
// nothing to go on with.
func (c cache) read() kept {
	var k kept
	if c.dir == "" {
		return k
	}
	data, err := os.ReadFile(c.file())
	if err != nil || json.Unmarshal(data, &k) != nil {
		return kept{}
	}
	return k
}

// overrides returns what was kept about nodes.
func (k kept) overrides() map[string]Override {
	overrides := make(map[string]Override, len(k.Nodes))
	for name, text := range k.Nodes {
		if o, err := ParseOverride(name, []byte(text)); err == nil {
			overrides[name] = o
		}
	}
	return overrides
}

// write keeps a document and what is said of nodes, which is from there. The file is
// replaced as a whole.
func (c cache) write(d draft, overrides map[string]Override, from origin) error {
	if c.dir == "" {
		return nil
	}
	k := kept{Version: d.version, Nodes: make(map[string]string, len(overrides)), Origin: from}
	if d.version > 0 {
		k.Document = string(d.data)
	}
	for name, o := range overrides {
		text, err := o.YAML()
		if err != nil {
			return err
		}
		k.Nodes[name] = string(text)
	}
	data, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("encode the cache: %w", err)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	return replaceFile(c.file(), data)
}

// replaceFile writes a file so that others see it whole, old or new.
func replaceFile(name string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

package secrets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// File is a file that holds a ring: one that an operator distributes, or one that a
// front keeps for its next start. Only its owner should be able to read it.
type File struct {
	path string
	poll time.Duration

	mu      sync.Mutex
	seen    []byte // what was there last; nil for nothing
	version uint64 // counts what was seen
}

// NewFile returns a file as a store. It is looked at as often as poll says, each
// second when 0.
func NewFile(path string, poll time.Duration) *File {
	if poll <= 0 {
		poll = time.Second
	}
	return &File{path: path, poll: poll}
}

// Get implements [Store].
func (f *File) Get(ctx context.Context, index uint64) (Entry, error) {
	for looks := time.Minute / f.poll; ; looks-- {
		e, err := f.look()
		if err != nil || e.Index != index || looks <= 0 {
			return e, err
		}
		if !sleep(ctx, f.poll) {
			return Entry{}, ctx.Err()
		}
	}
}

// look returns what is there.
func (f *File) look() (Entry, error) {
	data, err := f.read()
	if err != nil {
		return Entry{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.version == 0 || !bytes.Equal(data, f.seen) || (data == nil) != (f.seen == nil) {
		f.version++
		f.seen = data
	}
	e := Entry{Data: data, Index: f.version}
	if data != nil {
		e.Version = f.version
	}
	return e, nil
}

// read returns the file; nil when there is none.
func (f *File) read() ([]byte, error) {
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, MaxSize+1)) // Parse says what is wrong with more
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.path, err)
	}
	return append([]byte{}, data...), nil
}

// CAS implements [Store]. A new file is never written over one that came meanwhile.
// For one that is there the check is as good as files allow: when two processes
// share it and replace it at the same moment, the later one stays, and the other
// process learns of it long before it would have used what it wrote itself.
func (f *File) CAS(_ context.Context, data []byte, version uint64) (bool, error) {
	e, err := f.look()
	if err != nil || e.Version != version {
		return false, err
	}
	temporary, err := f.write(data)
	if err != nil {
		return false, err
	}
	defer os.Remove(temporary)
	if version == 0 {
		err = os.Link(temporary, f.path)
	} else {
		err = os.Rename(temporary, f.path)
	}
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// write writes a file beside ours and returns its name.
func (f *File) write(data []byte) (string, error) {
	file, err := os.CreateTemp(filepath.Dir(f.path), "."+filepath.Base(f.path)+"-*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Sync(), file.Close())
	if err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

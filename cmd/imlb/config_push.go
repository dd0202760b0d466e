package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"imlb/configs"
)

// writeFlags are those of commands that change something in Consul.
type writeFlags struct {
	Comment string `placeholder:"TEXT" help:"Why; others will read it beside your name."`
	DryRun  bool   `help:"Only say what would change."`
}

// configPushCmd is `imlb config push`.
type configPushCmd struct {
	kvFlags
	writeFlags
	Version uint64 `placeholder:"N" help:"The version that has to be in force now, as pull and history tell; by default the one that is."`
	File    string `arg:"" help:"The front's document."`
}

// Help is the long text of `imlb config push --help`.
func (configPushCmd) Help() string {
	return `Relative file names in the document are taken from the directory in which each front was started; that the files can be used is for each front
to find out. All else is checked before anything is written.`
}

// Run puts the document into force.
func (c *configPushCmd) Run(ctx context.Context) error {
	data, err := readDocument(c.File)
	if err != nil {
		return err
	}
	if _, err := c.parse(c.File, data); err != nil {
		return err
	}
	return c.replace(ctx, c.writeFlags, func(*configs.KV, configs.Document) (proposal, error) {
		return proposal{name: c.File, data: data, expected: c.Version}, nil
	})
}

// configRollbackCmd is `imlb config rollback`.
type configRollbackCmd struct {
	kvFlags
	writeFlags
	Version uint64 `arg:"" optional:"" help:"The version to go back to, as history tells; by default the one before, or the last one if the document was deleted."`
}

// Run puts an earlier document into force again, as a new version.
func (c *configRollbackCmd) Run(ctx context.Context) error {
	return c.replace(ctx, c.writeFlags, func(kv *configs.KV, current configs.Document) (proposal, error) {
		list, err := kv.History(ctx)
		if err != nil {
			return proposal{}, err
		}
		i := slices.IndexFunc(list, func(d configs.Document) bool {
			earlier := current.Version == 0 || d.Version < current.Version // all are, if the document was deleted
			return d.Version == c.Version || c.Version == 0 && earlier && c.good(d)
		})
		switch {
		case i < 0 && c.Version != 0:
			return proposal{}, fmt.Errorf("version %d is not in the history; \"imlb config history\" lists what is", c.Version)
		case i < 0:
			return proposal{}, errors.New("there is no earlier good document in the history")
		}
		d := list[i]
		return proposal{
			name: fmt.Sprintf("version %d", d.Version), data: d.Data, expected: current.Version,
			comment: fmt.Sprintf("rollback to version %d", d.Version),
		}, nil
	})
}

func (c *configRollbackCmd) good(d configs.Document) bool {
	_, err := c.parse("", d.Data)
	return err == nil
}

// proposal is a document that is to replace the one in force.
type proposal struct {
	name     string // for errors
	data     []byte
	expected uint64 // version that has to be in force; 0: the one that is
	comment  string // goes before the operator's own
}

// replace puts what propose returns in the place of the document in force, and
// tells what that changes.
func (f *kvFlags) replace(ctx context.Context, w writeFlags, propose func(*configs.KV, configs.Document) (proposal, error)) error {
	kv, ctx, cancel, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	current, err := kv.Document(ctx)
	if err != nil && !errors.Is(err, configs.ErrNoDocument) {
		return f.explain(err)
	}
	p, err := propose(kv, current)
	if err != nil {
		return f.explain(err)
	}
	if p.expected == 0 {
		p.expected = current.Version
	}
	if p.expected != current.Version {
		return f.explain(&configs.ConflictError{
			Key: kv.DocumentKey(), Expected: p.expected, Found: current.Version, Note: current.Note,
		})
	}
	result, err := f.compare(current, p)
	if err != nil {
		return err
	}
	if result.DryRun = w.DryRun; !w.DryRun && !bytes.Equal(current.Data, p.data) {
		if result.Version, err = kv.Push(ctx, p.data, p.expected, newNote(joinComments(p.comment, w.Comment))); err != nil {
			return f.explain(err)
		}
	}
	return result.print(f.JSON)
}

func joinComments(ours, theirs string) string {
	if ours == "" || theirs == "" {
		return ours + theirs
	}
	return ours + ": " + theirs
}

// pushResult is what a push does.
type pushResult struct {
	Before  uint64       `json:"before"`  // the version that was in force; 0: none
	Version uint64       `json:"version"` // the one that is now
	DryRun  bool         `json:"dry_run"`
	Changes []changeLine `json:"changes"`

	changes configs.Changes
}

// compare says what a proposal changes.
func (f *kvFlags) compare(current configs.Document, p proposal) (pushResult, error) {
	next, err := f.parse(p.name, p.data)
	if err != nil {
		return pushResult{}, err
	}
	r := pushResult{Before: current.Version, Version: current.Version, Changes: []changeLine{}}
	if current.Version == 0 {
		return r, nil
	}
	before, err := f.parse("the document in force", current.Data)
	if err != nil { // a good reason to push another
		fmt.Fprintf(os.Stderr, "The document in force is wrong, so that it cannot be compared:\n%v\n", err)
		return r, nil
	}
	r.changes = configs.Diff(before, next)
	r.Changes = listChanges(r.changes)
	return r, nil
}

func (r pushResult) print(asJSON bool) error {
	if asJSON {
		return printJSON(r)
	}
	if err := printChanges(r.changes); err != nil {
		return err
	}
	switch {
	case r.DryRun:
		return printLines("dry run: nothing was written")
	case r.Version == r.Before:
		return printLines(fmt.Sprintf("version %d is in force already", r.Version))
	}
	return printLines(fmt.Sprintf("version %d is in force", r.Version))
}

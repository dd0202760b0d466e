package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/goccy/go-yaml"

	"imlb/configs"
)

// configCmd is `imlb config`: the document that the fronts of a cluster share in
// Consul.
type configCmd struct {
	Check    configCheckCmd    `cmd:"" help:"Check a document and list everything that is wrong with it."`
	Show     configShowCmd     `cmd:"" help:"Print a document with all defaults written out."`
	Diff     configDiffCmd     `cmd:"" help:"Print what a document would change."`
	Push     configPushCmd     `cmd:"" help:"Put a document into force on all fronts of a cluster."`
	Pull     configPullCmd     `cmd:"" help:"Get the document that is in force, as it was pushed."`
	History  configHistoryCmd  `cmd:"" help:"List the last documents: version, time, author, comment."`
	Rollback configRollbackCmd `cmd:"" help:"Put an earlier document into force again."`
	Nodes    configNodesCmd    `cmd:"" help:"List what operators have said of nodes: drain, weight, disabled."`
}

// Help is the long text of `imlb config --help`.
func (configCmd) Help() string {
	return `The fronts of a cluster that run with "imlb proxy --consul" share one document, at imlb/CLUSTER/config in Consul's key-value store. They
follow it: a new one is validated as a whole by each front, put into force where it differs, and refused as a whole if anything is wrong.

    imlb config pull --output front.yaml
    imlb config diff front.yaml
    imlb config push front.yaml --comment "two more listeners"
    imlb config rollback

Nothing is overwritten unseen: a write fails when the document has changed since it was looked at.`
}

// configCheckCmd is `imlb config check`.
type configCheckCmd struct {
	File    string `arg:"" help:"The document to check."`
	As      string `enum:"auto,proxy,node" default:"auto" help:"What the document is for: proxy, node, or auto to tell by its keys. Default: ${default}."`
	NoFiles bool   `help:"Check the document alone, not whether the certificates and other files that it names can be used here."`
}

// Run checks the document.
func (c *configCheckCmd) Run() error {
	check := checkCmd{Config: c.File, As: c.As, NoFiles: c.NoFiles}
	return check.Run()
}

// configShowCmd is `imlb config show`.
type configShowCmd struct {
	kvFlags
	Version uint64 `placeholder:"N" help:"A document of the history instead of the one that is in force."`
	File    string `arg:"" optional:"" help:"A front's or node's document; without one, the document in Consul."`
}

// Run prints the document.
func (c *configShowCmd) Run(ctx context.Context) error {
	document, err := c.document(ctx)
	if err != nil {
		return err
	}
	text, err := document.YAML()
	if err != nil {
		return err
	}
	if c.JSON {
		if text, err = yaml.YAMLToJSON(text); err != nil {
			return fmt.Errorf("print as JSON: %w", err)
		}
	}
	_, err = os.Stdout.Write(text)
	return err
}

// document returns what is to be shown.
func (c *configShowCmd) document(ctx context.Context) (interface{ YAML() ([]byte, error) }, error) {
	if c.File == "" {
		return c.stored(ctx, c.Version)
	}
	if c.Version != 0 {
		return nil, errors.New("--version is for the document in Consul; leave out FILE or --version")
	}
	data, err := readDocument(c.File)
	if err != nil {
		return nil, err
	}
	kind, err := configs.Detect(c.File, data)
	if err != nil {
		return nil, err
	}
	if kind == configs.KindNode {
		return configs.ParseNode(c.File, data)
	}
	return configs.ParseProxy(c.File, data)
}

// configDiffCmd is `imlb config diff`.
type configDiffCmd struct {
	kvFlags
	Version uint64 `placeholder:"N" help:"Compare with a document of the history instead of the one that is in force."`
	File    string `arg:"" optional:"" help:"The document that may be pushed; without one, the document that is in force (give --version then)."`
}

// Run prints the differences.
func (c *configDiffCmd) Run(ctx context.Context) error {
	if c.File == "" && c.Version == 0 {
		return errors.New("there is nothing to compare: give FILE, or --version N, or both")
	}
	from, err := c.stored(ctx, c.Version)
	if err != nil {
		return err
	}
	to, err := c.other(ctx)
	if err != nil {
		return err
	}
	changes := configs.Diff(from, to)
	if c.JSON {
		return printJSON(map[string]any{"changes": listChanges(changes)})
	}
	if len(changes) == 0 {
		return printLines("no difference")
	}
	return printChanges(changes)
}

func (c *configDiffCmd) other(ctx context.Context) (configs.Proxy, error) {
	if c.File == "" {
		return c.stored(ctx, 0)
	}
	data, err := readDocument(c.File)
	if err != nil {
		return configs.Proxy{}, err
	}
	return c.parse(c.File, data)
}

// configPullCmd is `imlb config pull`.
type configPullCmd struct {
	kvFlags
	Version uint64 `placeholder:"N" help:"A document of the history instead of the one that is in force."`
	Output  string `short:"o" placeholder:"FILE" type:"path" help:"Where to write the document; by default to standard output."`
}

// Run writes the document, and tells on standard error which it is.
func (c *configPullCmd) Run(ctx context.Context) error {
	if c.JSON && c.Output != "" {
		return errors.New("--output has the document as it was pushed; leave out --json, or --output for JSON on standard output")
	}
	d, err := c.fetch(ctx, c.Version)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(struct {
			versionLine
			Document string `json:"document"`
		}{lineOf(d), string(d.Data)})
	}
	if c.Output == "" {
		if _, err := os.Stdout.Write(d.Data); err != nil {
			return err
		}
	} else if err := os.WriteFile(c.Output, d.Data, 0o600); err != nil {
		return fmt.Errorf("write the document: %w", err)
	}
	fmt.Fprintf(os.Stderr, "This is version %d%s. To be sure that nobody else's change is lost, push with --version %[1]d.\n", d.Version, signature(d.Note))
	return nil
}

// configHistoryCmd is `imlb config history`.
type configHistoryCmd struct{ kvFlags }

// Run lists the documents, the newest first.
func (c *configHistoryCmd) Run(ctx context.Context) error {
	kv, ctx, cancel, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	list, err := kv.History(ctx)
	if err != nil {
		return c.explain(err)
	}
	current, err := kv.Document(ctx)
	if err != nil && !errors.Is(err, configs.ErrNoDocument) {
		return c.explain(err)
	}
	return printHistory(list, current.Version, c.JSON)
}

// configNodesCmd is `imlb config nodes`.
type configNodesCmd struct{ kvFlags }

// Run lists what is said of nodes.
func (c *configNodesCmd) Run(ctx context.Context) error {
	kv, ctx, cancel, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	overrides, wrong, err := kv.Overrides(ctx)
	if err != nil {
		return c.explain(err)
	}
	if err := printOverrides(overrides, c.JSON); err != nil {
		return err
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

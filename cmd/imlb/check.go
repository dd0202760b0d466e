package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"imlb/configs"
)

// checkCmd is `imlb check`.
type checkCmd struct {
	Config  string `required:"" placeholder:"FILE" help:"The document to check."`
	As      string `enum:"auto,proxy,node" default:"auto" help:"What the document is for: proxy, node, or auto to tell by its keys. Default: ${default}."`
	NoFiles bool   `help:"Check the document alone, not whether the certificates and other files that it names can be used here."`
}

// Help is the long text of `imlb check --help`.
func (checkCmd) Help() string {
	return `Reads the document as "imlb proxy" or "imlb node" would and prints everything that is wrong with it, one error on a line:

    proxy.yaml:12:5: listeners[1].adress: unknown key; did you mean "address"?

The exit status is 0 when the document is right and 1 when it is not.`
}

// Run checks the document.
func (c *checkCmd) Run() error {
	data, err := os.ReadFile(c.Config) //nolint:gosec // the operator names the file
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	kind, err := c.kind(data)
	if err != nil {
		return err
	}
	summary, err := c.summary(kind, data)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "%s: OK: %s\n", c.Config, summary)
	return err
}

func (c *checkCmd) kind(data []byte) (configs.Kind, error) {
	switch c.As {
	case "proxy":
		return configs.KindProxy, nil
	case "node":
		return configs.KindNode, nil
	}
	return configs.Detect(c.Config, data)
}

// summary checks the document and says in a few words what it describes.
func (c *checkCmd) summary(kind configs.Kind, data []byte) (string, error) {
	if kind == configs.KindNode {
		n, err := c.node(data)
		return fmt.Sprintf("node %s for %s", n.Name, n.Domain), err
	}
	p, err := c.proxy(data)
	front := "front"
	if len(p.Domains) > 0 {
		front += " for " + strings.Join(p.Domains, ", ")
	}
	return fmt.Sprintf("%s: listeners %s; pools %s", front,
		strings.Join(listenerNames(p), ", "), strings.Join(slices.Sorted(maps.Keys(p.Pools)), ", ")), err
}

// listenerNames names the listeners, with their protocols where the names do not.
func listenerNames(p configs.Proxy) []string {
	names := make([]string, len(p.Listeners))
	for i, l := range p.Listeners {
		names[i] = l.Name
		if l.Name != string(l.Protocol) {
			names[i] += fmt.Sprintf(" (%s)", l.Protocol)
		}
	}
	return names
}

func (c *checkCmd) proxy(data []byte) (configs.Proxy, error) {
	if c.NoFiles {
		return configs.ParseProxy(c.Config, data)
	}
	return configs.LoadProxy(c.Config)
}

func (c *checkCmd) node(data []byte) (configs.Node, error) {
	if c.NoFiles {
		return configs.ParseNode(c.Config, data)
	}
	return configs.LoadNode(c.Config)
}

package configs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// maxErrors is how many errors are told at most; nobody reads more at once.
const maxErrors = 50

// LoadProxy reads a front's document from a file. Relative file names in it are
// taken from the directory that it is in, and the files that it names have to be
// usable. The error is an Errors when the document was read.
func LoadProxy(path string) (Proxy, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return Proxy{}, fmt.Errorf("read configuration: %w", err)
	}
	return parseProxy(path, data, Local{Dir: filepath.Dir(path)})
}

// ParseProxy reads a front's document. The name is used in errors. No file is
// touched, and file names stay as they are. The error is an Errors.
func ParseProxy(name string, data []byte) (Proxy, error) {
	return parseProxy(name, data, Local{})
}

func parseProxy(name string, data []byte, local Local) (Proxy, error) {
	var p Proxy
	d := decode(name, local.Dir, data, &p)
	if d.understood {
		p.adopt(d, local)
		p.complete(local)
		p.check(d)
	}
	if d.understood && local.Dir != "" {
		p.checkFiles(d)
	}
	if err := d.result(); err != nil {
		return Proxy{}, err
	}
	return p, nil
}

// LoadNode reads a node's document from a file, as LoadProxy does.
func LoadNode(path string) (Node, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return Node{}, fmt.Errorf("read configuration: %w", err)
	}
	return parseNode(path, filepath.Dir(path), data)
}

// ParseNode reads a node's document, as ParseProxy does.
func ParseNode(name string, data []byte) (Node, error) {
	return parseNode(name, "", data)
}

func parseNode(name, dir string, data []byte) (Node, error) {
	var n Node
	d := decode(name, dir, data, &n)
	if d.understood {
		n.complete()
		n.check(d)
	}
	if d.understood && dir != "" {
		n.checkFiles(d)
	}
	if err := d.result(); err != nil {
		return Node{}, err
	}
	return n, nil
}

// Kind tells the two documents apart.
type Kind uint8

// The kinds of documents.
const (
	KindProxy Kind = 1 + iota // a front's
	KindNode                  // a chat node's
)

// String returns the name of the command that runs from such a document.
func (k Kind) String() string {
	if k == KindNode {
		return "node"
	}
	return "proxy"
}

// Detect tells from the first level of keys whose document it is. The error is
// an Errors.
func Detect(name string, data []byte) (Kind, error) {
	d := newDecoder(name, "")
	body := d.parse(data)
	if body == nil {
		return 0, d.result()
	}
	var proxy, node int
	pairs, ok := d.pairs(body, "")
	for _, p := range pairs {
		_, inProxy := find(proxyFields, p.key)
		_, inNode := find(nodeFields, p.key)
		switch {
		case inProxy && !inNode:
			proxy++
		case inNode && !inProxy:
			node++
		}
	}
	switch {
	case proxy > node:
		return KindProxy, nil
	case node > proxy:
		return KindNode, nil
	case ok:
		d.fail(placeOf(body), "", "this is neither the document of a front (it would have listeners and pools) nor of a node (it would have name, domain and database)")
	}
	return 0, d.result()
}

// result returns what went wrong, in order, or nil.
func (d *decoder) result() error {
	if len(d.errs) == 0 {
		return nil
	}
	d.errs.sort()
	if more := len(d.errs) - maxErrors; more > 0 {
		d.errs = slices.Clip(d.errs[:maxErrors])
		d.fail(place{}, "", "and %d more errors", more)
	}
	return d.errs
}

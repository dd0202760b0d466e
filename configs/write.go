package configs

import (
	"fmt"

	"github.com/goccy/go-yaml"
)

// YAML writes the document out with every default. ParseProxy reads it back to
// an equal value.
func (p Proxy) YAML() ([]byte, error) { return write(p) }

// YAML writes the document out with every default. ParseNode reads it back to an
// equal value.
func (n Node) YAML() ([]byte, error) { return write(n) }

func write(document any) ([]byte, error) {
	out, err := yaml.MarshalWithOptions(document, yaml.Indent(2), yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return out, nil
}

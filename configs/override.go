package configs

import (
	"fmt"
	"strings"
	"time"
)

// Override is what an operator says of a node. It goes before what Consul, the
// node and the front's own checks say.
type Override struct {
	// Drain gives the node no new users; those who are there stay until they leave
	// or are moved.
	Drain bool `yaml:"drain,omitempty"`
	// Disabled takes the node out of service as if it were down.
	Disabled bool `yaml:"disabled,omitempty"`
	// Weight replaces the node's weight; 0: it keeps its own.
	Weight float64 `yaml:"weight,omitempty" min:"0" max:"1000"`
	// By, At and Comment say who set it, when (RFC 3339), and why.
	By      string `yaml:"by,omitempty"`
	At      string `yaml:"at,omitempty"`
	Comment string `yaml:"comment,omitempty"`
}

// ParseOverride reads the override of a node. The name is used in errors. The
// error is an Errors.
func ParseOverride(name string, data []byte) (Override, error) {
	var o Override
	d := decode(name, "", data, &o)
	if d.understood && o.Weight != 0 && o.Weight < minWeight {
		d.refuse("weight", "%v is too small; the least is %v", o.Weight, minWeight)
	}
	if err := d.result(); err != nil {
		return Override{}, err
	}
	return o, nil
}

// minWeight is the least weight that a node can have; to have none it is drained.
const minWeight = 0.001

// YAML writes the override. ParseOverride reads it back.
func (o Override) YAML() ([]byte, error) { return write(o) }

// Empty reports whether the override changes nothing about the node.
func (o Override) Empty() bool { return !o.Drain && !o.Disabled && o.Weight == 0 }

// Signed returns the override with who set it, when, and why.
func (o Override) Signed(n Note) Override {
	o.By, o.At, o.Comment = n.By, n.At.UTC().Format(time.RFC3339), n.Comment
	return o
}

// String says in a few words what the override does.
func (o Override) String() string {
	var words []string
	if o.Disabled {
		words = append(words, "disabled")
	}
	if o.Drain {
		words = append(words, "drain")
	}
	if o.Weight != 0 {
		words = append(words, fmt.Sprintf("weight %v", o.Weight))
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

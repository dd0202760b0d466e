package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"imlb/balancer"
)

// placeCmd is `imlb place`.
type placeCmd struct {
	Members string  `required:"" placeholder:"FILE" help:"The nodes, one on a line: NAME [WEIGHT [ZONE]]."`
	Epsilon float64 `default:"0.25" help:"How much more than its share a node may carry, as placement.epsilon. Default: ${default}."`
	Zone    string  `placeholder:"ZONE" help:"Where the front stands, as placement.zone: nodes of that zone come first."`
}

// Help is the long text of `imlb place --help`.
func (placeCmd) Help() string {
	return `Reads users from standard input, one on a line, as the log of a front names them (alice@example.com), and prints each with the node that it
lives on, separated by a tab: the placement while there is no load. It is the same for all fronts that know the same nodes, in whatever order they know them.

In FILE, empty lines and what follows a # do not count.

    printf 'node-1\nnode-2 2\nnode-3 1 zone-b\n' >members
    echo alice@example.com | imlb place --members members`
}

// Run places the users of standard input.
func (c *placeCmd) Run(ctx context.Context) error {
	if !(c.Epsilon > 0) || math.IsInf(c.Epsilon, 0) {
		return fmt.Errorf("--epsilon %v: it has to be more than 0", c.Epsilon)
	}
	members, err := readMembers(c.Members)
	if err != nil {
		return err
	}
	table := balancer.BuildTable(nearest(members, c.Zone), c.Epsilon)
	return place(ctx, table, os.Stdin, os.Stdout)
}

// nearest returns the members of a zone if there are any, else all.
func nearest(members []balancer.Member, zone string) []balancer.Member {
	var near []balancer.Member
	for _, m := range members {
		if zone != "" && m.Zone == zone {
			near = append(near, m)
		}
	}
	if len(near) == 0 {
		return members
	}
	return near
}

// place prints the node of each user until the input ends.
func place(ctx context.Context, table *balancer.Table, in io.Reader, out io.Writer) error {
	const buffer = 64 << 10
	users, placed := bufio.NewScanner(in), bufio.NewWriterSize(out, buffer)
	for line := 1; users.Scan(); line++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		user := strings.TrimSpace(users.Text())
		if user == "" {
			continue
		}
		if strings.ContainsAny(user, "\t ") {
			return fmt.Errorf("standard input, line %d: %q is not one user", line, user)
		}
		placed.WriteString(user)
		placed.WriteByte('\t')
		placed.WriteString(table.Lookup(user))
		if err := placed.WriteByte('\n'); err != nil {
			return fmt.Errorf("print the placement: %w", err)
		}
	}
	if err := users.Err(); err != nil {
		return fmt.Errorf("read users: %w", err)
	}
	return placed.Flush()
}

// readMembers reads a list of nodes. The error tells of all lines that are wrong.
func readMembers(file string) ([]balancer.Member, error) {
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read members: %w", err)
	}
	defer f.Close()
	var members []balancer.Member
	var wrong []error
	seen := map[string]int{}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(text)
		if len(words) == 0 {
			continue
		}
		m, err := readMember(words)
		if first, ok := seen[m.Name]; ok && err == nil {
			err = fmt.Errorf("%s is in line %d already", m.Name, first)
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s:%d: %w", file, n, err))
			continue
		}
		seen[m.Name] = n
		members = append(members, m)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read members: %w", err)
	}
	if len(members) == 0 && len(wrong) == 0 {
		return nil, fmt.Errorf("%s: there are no members in it", file)
	}
	return members, errors.Join(wrong...)
}

func readMember(words []string) (balancer.Member, error) {
	m := balancer.Member{Name: words[0], Weight: 1}
	if len(words) > 3 {
		return m, fmt.Errorf("a line has at most NAME WEIGHT ZONE, this one has %d words", len(words))
	}
	if len(words) > 1 {
		weight, err := strconv.ParseFloat(words[1], 64)
		if err != nil || !(weight > 0) || weight > maxMemberWeight {
			return m, fmt.Errorf("%q is not a weight; write a number above 0, at most %d", words[1], maxMemberWeight)
		}
		m.Weight = weight
	}
	if len(words) > 2 {
		m.Zone = words[2]
	}
	return m, nil
}

// maxMemberWeight is the greatest weight that counts in full.
const maxMemberWeight = 65536

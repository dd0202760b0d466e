package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"imlb/configs"
)

// overrideFlags are those of the commands that say something of a node.
type overrideFlags struct {
	kvFlags
	writeFlags
	Node string `arg:"" help:"The node's name."`
}

const overrideHelp = `It is written to imlb/CLUSTER/nodes/NODE in Consul's key-value store, which the fronts follow, and holds until it is taken back, also over
restarts of the node and of the fronts. "imlb config nodes" lists what holds. A node that is not known yet may be named; a hint says so.`

// drainCmd is `imlb drain`.
type drainCmd struct{ overrideFlags }

// Help is the long text of `imlb drain --help`.
func (drainCmd) Help() string {
	return "The node gets no new users; those who are there stay. " + overrideHelp
}

// Run drains the node.
func (c *drainCmd) Run(ctx context.Context) error {
	return c.change(ctx, func(o *configs.Override) { o.Drain = true })
}

// undrainCmd is `imlb undrain`.
type undrainCmd struct{ overrideFlags }

// Run lets the node have new users again.
func (c *undrainCmd) Run(ctx context.Context) error {
	return c.change(ctx, func(o *configs.Override) { o.Drain = false })
}

// disableCmd is `imlb disable`.
type disableCmd struct{ overrideFlags }

// Help is the long text of `imlb disable --help`.
func (disableCmd) Help() string {
	return "The node is treated as if it were down, whatever its checks say. " + overrideHelp
}

// Run takes the node out of service.
func (c *disableCmd) Run(ctx context.Context) error {
	return c.change(ctx, func(o *configs.Override) { o.Disabled = true })
}

// enableCmd is `imlb enable`.
type enableCmd struct{ overrideFlags }

// Run takes `imlb disable` back.
func (c *enableCmd) Run(ctx context.Context) error {
	return c.change(ctx, func(o *configs.Override) { o.Disabled = false })
}

// weightCmd is `imlb weight`.
type weightCmd struct {
	overrideFlags
	Weight float64 `arg:"" help:"The node's share compared with others'; 0 gives it its own weight back."`
}

// Help is the long text of `imlb weight --help`.
func (weightCmd) Help() string { return overrideHelp }

// Run sets the node's weight.
func (c *weightCmd) Run(ctx context.Context) error {
	if c.Weight != 0 && !(c.Weight >= 0.001 && c.Weight <= 1000) {
		return fmt.Errorf("weight %v: it has to be from 0.001 to 1000, or 0 for the node's own", c.Weight)
	}
	return c.change(ctx, func(o *configs.Override) { o.Weight = c.Weight })
}

// change edits what is said of the node. When somebody else is faster it is done
// again on top of that, for commands that say different things do not contradict
// each other.
func (f *overrideFlags) change(ctx context.Context, edit func(*configs.Override)) error {
	kv, ctx, cancel, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	const attempts = 5
	for range attempts {
		var result overrideResult
		result, err = f.try(ctx, kv, edit)
		if err == nil {
			f.hint(ctx, kv, result)
			return result.print(f.JSON)
		}
		if _, conflict := errors.AsType[*configs.ConflictError](err); !conflict {
			return err
		}
	}
	return err
}

func (f *overrideFlags) try(ctx context.Context, kv *configs.KV, edit func(*configs.Override)) (overrideResult, error) {
	stored, err := kv.Override(ctx, f.Node)
	if wrong, ok := errors.AsType[configs.Errors](err); ok {
		fmt.Fprintf(os.Stderr, "What was there is wrong, and is replaced:\n%v\n", wrong)
	} else if err != nil {
		return overrideResult{}, err
	}
	next := stored.Override
	edit(&next)
	r := overrideResult{Node: f.Node, Before: stored.Override.String(), After: next.String(), DryRun: f.DryRun}
	r.Changed = r.Before != r.After || err != nil
	if !r.Changed || f.DryRun {
		return r, nil
	}
	return r, kv.SetOverride(ctx, f.Node, next.Signed(newNote(f.Comment)), stored.Version)
}

// overrideResult is what a command did to a node.
type overrideResult struct {
	Node    string `json:"node"`
	Before  string `json:"before"`
	After   string `json:"after"`
	Changed bool   `json:"changed"`
	DryRun  bool   `json:"dry_run"`
}

func (r overrideResult) print(asJSON bool) error {
	if asJSON {
		return printJSON(r)
	}
	text := fmt.Sprintf("%s: %s → %s", r.Node, r.Before, r.After)
	if !r.Changed {
		text = fmt.Sprintf("%s: %s, as before", r.Node, r.After)
	}
	if r.DryRun {
		text += " (dry run: nothing was written)"
	}
	return printLines(text)
}

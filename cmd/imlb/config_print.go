package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"imlb/configs"
)

// changeLine is a change in JSON.
type changeLine struct {
	Path string `json:"path"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

func listChanges(changes configs.Changes) []changeLine {
	lines := make([]changeLine, len(changes))
	for i, c := range changes {
		lines[i] = changeLine{Path: c.Path(), Old: c.Old, New: c.New}
	}
	return lines
}

func printChanges(changes configs.Changes) error {
	lines := make([]string, len(changes))
	for i, c := range changes {
		lines[i] = c.String()
	}
	return printLines(lines...)
}

func printLines(lines ...string) error {
	for _, line := range lines {
		if _, err := fmt.Fprintln(os.Stdout, line); err != nil {
			return err
		}
	}
	return nil
}

func printJSON(v any) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// printTable aligns rows of cells under their heads.
func printTable(rows [][]string) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = cmp.Or(cell, "-")
		}
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	return table.Flush()
}

// versionLine describes a version of the document in JSON.
type versionLine struct {
	Version uint64 `json:"version"`
	At      string `json:"at,omitempty"`
	By      string `json:"by,omitempty"`
	Comment string `json:"comment,omitempty"`
	InForce bool   `json:"in_force"`
}

func lineOf(d configs.Document) versionLine {
	line := versionLine{Version: d.Version, By: d.Note.By, Comment: d.Note.Comment}
	if !d.Note.At.IsZero() {
		line.At = d.Note.At.UTC().Format(time.RFC3339)
	}
	return line
}

// signature says who wrote a document and why, if that is known.
func signature(n configs.Note) string {
	if n.By == "" {
		return ""
	}
	text := ", by " + n.By + " at " + n.At.UTC().Format(time.RFC3339)
	if n.Comment != "" {
		text += " (" + n.Comment + ")"
	}
	return text
}

func printHistory(list []configs.Document, current uint64, asJSON bool) error {
	lines := make([]versionLine, len(list))
	rows := [][]string{{"VERSION", "IN FORCE", "TIME", "BY", "COMMENT"}}
	for i, d := range list {
		lines[i] = lineOf(d)
		lines[i].InForce = d.Version == current
		mark := ""
		if lines[i].InForce {
			mark = "yes"
		}
		rows = append(rows, []string{fmt.Sprint(d.Version), mark, lines[i].At, d.Note.By, d.Note.Comment})
	}
	if asJSON {
		return printJSON(map[string]any{"history": lines})
	}
	return printTable(rows)
}

// overrideLine describes an override in JSON.
type overrideLine struct {
	Node     string  `json:"node"`
	Drain    bool    `json:"drain"`
	Disabled bool    `json:"disabled"`
	Weight   float64 `json:"weight,omitempty"`
	By       string  `json:"by,omitempty"`
	At       string  `json:"at,omitempty"`
	Comment  string  `json:"comment,omitempty"`
}

func lineOfOverride(node string, o configs.Override) overrideLine {
	return overrideLine{
		Node: node, Drain: o.Drain, Disabled: o.Disabled, Weight: o.Weight, By: o.By, At: o.At, Comment: o.Comment,
	}
}

func printOverrides(overrides map[string]configs.StoredOverride, asJSON bool) error {
	lines := make([]overrideLine, 0, len(overrides))
	rows := [][]string{{"NODE", "OVERRIDE", "TIME", "BY", "COMMENT"}}
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		o := overrides[name].Override
		lines = append(lines, lineOfOverride(name, o))
		rows = append(rows, []string{name, o.String(), o.At, o.By, o.Comment})
	}
	if asJSON {
		return printJSON(map[string]any{"nodes": lines})
	}
	return printTable(rows)
}

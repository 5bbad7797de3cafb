// Package command is what an operator types to a site: the verbs of roost that talk to its API, and the way every verb of
// roost takes arguments and prints tables.
//
// A verb parses its flags, calls the client, and prints. What a request means is decided by the site.
package command

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// UsageError is a wrong command line.
type UsageError struct {
	Command *cobra.Command
	Err     error
}

func (e *UsageError) Error() string { return e.Command.CommandPath() + ": " + e.Err.Error() }

// Noun makes a command that only holds verbs.
func Noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(verbs...)
	return c
}

// Exact demands the arguments that the usage line names.
func Exact(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return &UsageError{c, fmt.Errorf("want %s", c.UseLine())}
		}
		return nil
	}
}

// Table is what a listing verb prints: rows for people, value for programs.
type Table struct {
	Head  []string
	Rows  [][]string
	Value any
}

// OutputFlag adds -o to a verb that prints a table.
func OutputFlag(c *cobra.Command) *string {
	return c.Flags().StringP("output", "o", "table", "output format: table, json or yaml")
}

// Print writes the table in one of the formats of [OutputFlag].
func (t Table) Print(w io.Writer, format string) error {
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(t.Value)
	case "yaml":
		return printYAML(w, t.Value)
	case "table":
		tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprintln(tw, strings.Join(t.Head, "\t"))
		for _, r := range t.Rows {
			fmt.Fprintln(tw, strings.Join(r, "\t"))
		}
		return tw.Flush()
	}
	return fmt.Errorf("cannot print as %q: want table, json or yaml", format)
}

// printYAML prints what JSON would hold, so that both forms have the same names.
func printYAML(w io.Writer, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(b, &node); err != nil {
		return err
	}
	plainStyle(&node)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	return enc.Encode(&node)
}

func plainStyle(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle | yaml.DoubleQuotedStyle
	for _, c := range n.Content {
		plainStyle(c)
	}
}

package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"roost/appliance/api"
)

// hostConfigCommand shows and changes what a host is to be.
func hostConfigCommand() *cobra.Command {
	var file string
	config := &cobra.Command{
		Use:   "config HOST",
		Short: "Show the configuration of a host, or give it another",
		Long: "Show the configuration that a host is to have, as YAML; or, with --file, give it another, which it takes up within seconds.\n" +
			"The whole of it is replaced. A file made from a configuration that was changed meanwhile is refused (revision).",
		Example: "  roost host config controller-0 > config.yaml\n  roost host config controller-0 --file config.yaml",
		Args:    Exact(1),
	}
	config.Flags().StringVar(&file, "file", "", "YAML or JSON with the new configuration; - for standard input")
	format := OutputFlag(config)
	config.RunE = func(c *cobra.Command, args []string) error {
		site, err := connect(c)
		if err != nil {
			return err
		}
		defer site.Close()
		var out *api.Config
		if file == "" {
			out, err = site.Config(c.Context(), args[0])
		} else {
			var want *api.Config
			if want, err = readConfig(file, c.InOrStdin()); err != nil {
				return err
			}
			out, err = site.Configure(c.Context(), args[0], want)
		}
		if err != nil {
			return err
		}
		if *format == "table" { // a configuration is no table
			*format = "yaml"
		}
		return Table{Value: out}.Print(c.OutOrStdout(), *format)
	}
	return config
}

// readConfig reads a configuration. Unknown fields are errors: what is misspelt must not pass as absent.
func readConfig(file string, stdin io.Reader) (*api.Config, error) {
	read := func() ([]byte, error) { return os.ReadFile(file) }
	if file == "-" {
		read = func() ([]byte, error) { return io.ReadAll(stdin) }
	}
	text, err := read()
	if err != nil {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	b, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	out := &api.Config{}
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(out); err != nil {
		return nil, fmt.Errorf("cannot read configuration: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return out, nil
}

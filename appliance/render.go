package appliance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"roost/appliance/api"
	"roost/appliance/config"
)

// Render writes the generated part of /etc from the last committed configuration below root, which is / on a machine. A
// machine without one, or with one that cannot be used, gets the configuration of a machine in discovery: addresses by DHCP,
// so that it can be reached and repaired.
func Render(root string, log *slog.Logger) error {
	c, err := readConfig(filepath.Join(root, stateDir, configFile))
	if err != nil {
		log.Error("the committed configuration cannot be used; asking for addresses by DHCP", "error", err)
		c = &api.Config{}
	}
	return writeConfig(root, c)
}

func readConfig(path string) (*api.Config, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &api.Config{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	c := &api.Config{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	return c, config.Validate(c)
}

// writeConfig writes files in place: /etc is volatile, a cut write is repeated at the next boot.
func writeConfig(root string, c *api.Config) error {
	if err := config.Validate(c); err != nil {
		return err
	}
	for _, file := range config.Render(c) {
		path := filepath.Join(root, file.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("cannot write /%s: %w", file.Path, err)
		}
		if err := os.WriteFile(path, []byte(file.Text), fs.FileMode(file.Mode)); err != nil {
			return fmt.Errorf("cannot write /%s: %w", file.Path, err)
		}
	}
	return nil
}

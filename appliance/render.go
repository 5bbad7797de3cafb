package appliance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"roost/appliance/api"
	"roost/appliance/config"
	"roost/appliance/linux"
	"roost/images"
)

// Render writes the generated part of the machine's /etc from the last committed configuration, and has systemd, which read
// its units before, take in what of it is theirs. A machine without a configuration, or with one that cannot be used, gets
// that of a machine in discovery: addresses by DHCP, so that it can be reached and repaired.
func Render(ctx context.Context, log *slog.Logger) error {
	c, err := render("/", log)
	if c.Processors.Platform != "" {
		err = errors.Join(err, linux.Machine{}.ReloadUnits(ctx))
	}
	return err
}

// render writes the files below root, and returns the configuration that they are of.
func render(root string, log *slog.Logger) (*api.Config, error) {
	c, err := readConfig(filepath.Join(root, stateDir, configFile))
	if err != nil {
		log.Error("the committed configuration cannot be used; asking for addresses by DHCP", "error", err)
		c = &api.Config{}
	}
	return c, errors.Join(writeConfig(root, c), writeTemplates(root, c, log))
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

// writeConfig replaces files: some of the image, and those that the initrd wrote, cannot be written to. /etc is volatile, so a
// cut write is repeated at the next boot.
func writeConfig(root string, c *api.Config) error {
	if err := config.Validate(c); err != nil {
		return err
	}
	for _, file := range config.Render(c) {
		path := filepath.Join(root, file.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("cannot write /%s: %w", file.Path, err)
		}
		err := os.WriteFile(path+".new", []byte(file.Text), fs.FileMode(file.Mode))
		if err == nil {
			err = os.Rename(path+".new", path)
		}
		if err != nil {
			return fmt.Errorf("cannot write /%s: %w", file.Path, err)
		}
	}
	return nil
}

// writeTemplates writes the files that components of the image declare with values of the machine in them. One whose
// values this machine does not have yet is left out and said: what needs it will not start, all else does.
func writeTemplates(root string, c *api.Config, log *slog.Logger) error {
	values := map[string]string{"hostname": cmp.Or(c.Hostname, "roost")}
	if b, err := os.ReadFile(filepath.Join(root, identityDir, "host-id")); err == nil {
		values["id"] = strings.TrimSpace(string(b))
	}
	for _, i := range c.Interfaces {
		if len(i.Addresses) > 0 && values["address"] == "" {
			values["address"], _, _ = strings.Cut(i.Addresses[0], "/")
		}
	}
	dir := filepath.Join(root, images.TemplatesPath)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		target := strings.TrimPrefix(path, dir)
		if err := writeTemplate(path, filepath.Join(root, target), values); err != nil {
			log.Error("a file of the image is not written", "file", target, "error", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot read templates: %w", err)
	}
	return nil
}

// writeTemplate writes one file with the owner and mode that its template has.
func writeTemplate(from, to string, values map[string]string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	template, err := images.ParseTemplate(string(text))
	if err != nil {
		return err
	}
	filled, err := template.Expand(values)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(to, []byte(filled), info.Mode().Perm()); err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("the file system tells no owner")
	}
	return errors.Join(os.Chmod(to, info.Mode().Perm()), os.Chown(to, int(owner.Uid), int(owner.Gid)))
}

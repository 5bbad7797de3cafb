package client

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Context is one site as an operator's machine knows it: where its controller is, how to know it, and the operator's
// own certificate. It is kept as JSON in a file readable by its owner only, in the user's configuration directory.
type Context struct {
	Site        string `json:"site"`
	URL         string `json:"url"`
	Root        string `json:"root"`        // PEM
	Certificate string `json:"certificate"` // PEM
	Key         string `json:"key"`         // PEM
}

// ContextPath returns the file of the named site's context: a name is looked up under roost/ in the user's configuration
// directory; anything with a slash is a path. The empty name means $ROOST_SITE, else the only site there is.
func ContextPath(name string) (string, error) {
	if name == "" {
		name = os.Getenv("ROOST_SITE")
	}
	if strings.Contains(name, "/") {
		return name, nil
	}
	directory, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("cannot find site: %w", err)
	}
	if name != "" {
		return filepath.Join(directory, "roost", name+".json"), nil
	}
	found, err := filepath.Glob(filepath.Join(directory, "roost", "*.json"))
	switch {
	case err != nil:
		return "", fmt.Errorf("cannot find site: %w", err)
	case len(found) == 0:
		return "", errors.New("cannot find site: none is known here; make one with roost site init, or name a context file with --site or ROOST_SITE")
	case len(found) > 1:
		return "", fmt.Errorf("cannot choose site: %d are known here; name one with --site or ROOST_SITE", len(found))
	}
	return found[0], nil
}

// Open reads the named context (see [ContextPath]) and makes a client of it.
func Open(name string) (*Client, error) {
	path, err := ContextPath(name)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot open site: no context file %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open site: %w", err)
	}
	var c Context
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("cannot read context file %s: %w", path, err)
	}
	return c.Client()
}

// Client makes a client of the context.
func (c *Context) Client() (*Client, error) {
	pair, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key))
	if err != nil {
		return nil, fmt.Errorf("cannot use operator certificate of site %s: %w", c.Site, err)
	}
	own := func() (*tls.Certificate, error) { return &pair, nil }
	return New(Config{URL: c.URL, Root: []byte(c.Root), Certificate: own})
}

// Save writes the context to the file path, readable by its owner only.
func (c *Context) Save(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot save site: %w", err)
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot save site: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot save site: %w", err)
	}
	return nil
}

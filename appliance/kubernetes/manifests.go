package kubernetes

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed manifests/*.yaml
var manifests embed.FS

// Users and groups of ours in the cluster; manifests/access.yaml says what they may do.
const (
	userServer  = "roost:apiserver"
	userPolicy  = "roost:policy"
	userVolumes = "roost:volumes"
)

func groupOf(role string) string { return "roost:" + role }

// addons returns the objects that every cluster of ours has: rights of our users, and the name server; and, where pods have
// volumes on Ceph, the class of those.
func addons(dns, domain, image string, upstream []string, volumes bool) ([]object, error) {
	forward := ""
	if len(upstream) > 0 {
		forward = "forward . " + strings.Join(upstream, " ")
	}
	names, err := fs.Glob(manifests, "manifests/*.yaml")
	if err != nil {
		return nil, err
	}
	// The values are addresses, a checked domain and the name of an image of ours: none can be anything else in YAML.
	values := strings.NewReplacer("{{dns}}", dns, "{{domain}}", domain, "{{coredns}}", image, "{{forward}}", forward, "{{pool}}", volumesPool)
	var out []object
	for _, name := range names {
		if name == "manifests/volumes.yaml" && !volumes {
			continue
		}
		text, err := fs.ReadFile(manifests, name)
		if err != nil {
			return nil, err
		}
		decoder := yaml.NewDecoder(bytes.NewReader([]byte(values.Replace(string(text)))))
		for {
			o := object{}
			err := decoder.Decode(&o)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("cannot read %s: %w", name, err)
			}
			out = append(out, o)
		}
	}
	return out, nil
}

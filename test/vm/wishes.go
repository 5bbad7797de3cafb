package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"roost/appliance/api"
)

// changeConfig changes the one host's configuration as an operator does.
func (j *Journey) changeConfig(ctx context.Context, change func(*api.Config)) error {
	config := &api.Config{}
	if err := j.query(ctx, config, "host", "config", "controller-0"); err != nil {
		return err
	}
	change(config)
	b, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := os.WriteFile(j.path("config.json"), b, 0o600); err != nil {
		return err
	}
	return j.query(ctx, config, "host", "config", "controller-0", "--file", j.path("config.json"))
}

// wishOpenStack changes what the site document wants in the cloud, in the form that people write, and waits until it is so.
func (j *Journey) wishOpenStack(ctx context.Context, text string) error {
	start := time.Now()
	wish := &api.OpenStack{}
	if err := json.Unmarshal([]byte(text), wish); err != nil {
		return err
	}
	if err := j.changeConfig(ctx, func(c *api.Config) { c.OpenStack = wish }); err != nil {
		return err
	}
	_, err := j.awaitHost(ctx, 5*time.Minute, "controller-0", ready(start, "openstack-controller"))
	return err
}

// What a document may want. The image is a file of the controller.
const cloudWish = `{
	"projects": {"wished": {"cores": %d, "instances": 5, "key-pairs": 7, "networks": 3, "secgroup-rules": -1, "volumes": 4}},
	"flavors":  {"wished": {"cpus": 2, "memory": %d, "disk": 3}},
	"networks": {"wished": {"subnet": "192.168.8.0/24", "gateway": "192.168.8.254", "dns": ["192.0.2.53"]}},
	"images":   {"wished": {"url": "file://` + judge + `/wished", "sha256": "%s", "format": "raw"}}
}`

// wishCloud has the document want a project with quotas, a flavor, a network and an image, and then others of each.
func (j *Journey) wishCloud(ctx context.Context) error {
	before := ""
	for n, cores := range []int{11, 13} {
		sum, err := j.inside(ctx, j.controller, fmt.Sprintf("mkdir -p %[1]s; head -c %[2]d /dev/urandom >%[1]s/wished; sha256sum <%[1]s/wished | head -c 64", judge, 3000000+n))
		if err != nil {
			return err
		}
		if err := j.wishOpenStack(ctx, fmt.Sprintf(cloudWish, cores, 300+n, sum)); err != nil {
			return err
		}
		var image struct{ ID string }
		if err := j.openstack(ctx, &image, "image", "show", "wished"); err != nil {
			return err
		}
		if image.ID == before {
			return fmt.Errorf("image wished is still %s", before)
		}
		before = image.ID
		if err := j.cloudIs(ctx, cores, 300+n, 3000000+n, sum); err != nil {
			return err
		}
	}
	return nil
}

// cloudIs asks the stock client for what the document wants.
func (j *Journey) cloudIs(ctx context.Context, cores, memory, size int, sum string) error {
	var quotas []struct {
		Resource string
		Limit    int
	}
	if err := j.openstack(ctx, &quotas, "quota", "show", "wished"); err != nil {
		return err
	}
	have := map[string]any{}
	for _, q := range quotas {
		have[q.Resource] = float64(q.Limit)
	}
	err := holds(have, map[string]any{"cores": cores, "instances": 5, "key-pairs": 7, "networks": 3, "secgroup-rules": -1, "volumes": 4})
	if err != nil {
		return fmt.Errorf("quotas: %w", err)
	}
	for _, noun := range []struct {
		name string
		want map[string]any
	}{
		{"flavor", map[string]any{"vcpus": 2, "ram": memory, "disk": 3}},
		{"network", map[string]any{"shared": true, "router:external": false}},
		{"subnet", map[string]any{"cidr": "192.168.8.0/24", "gateway_ip": "192.168.8.254", "dns_nameservers": []any{"192.0.2.53"}}},
		{"image", map[string]any{"status": "active", "size": size, "visibility": "public", "disk_format": "raw"}},
	} {
		have := map[string]any{}
		if err := j.openstack(ctx, &have, noun.name, "show", "wished"); err != nil {
			return err
		}
		if err := holds(have, noun.want); err != nil {
			return fmt.Errorf("%s: %w", noun.name, err)
		}
	}
	got, err := j.inside(ctx, j.controller, "cd "+judge+"; rm -f saved; OS_CLOUD=journey openstack image save --file saved wished; sha256sum <saved | head -c 64")
	if err == nil && got != sum {
		err = fmt.Errorf("the image is of a file with SHA-256 %s, want %s", got, sum)
	}
	return err
}

// holds compares what the stock client says, less what is not asked for.
func holds(have, want map[string]any) error {
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		got, err := json.Marshal(have[name]) // numbers of either kind look alike
		if err != nil {
			return err
		}
		wanted, err := json.Marshal(want[name])
		if err != nil {
			return err
		}
		if !bytes.Equal(got, wanted) {
			wrong = append(wrong, fmt.Sprintf("%s is %s, want %s", name, got, wanted))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s", strings.Join(wrong, "; "))
	}
	return nil
}

// refuseVolume asks for a volume where the site has no storage for any.
func (j *Journey) refuseVolume(ctx context.Context) error {
	if err := j.openstack(ctx, nil, "volume", "create", "none", "--size", "1"); err != nil {
		return err
	}
	if _, err := j.awaitVolume(ctx, "none", "error"); err != nil {
		return err
	}
	var messages []struct {
		Message string `json:"User Message"`
	}
	if err := j.openstack(ctx, &messages, "--os-volume-api-version", "3.3", "volume", "message", "list"); err != nil {
		return err
	}
	if len(messages) == 0 || !strings.Contains(messages[0].Message, "Could not find any available weighted backend") {
		return fmt.Errorf("cinder says %+v", messages)
	}
	return j.openstack(ctx, nil, "volume", "delete", "none")
}

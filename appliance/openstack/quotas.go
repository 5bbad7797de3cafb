package openstack

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
)

// limits are the quotas that one service keeps of a project.
type limits struct {
	kind   string // of the service
	path   string // of a project's quotas, less its id
	object string // that they are in
	names  map[string]string
}

// quotas are those of all services: names of the openstack command to those of the API.
func quotas() []limits {
	return []limits{
		{"compute", "os-quota-sets/", "quota_set", map[string]string{
			"cores": "cores", "instances": "instances", "key-pairs": "key_pairs", "properties": "metadata_items", "ram": "ram",
			"server-groups": "server_groups", "server-group-members": "server_group_members",
		}},
		{"network", "quotas/", "quota", map[string]string{
			"floating-ips": "floatingip", "networks": "network", "ports": "port", "rbac-policies": "rbac_policy", "routers": "router",
			"secgroups": "security_group", "secgroup-rules": "security_group_rule", "subnetpools": "subnetpool", "subnets": "subnet",
		}},
		{"volumev3", "os-quota-sets/", "quota_set", map[string]string{
			"backup-gigabytes": "backup_gigabytes", "backups": "backups", "gigabytes": "gigabytes", "per-volume-gigabytes": "per_volume_gigabytes",
			"snapshots": "snapshots", "volumes": "volumes",
		}},
	}
}

// tenant sees to a project with the people's roles and its quotas.
func (c *cloud) tenant(ctx context.Context, name string, wish map[string]int) error {
	identity := c.service("identity")
	id, err := c.project(ctx, identity, name)
	if err != nil {
		return err
	}
	for user, role := range people() {
		if err := c.user(ctx, identity, user, id, role); err != nil {
			return err
		}
	}
	left := maps.Clone(wish)
	for _, l := range quotas() {
		mine := map[string]int{}
		for quota, api := range l.names {
			if n, ok := left[quota]; ok {
				mine[api] = n
				delete(left, quota)
			}
		}
		if err := c.quota(ctx, l, id, mine); err != nil {
			return fmt.Errorf("quotas of project %s: %w", name, err)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("cannot set quotas of project %s: no service knows %s", name, strings.Join(slices.Sorted(maps.Keys(left)), ", "))
	}
	return nil
}

// quota sees to the quotas of a project that one service keeps, by their names in its API.
func (c *cloud) quota(ctx context.Context, l limits, project string, wish map[string]int) error {
	if len(wish) == 0 {
		return nil
	}
	client := c.service(l.kind)
	url := client.ServiceURL(l.path + project)
	var have map[string]map[string]any
	if _, err := client.Get(ctx, url, &have, nil); err != nil {
		return err
	}
	for name, want := range wish {
		if is, ok := have[l.object][name].(json.Number); ok && is.String() == strconv.Itoa(want) { // as gophercloud decodes them
			delete(wish, name)
		}
	}
	if len(wish) == 0 {
		return nil
	}
	return c.lacks(strings.Join(slices.Sorted(maps.Keys(wish)), ", "), func() error {
		_, err := client.Put(ctx, url, map[string]any{l.object: wish}, nil, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}})
		return err
	})
}

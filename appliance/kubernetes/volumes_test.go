package kubernetes

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"roost/appliance/api"
	"roost/images"
)

// withVolumes is a host of a site with Ceph, whose release has the driver.
func withVolumes(t *testing.T) (*Host, *fakeMachine) {
	h, m := newHost(t)
	h.Image = append(h.Image, images.Component{Name: volumesPart})
	h.Ceph = func(context.Context, api.Join) (*api.Material, error) {
		m.act("join ceph")
		return &api.Material{Address: "[v2:10.77.0.2:3300/0]", Secrets: map[string][]byte{"fsid": []byte("an-id"), "client.kubernetes": []byte("SECRET==")}}, nil
	}
	return h, m
}

func stored() *api.Config {
	return &api.Config{Components: api.Components{Kubernetes: &api.Kubernetes{}, Ceph: &api.Ceph{}}}
}

// TestVolumes brings volumes up where the site has Ceph, with a key that only the driver's file has, and takes them away before
// what they stand on.
func TestVolumes(t *testing.T) {
	h, m := withVolumes(t)
	follow(t, h)
	if err := ensure(t, h, stored()); err != nil {
		t.Fatal(err)
	}
	want := []string{"start kube-proxy.service", "join ceph", "start volumes.service", "start volumed.service", "start csi-provisioner.service", "start csi-resizer.service"}
	if i := slices.Index(m.acts, want[0]); i < 0 || !slices.Equal(m.acts[i:], want) {
		t.Errorf("did %q", m.acts)
	}
	keyring, err := os.ReadFile(filepath.Join(m.root, keyDir, volumesKey))
	if err != nil || string(keyring) != "[client.kubernetes]\n\tkey = SECRET==\n" {
		t.Errorf("keyring %q: %v", keyring, err)
	}
	err = filepath.WalkDir(m.root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(path, volumesKey) {
			return err
		}
		content, err := os.ReadFile(path)
		if strings.Contains(string(content), "SECRET==") {
			t.Errorf("%s has the key of Ceph", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	m.acts = nil
	if err := ensure(t, h, stored()); err != nil || len(m.acts) > 0 {
		t.Errorf("did again %q, %v", m.acts, err)
	}
	if err := ensure(t, h, &api.Config{}); err != nil {
		t.Fatal(err)
	}
	want = []string{"stop kubelet.service", "stop csi-resizer.service", "stop csi-provisioner.service", "stop volumed.service", "stop volumes.service", "stop kube-scheduler.service"}
	if i := slices.Index(m.acts, want[0]); i < 0 || !slices.Equal(m.acts[i:i+len(want)], want) {
		t.Errorf("did %q", m.acts)
	}
}

// TestNoVolumes leaves volumes out where the site has no Ceph, or the release no driver.
func TestNoVolumes(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Host)
		config *api.Config
	}{
		{"no Ceph", func(*Host) {}, wanted()},
		{"no driver", func(h *Host) { h.Image = h.Image[:1] }, stored()},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, m := withVolumes(t)
			test.change(h)
			follow(t, h)
			if err := ensure(t, h, test.config); err != nil {
				t.Fatal(err)
			}
			if slices.Contains(m.acts, "join ceph") || slices.ContainsFunc(m.acts, func(a string) bool { return strings.Contains(a, "volume") || strings.Contains(a, "csi") }) {
				t.Errorf("did %q", m.acts)
			}
		})
	}
}

// TestVolumeAccess demands all that rbd needs.
func TestVolumeAccess(t *testing.T) {
	good := api.Material{Address: "[v2:10.77.0.2:3300/0]", Secrets: map[string][]byte{"fsid": []byte("an-id"), "client.kubernetes": []byte("k")}}
	conf, keyring, err := volumeAccess(&good)
	if err != nil || string(conf) != "[global]\nfsid = an-id\nmon_host = [v2:10.77.0.2:3300/0]\n" || string(keyring) != "[client.kubernetes]\n\tkey = k\n" {
		t.Errorf("got %q, %q, %v", conf, keyring, err)
	}
	for _, lacks := range []api.Material{{Secrets: good.Secrets}, {Address: good.Address}, {Address: good.Address, Secrets: map[string][]byte{"fsid": []byte("x"), "client.volumes": []byte("k")}}} {
		if _, _, err := volumeAccess(&lacks); err == nil {
			t.Errorf("took %+v", lacks)
		}
	}
}

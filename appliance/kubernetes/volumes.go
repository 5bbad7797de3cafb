package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
	"roost/images"
)

// Pods have volumes on the site's Ceph where the site runs one and the release has the driver (component kubernetes-rbd). The
// driver runs beside the kubelet on every host, what makes and grows volumes on controllers. Here Ceph is no more than an
// address and a key: whether it is well, its own component says.

const (
	volumesPart = "kubernetes-rbd"  // component of the release
	volumesPool = "kubernetes"      // of Ceph
	volumesUser = "kubernetes"      // of Ceph; its key is the secret client.kubernetes of that component
	driverName  = "rbd.roost.local" // of the driver, in the cluster

	volumesConf = "ceph.conf"
	volumesKey  = "ceph.keyring"

	kubeletDir   = "/var/lib/kubelet"
	driverSocket = kubeletDir + "/plugins/" + driverName + "/csi.sock"
)

// hasVolumes reports whether pods have volumes on Ceph.
func (h *Host) hasVolumes(c *api.Config) bool {
	return c.Ceph != nil && slices.ContainsFunc(h.Image, func(part images.Component) bool { return part.Name == volumesPart })
}

// volumeSteps bring volumes up.
func (b *bringUp) volumeSteps() []service.Step {
	if !b.volumes {
		return nil
	}
	steps := []service.Step{{Name: "access to Ceph", Holds: b.hasVolumeAccess, Make: b.fetchVolumeAccess}}
	for _, u := range b.volumeUnits() {
		steps = append(steps, b.start(u.name))
	}
	return append(steps, service.Step{Name: "volumes", Holds: b.volumesServed, Limit: 2 * time.Minute})
}

func (b *bringUp) hasVolumeAccess(context.Context) error {
	if b.read(volumesConf) == nil || b.read(volumesKey) == nil {
		return errors.New("no access to the site's Ceph yet")
	}
	return nil
}

// fetchVolumeAccess asks the site for what Kubernetes needs of its Ceph.
func (b *bringUp) fetchVolumeAccess(ctx context.Context) error {
	material, err := b.Ceph(ctx, api.Join{Schema: 1})
	if err != nil {
		return err
	}
	conf, keyring, err := volumeAccess(material)
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{volumesConf: conf, volumesKey: keyring} {
		if bytes.Equal(b.read(name), text) {
			continue
		}
		if err := b.Keys.Write(name, text); err != nil {
			return err
		}
	}
	return nil
}

// volumeAccess makes the files for rbd from what the site says of its Ceph: address, id and key.
func volumeAccess(material *api.Material) (conf, keyring []byte, err error) {
	id, key := material.Secrets["fsid"], material.Secrets["client."+volumesUser]
	if material.Address == "" || id == nil || key == nil {
		return nil, nil, errors.New("cannot use Ceph for volumes: the site's answer lacks address, cluster or key")
	}
	conf = fmt.Appendf(nil, "[global]\nfsid = %s\nmon_host = %s\n", id, material.Address)
	return conf, fmt.Appendf(nil, "[client.%s]\n\tkey = %s\n", volumesUser, key), nil
}

// volumesServed asks whether the kubelet of this host knows the driver.
func (b *bringUp) volumesServed(ctx context.Context) error {
	node := struct {
		Spec struct {
			Drivers []struct {
				Name string `json:"name"`
			} `json:"drivers"`
		} `json:"spec"`
	}{}
	err := b.ask(certKubelet, func(r *remote) error { return r.get(ctx, "/apis/storage.k8s.io/v1/csinodes/"+b.node, &node) })
	if err != nil {
		return err
	}
	for _, d := range node.Spec.Drivers {
		if d.Name == driverName {
			return nil
		}
	}
	return fmt.Errorf("node %s does not know the driver %s yet", b.node, driverName)
}

// volumeUnits are the services of volumes, in the order in which they are started.
func (p plan) volumeUnits() []unit {
	if !p.volumes {
		return nil
	}
	units := []unit{
		{name: "volumes.service"}, // of the image: what it does, it does when it is stopped
		{name: "volumed.service", description: "Volumes of pods on Ceph",
			before: []string{"Requires=volumes.service", "After=volumes.service network.target", "StartLimitIntervalSec=0"},
			exec: []string{"/usr/bin/volumed", "serve", "-node=" + p.node, "-pool=" + volumesPool, "-socket=" + driverSocket, "-registry=" + kubeletDir + "/plugins_registry",
				"-conf=" + keyAt(volumesConf), "-id=" + volumesUser, "-keyring=" + keyAt(volumesKey)},
			// It mounts for the whole host, so it has no mounts of its own.
			lines: append(always(), "OOMScoreAdjust=-900", "NoNewPrivileges=yes", "RestrictSUIDSGID=yes", "RestrictRealtime=yes", "LockPersonality=yes",
				"MemoryDenyWriteExecute=yes", "SystemCallArchitectures=native"),
			uses: []string{keyDir + "/" + volumesConf, keyDir + "/" + volumesKey}},
	}
	if p.control {
		units = append(units, p.sidecar("csi-provisioner", "Volumes on request", "--timeout=2m", "--default-fstype=ext4"), p.sidecar("csi-resizer", "Larger volumes on request", "--timeout=2m"))
	}
	return units
}

// sidecar is one of the stock programs between the cluster and the driver. It has to be root to reach the driver, and has none
// of root's rights.
func (p plan) sidecar(program, description string, args ...string) unit {
	confined := slices.DeleteFunc(confinement(), func(line string) bool { return strings.HasPrefix(line, "DynamicUser=") })
	return unit{
		name: program + ".service", description: description, before: []string{"After=volumed.service", "StartLimitIntervalSec=0"},
		keys: append([]string{clusterCA + ".crt", "volumes.conf"}, pair(certVolumes)...),
		exec: append([]string{"/usr/bin/" + program, "--csi-address=" + driverSocket, "--kubeconfig=%d/volumes.conf", "--retry-interval-max=30s",
			fmt.Sprintf("--leader-election=%v", !p.alone), "--leader-election-namespace=kube-system"}, args...),
		lines: append(always(), confined...),
	}
}

package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	volumeservices "github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/services"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumetypes"

	"roost/appliance/api"
	"roost/appliance/service"
	"roost/images"
)

// Images and volumes are in the site's Ceph where the site runs one and the release has what the services need for it (component
// openstack-rbd). Here Ceph is no more than an address and keys, which its component gives to controllers. Without it images
// are files of the controller, and cinder has nowhere to make volumes: each becomes an error that says so (openstack volume
// message list).
//
// A hypervisor gets cinder's key from Ceph's component, too; libvirt is to know it as the secret whose UUID is the cluster's id.
const (
	cephPart    = "openstack-rbd" // component of the release
	cephFile    = "ceph.json"     // what this host keeps of Ceph
	cephConf    = runDir + "/ceph.conf"
	cephBackend = "ceph"       // name of glance's store, and of cinder's backend and its type of volumes
	volumeHost  = "site"       // whose volumes they are: no controller's
	probe       = "roost-open" // object in each pool that tells that it can be written
	ownSudo     = "/usr/lib/roost/cinder"
)

// storage is the site's Ceph.
type storage struct {
	Address string            `json:"address"` // of its monitors
	FSID    string            `json:"fsid"`
	Keys    map[string]string `json:"keys"` // by user
}

// poolUsers are the services that have a pool of their name, and a user.
func poolUsers() []string { return []string{"cinder", "glance"} }

func cephKeyring(user string) string { return runDir + "/" + user + ".keyring" }

// poolUnit is the unit in which a service uses its pool.
func poolUnit(user string) string {
	if user == "cinder" {
		return unitVolume
	}
	return unitOf(user)
}

// hasCeph reports whether images and volumes are to be in Ceph.
func (h *Host) hasCeph(c *api.Config) bool {
	return c.Ceph != nil && slices.ContainsFunc(h.Image, func(part images.Component) bool { return part.Name == cephPart })
}

// complete returns what lacks.
func (s *storage) complete() error {
	if s.Address == "" || s.FSID == "" {
		return errors.New("no access to the site's Ceph yet")
	}
	for _, user := range poolUsers() {
		if s.Keys[user] == "" {
			return fmt.Errorf("no key of %s in the site's Ceph yet", user)
		}
	}
	return nil
}

// knowsCeph reads what this host keeps of the site's Ceph into the plan.
func (b *part) knowsCeph(context.Context) error {
	kept := storage{}
	if err := json.Unmarshal(b.read(cephFile), &kept); err != nil {
		return errors.New("no access to the site's Ceph yet")
	}
	*b.ceph = kept
	return kept.complete()
}

// meetCeph asks the site for what OpenStack needs of its Ceph.
func (b *part) meetCeph(ctx context.Context) error {
	material, err := b.Ceph(ctx, api.Join{Schema: 1})
	if err != nil {
		return err
	}
	s := storage{Address: material.Address, FSID: string(material.Secrets["fsid"]), Keys: map[string]string{}}
	for _, user := range poolUsers() {
		s.Keys[user] = string(material.Secrets["client."+user])
	}
	if err := s.complete(); err != nil {
		return err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("cannot keep access to Ceph: %w", err)
	}
	return b.Keys.Write(cephFile, text)
}

// cephFiles are the settings with which services are users of Ceph.
func (p plan) cephFiles() []file {
	if p.ceph == nil {
		return nil
	}
	text := fmt.Sprintf("[global]\nfsid = %s\nmon_host = %s\n", p.ceph.FSID, p.ceph.Address)
	var list []file
	for _, user := range poolUsers() {
		text += fmt.Sprintf("[client.%s]\nkeyring = /run/credentials/%s/%s.keyring\n", user, poolUnit(user), user)
		list = append(list, secret(user+".keyring", fmt.Sprintf("[client.%s]\n\tkey = %s\n", user, p.ceph.Keys[user])))
	}
	return append(list, file{path: cephConf, mode: 0o644, text: text})
}

// useCeph gives a unit what it needs to be a user of Ceph.
func (p plan) useCeph(u unit, user string) unit {
	if p.ceph != nil {
		u.keys, u.uses = append(slices.Clone(u.keys), cephKeyring(user)), append(slices.Clone(u.uses), cephConf)
	}
	return u
}

// imageStores is where glance keeps images. Those in files stay there when Ceph comes to the site; new ones go to Ceph. Cinder
// clones an image whose place it is told (show_image_direct_url).
func (p plan) imageStores() []section {
	backends, first := "local:file", "local"
	list := []section{{"local", []string{"filesystem_store_datadir", "/var/lib/glance/images"}}}
	shown := "false"
	if p.ceph != nil {
		backends, first, shown = backends+","+cephBackend+":rbd", cephBackend, "true"
		list = append(list, section{cephBackend, []string{"rbd_store_pool", "glance", "rbd_store_user", "glance", "rbd_store_ceph_conf", "/" + cephConf,
			"rbd_thin_provisioning", "true"}})
	}
	return append(list, section{"DEFAULT", []string{"enabled_backends", backends, "show_image_direct_url", shown, "bind_host", "127.0.0.1"}},
		section{"glance_store", []string{"default_backend", first}})
}

// volumeBackend is where cinder makes volumes.
func (p plan) volumeBackend() []section {
	if p.ceph == nil { // and the scheduler waits for none before it says so
		return []section{{"DEFAULT", []string{"scheduler_driver_init_wait_time", "1"}}}
	}
	return []section{
		{"DEFAULT", []string{"enabled_backends", cephBackend, "default_volume_type", cephBackend}},
		{cephBackend, []string{"volume_driver", "cinder.volume.drivers.rbd.RBDDriver", "volume_backend_name", cephBackend, "backend_host", volumeHost,
			"rbd_pool", "cinder", "rbd_user", "cinder", "rbd_ceph_conf", "/" + cephConf, "rbd_secret_uuid", p.ceph.FSID, "report_discard_supported", "true"}},
		{"cinder_sys_admin", []string{"capabilities", ""}}, // of its helper for root's work, which has none (see volumeUnit)
	}
}

// volumeUnit makes volumes. What cinder has root do to images it can do itself: they are files of its own. So it finds a sudo
// that runs its arguments and no more, and has no way to become root.
func (p plan) volumeUnit() unit {
	u := p.useCeph(worker(unitVolume, "cinder", "cinder-volume"), "cinder")
	u.lines = append(u.lines, "Environment=PATH="+ownSudo+":/usr/sbin:/usr/bin")
	return u
}

// volumeLane brings up what makes volumes, or takes it away.
func (b *bringUp) volumeLane() []service.Step {
	if b.ceph != nil {
		return []service.Step{b.pool("cinder"), b.start(unitVolume)}
	}
	list := append(everything().cephFiles(), file{path: unitDir + "/" + unitVolume})
	return []service.Step{{
		Name: "stop cinder-volume",
		Holds: func(context.Context) error {
			for _, f := range list {
				if _, err := os.Stat(b.at(f.path)); err == nil {
					return fmt.Errorf("/%s is still there", f.path)
				}
			}
			return nil
		},
		Make: func(ctx context.Context) error {
			err := b.Machine.StopUnit(ctx, unitVolume)
			for _, f := range list {
				err = errors.Join(err, os.RemoveAll(b.at(f.path)))
			}
			return err
		},
	}}
}

// pool is the step that a service's pool takes what is written to it, by the service's own key. It comes by itself.
func (b *part) pool(user string) service.Step {
	return b.dear(service.Step{Name: "pool " + user, Limit: 10 * time.Minute, Holds: func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		_, err := b.Machine.Run(ctx, nil, "rados", "--conf", b.at(cephConf), "--id", user, "--keyring", b.at(cephKeyring(user)), "--pool", user, "touch", probe)
		if err != nil {
			return fmt.Errorf("pool %s of Ceph cannot be written: %w", user, err)
		}
		return nil
	}})
}

// storageSteps are those that the services use Ceph, as they say themselves.
func (b *bringUp) storageSteps() []service.Step {
	if b.ceph == nil {
		return nil
	}
	return []service.Step{
		b.dear(service.Step{Name: "images in Ceph", Holds: b.storesImages, Limit: time.Minute,
			// It gives up a store that it did not reach when it started.
			Make: func(ctx context.Context) error { return b.Machine.StartUnit(ctx, unitOf("glance")) }}),
		b.dear(service.Step{Name: "volumes", Holds: b.hasVolumes, Make: b.makeVolumes, Limit: 3 * time.Minute}),
	}
}

// storesImages asks glance for its stores.
func (b *bringUp) storesImages(ctx context.Context) error {
	c, err := b.reach(ctx, false)
	if err != nil {
		return err
	}
	var answer struct {
		Stores []struct {
			ID      string `json:"id"`
			Default any    `json:"default"`
		} `json:"stores"`
	}
	client := c.service("image")
	_, err = client.Get(ctx, client.ServiceURL("info", "stores", "detail"), &answer, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}})
	if err != nil {
		return fmt.Errorf("glance does not tell its stores: %w", err)
	}
	for _, s := range answer.Stores {
		if s.ID == cephBackend && s.Default != nil {
			return nil
		}
	}
	return fmt.Errorf("glance has the stores %v", answer.Stores)
}

func (b *bringUp) hasVolumes(ctx context.Context) error {
	c, err := b.reach(ctx, false)
	if err != nil {
		return err
	}
	if err := c.volumeType(ctx); err != nil {
		return err
	}
	started, err := b.Machine.UnitStarted(ctx, unitVolume)
	if err != nil {
		return err
	}
	return c.volumesUp(ctx, started)
}

func (b *bringUp) makeVolumes(ctx context.Context) error {
	c, err := b.reach(ctx, true)
	if err != nil {
		return err
	}
	return c.volumeType(ctx)
}

// volumesUp asks cinder whether its backend has spoken up since a time.
func (c *cloud) volumesUp(ctx context.Context, since time.Time) error {
	page, err := volumeservices.List(c.service("volumev3"), volumeservices.ListOpts{Binary: "cinder-volume"}).AllPages(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask cinder for its services: %w", err)
	}
	list, err := volumeservices.ExtractServices(page)
	if err != nil {
		return fmt.Errorf("cannot ask cinder for its services: %w", err)
	}
	if !slices.ContainsFunc(list, func(s volumeservices.Service) bool {
		return s.Host == volumeHost+"@"+cephBackend && s.State == "up" && !s.UpdatedAt.Before(since)
	}) {
		return errors.New("cinder does not hear of its backend in Ceph yet")
	}
	return nil
}

// volumeType sees to the type of volumes that cinder takes when nobody says another.
func (c *cloud) volumeType(ctx context.Context) error {
	client := c.service("volumev3")
	page, err := volumetypes.List(client, nil).AllPages(ctx)
	if err != nil {
		return fmt.Errorf("cannot read types of volumes: %w", err)
	}
	list, err := volumetypes.ExtractVolumeTypes(page)
	if err != nil {
		return fmt.Errorf("cannot read types of volumes: %w", err)
	}
	if slices.ContainsFunc(list, func(t volumetypes.VolumeType) bool { return t.Name == cephBackend }) {
		return nil
	}
	return c.lacks("type of volumes "+cephBackend, func() error {
		return volumetypes.Create(ctx, client, volumetypes.CreateOpts{Name: cephBackend, Description: "on the site's Ceph",
			ExtraSpecs: map[string]string{"volume_backend_name": cephBackend}}).Err
	})
}

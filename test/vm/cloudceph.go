package vm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"roost/test/lab"
)

// cloudCephPhases bring up OpenStack and Ceph on one host and demand that images and volumes are in Ceph, by the stock clients of
// both.
func (j *Journey) cloudCephPhases() []phase {
	const disk = 10 << 30 // sparse
	return []phase{
		{"build the release openstack-ceph", j.buildShipped("openstack-ceph")},
		{"make a site that wants OpenStack and Ceph, and a lab of one container with three disks",
			j.makeSingle(lab.Spec{Disks: []int64{disk, disk, disk}}, "--openstack", "--ceph", j.disk(1), "--ceph", j.disk(2), "--ceph", j.disk(3))},
		{"discover and install the controller", j.bringUp(openstackPatient, "ceph", "openstack-controller")},
		{"measure it", j.measureOpenStack},
		{"an image is kept in Ceph", j.storeImage},
		{"a volume is its clone", j.cloneVolume},
		{"a volume of an image of another format has its contents", j.convertVolume},
		{"an image that has a clone stays", j.keepImage},
		{"the volumes are there after the power went", j.cutCloud},
		{"what is deleted is gone from Ceph", j.clearCloud},
	}
}

// imageFile is where the judge has what the image is made of; its power may go.
const imageFile = "/var/lib/judge.raw"

func (j *Journey) storeImage(ctx context.Context) error {
	if _, err := j.inside(ctx, j.controller, "head -c 134217728 /dev/urandom >"+imageFile); err != nil {
		return err
	}
	start := time.Now()
	if err := j.openstack(ctx, nil, "image", "create", "clone", "--disk-format", "raw", "--container-format", "bare", "--file", imageFile); err != nil {
		return err
	}
	j.note("  upload of an image of 128 MiB, with the client's start", since(start))
	var image struct{ ID string }
	if err := j.openstack(ctx, &image, "image", "show", "clone"); err != nil {
		return err
	}
	names, err := j.pooled(ctx, "glance")
	if err == nil && (len(names) != 1 || names[0] != image.ID) {
		err = fmt.Errorf("glance's pool holds %q, want image %s", names, image.ID)
	}
	return err
}

// pooled asks Ceph, as its administrator, for what is in a pool.
func (j *Journey) pooled(ctx context.Context, pool string) ([]string, error) {
	out, err := j.inside(ctx, j.controller, "rbd ls "+pool)
	return strings.Fields(out), err
}

// volume is what the stock client says of one.
type volume struct {
	ID, Status, Type string
	Size             int
}

// awaitVolume asks for a volume until cinder has done what it was asked to.
func (j *Journey) awaitVolume(ctx context.Context, name, status string) (*volume, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for last := ""; ; {
		v := &volume{}
		if err := j.openstack(ctx, v, "volume", "show", name); err != nil {
			return nil, fmt.Errorf("it was %q: %w", last, err)
		}
		last = v.Status
		switch {
		case last == status:
			return v, nil
		case strings.HasPrefix(last, "error"):
			return nil, fmt.Errorf("volume %s is in state %s", name, last)
		}
	}
}

func (j *Journey) cloneVolume(ctx context.Context) error {
	start := time.Now()
	if err := j.openstack(ctx, nil, "volume", "create", "clone", "--image", "clone", "--size", "1"); err != nil {
		return err
	}
	v, err := j.awaitVolume(ctx, "clone", "available")
	if err != nil {
		return err
	}
	j.note("  a volume of it available, with the starts of two clients", since(start))
	if v.Type != "ceph" || v.Size != 1 {
		return fmt.Errorf("the volume is %+v", v)
	}
	var image struct{ ID string }
	if err := j.openstack(ctx, &image, "image", "show", "clone"); err != nil {
		return err
	}
	info, err := j.inside(ctx, j.controller, "rbd info cinder/volume-"+v.ID)
	if want := "parent: glance/" + image.ID + "@snap"; err == nil && !strings.Contains(info, want) {
		err = fmt.Errorf("the volume has no %s: %s", want, info)
	}
	return errors.Join(err, j.sameVolume(ctx, v.ID))
}

// sameVolume compares a volume with what the image was made of.
func (j *Journey) sameVolume(ctx context.Context, id string) error {
	_, err := j.inside(ctx, j.controller, "rbd export cinder/volume-"+id+" - 2>/dev/null | head -c 134217728 | cmp - "+imageFile)
	return err
}

// convertVolume makes a volume of an image that Ceph cannot clone.
func (j *Journey) convertVolume(ctx context.Context) error {
	const qcow = "/run/judge/image.qcow2"
	if _, err := j.inside(ctx, j.controller, "qemu-img convert -O qcow2 -f raw "+imageFile+" "+qcow); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"image", "create", "other", "--disk-format", "qcow2", "--container-format", "bare", "--file", qcow},
		{"volume", "create", "other", "--image", "other", "--size", "1"},
	} {
		if err := j.openstack(ctx, nil, args...); err != nil {
			return err
		}
	}
	v, err := j.awaitVolume(ctx, "other", "available")
	if err != nil {
		return err
	}
	return j.sameVolume(ctx, v.ID)
}

func (j *Journey) keepImage(ctx context.Context) error {
	err := j.openstack(ctx, nil, "image", "delete", "clone")
	if err == nil || !strings.Contains(err.Error(), "409") {
		return fmt.Errorf("an image that has a clone is deleted: %w", err)
	}
	return nil
}

// cutCloud pulls the plug and demands volumes and images as they were.
func (j *Journey) cutCloud(ctx context.Context) error {
	if err := j.controller.PowerOff(); err != nil {
		return err
	}
	start, err := j.comeBack(ctx, openstackPatient, "ceph", "openstack-controller")
	if err != nil {
		return err
	}
	j.note("  power on to the whole control plane and Ceph ready again", since(start))
	if err := j.forgetCloud(); err != nil {
		return err
	}
	for _, name := range []string{"clone", "other"} {
		v, err := j.awaitVolume(ctx, name, "available")
		if err != nil {
			return err
		}
		if err := j.sameVolume(ctx, v.ID); err != nil {
			return err
		}
	}
	return j.openstack(ctx, nil, "volume", "create", "later", "--image", "clone", "--size", "1")
}

// clearCloud deletes all volumes, then the images, and demands empty pools.
func (j *Journey) clearCloud(ctx context.Context) error {
	if _, err := j.awaitVolume(ctx, "later", "available"); err != nil {
		return err
	}
	if err := j.openstack(ctx, nil, "volume", "delete", "clone", "other", "later"); err != nil {
		return err
	}
	for deadline := time.Now().Add(2 * time.Minute); ; {
		var list []volume
		if err := j.openstack(ctx, &list, "volume", "list"); err != nil {
			return err
		}
		if len(list) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("volumes %+v are left", list)
		}
	}
	if err := j.openstack(ctx, nil, "image", "delete", "clone", "other"); err != nil {
		return err
	}
	for _, pool := range []string{"cinder", "glance"} {
		for _, what := range []string{"ls", "trash ls"} {
			left, err := j.inside(ctx, j.controller, "rbd "+what+" "+pool)
			if err != nil {
				return err
			}
			if left != "" {
				return fmt.Errorf("pool %s still holds %s", pool, left)
			}
		}
	}
	return nil
}

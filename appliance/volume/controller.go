package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// defaultSize is that of a volume whose size nobody says.
const defaultSize = 1 << 30

// access is how a host may use a volume.
type access int

const (
	alone   access = iota // it writes, and no other host does
	reading               // nobody writes
	shared                // as others do: only a block device, whose users know of each other
)

// accessOf is what a capability asks of a host, or why it cannot be had.
func accessOf(c *csi.VolumeCapability) (access, error) {
	if c.GetMount() == nil && c.GetBlock() == nil {
		return 0, status.Error(codes.InvalidArgument, "a volume is wanted neither as file system nor as block device")
	}
	if err := validFileSystem(c.GetMount().GetFsType()); err != nil {
		return 0, err
	}
	switch c.GetAccessMode().GetMode() {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
		return alone, nil
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		return reading, nil
	case csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
		if c.GetBlock() != nil {
			return shared, nil
		}
	}
	return 0, status.Errorf(codes.InvalidArgument, "no volume can be used with access mode %s in this way", c.GetAccessMode().GetMode())
}

func validCapabilities(list []*csi.VolumeCapability) error {
	if len(list) == 0 {
		return status.Error(codes.InvalidArgument, "no volume capability is given")
	}
	for _, c := range list {
		if _, err := accessOf(c); err != nil {
			return err
		}
	}
	return nil
}

// poolParameter is that of a storage class which names a pool.
const poolParameter = "pool"

// target is the image that a request to create means. A name that Ceph takes stays as it is, for people to find it.
func (d *Driver) target(name string, parameters map[string]string) (image, error) {
	out := image{d.Pool, name}
	for key, value := range parameters {
		if key != poolParameter {
			return out, status.Errorf(codes.InvalidArgument, "no parameter %q is known", key)
		}
		out.pool = value
	}
	if !isName(out.pool) {
		return out, status.Errorf(codes.InvalidArgument, "pool %q: not the name of a pool", out.pool)
	}
	const long = "name-"
	if !isName(name) || strings.HasPrefix(name, long) {
		sum := sha256.Sum256([]byte(name))
		out.name = long + hex.EncodeToString(sum[:])
	}
	return out, nil
}

// sizeWanted is the size in bytes that a range asks for, a multiple of 1 MiB.
func sizeWanted(r *csi.CapacityRange) (int64, error) {
	least, most := r.GetRequiredBytes(), r.GetLimitBytes()
	if least < 0 || most < 0 || most > 0 && least > most || least > 1<<60 {
		return 0, status.Errorf(codes.InvalidArgument, "size: at least %d, at most %d", least, most)
	}
	size := (least + mib - 1) / mib * mib
	if least == 0 {
		if size = defaultSize; most > 0 && most < size {
			size = most / mib * mib
		}
	}
	if most > 0 && size > most || size == 0 {
		return 0, status.Errorf(codes.OutOfRange, "size: at least %d, at most %d, but it must be a multiple of 1 MiB", least, most)
	}
	return size, nil
}

// CreateVolume makes an image, or finds the one that was made before.
func (d *Driver) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "no name is given")
	}
	if err := validCapabilities(r.GetVolumeCapabilities()); err != nil {
		return nil, err
	}
	if r.GetVolumeContentSource() != nil || len(r.GetMutableParameters()) > 0 {
		return nil, status.Error(codes.InvalidArgument, "volumes are made neither of other volumes nor with parameters that change")
	}
	image, err := d.target(r.GetName(), r.GetParameters())
	if err != nil {
		return nil, err
	}
	size, err := sizeWanted(r.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	release, err := d.held.hold(image.String())
	if err != nil {
		return nil, err
	}
	defer release()
	err = d.Cluster.create(ctx, image, size)
	if failed(err, syscall.EEXIST) {
		if size, err = d.Cluster.size(ctx, image); err == nil && !fits(size, r.GetCapacityRange()) {
			return nil, status.Errorf(codes.AlreadyExists, "volume %s is there with %d bytes", image, size)
		}
	}
	if err != nil {
		return nil, answer(err)
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: image.String(), CapacityBytes: size}}, nil
}

func fits(size int64, r *csi.CapacityRange) bool {
	return size >= r.GetRequiredBytes() && (r.GetLimitBytes() == 0 || size <= r.GetLimitBytes())
}

// answer is the status with which a call fails.
func answer(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}

// DeleteVolume removes an image, if it is there.
func (d *Driver) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	image, release, err := d.take(r.GetVolumeId())
	if status.Code(err) == codes.NotFound {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer release()
	err = d.Cluster.remove(ctx, image)
	if failed(err, syscall.EBUSY) || failed(err, syscall.ENOTEMPTY) {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is in use: %v", image, err)
	}
	if err != nil && !failed(err, syscall.ENOENT) {
		return nil, answer(err)
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// take holds the volume of a call.
func (d *Driver) take(id string) (image, func(), error) {
	if id == "" {
		return image{}, nil, status.Error(codes.InvalidArgument, "no volume id is given")
	}
	i, ok := parseID(id)
	if !ok {
		return i, nil, status.Errorf(codes.NotFound, "volume %s is not there: its id is none of this driver", id)
	}
	release, err := d.held.hold(id)
	return i, release, err
}

// found is the size of a volume, which must be there.
func (d *Driver) found(ctx context.Context, i image) (int64, error) {
	size, err := d.Cluster.size(ctx, i)
	if failed(err, syscall.ENOENT) {
		return 0, status.Errorf(codes.NotFound, "volume %s is not there", i)
	}
	return size, answer(err)
}

// ValidateVolumeCapabilities says whether a volume can be used in a way.
func (d *Driver) ValidateVolumeCapabilities(ctx context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if r.GetVolumeId() == "" || len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "no volume id or no volume capability is given")
	}
	image, release, err := d.take(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer release()
	if _, err := d.found(ctx, image); err != nil {
		return nil, err
	}
	if err := validCapabilities(r.GetVolumeCapabilities()); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: status.Convert(err).Message()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: r.GetVolumeContext(), VolumeCapabilities: r.GetVolumeCapabilities(), Parameters: r.GetParameters(),
	}}, nil
}

// ControllerExpandVolume makes an image larger. The kernel of a host that uses it sees that by itself, the file system does not.
func (d *Driver) ControllerExpandVolume(ctx context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if r.GetCapacityRange() == nil {
		return nil, status.Error(codes.InvalidArgument, "no size is given")
	}
	wanted, err := sizeWanted(r.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	image, release, err := d.take(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer release()
	size, err := d.found(ctx, image)
	if err != nil {
		return nil, err
	}
	if size < wanted {
		if err := d.Cluster.grow(ctx, image, wanted); err != nil {
			return nil, answer(err)
		}
		size = wanted
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: size, NodeExpansionRequired: r.GetVolumeCapability().GetBlock() == nil}, nil
}

// ControllerGetCapabilities says what the controller service can do.
func (d *Driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	out := &csi.ControllerGetCapabilitiesResponse{}
	for _, c := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME, csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		out.Capabilities = append(out.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: c}}})
	}
	return out, nil
}

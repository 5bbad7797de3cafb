package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NodeStageVolume makes a volume a block device of this host and mounts its file system for all pods of the host.
func (d *Driver) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if r.GetStagingTargetPath() == "" || r.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "no staging path or no volume capability is given")
	}
	how, err := accessOf(r.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	image, release, err := d.take(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer release()
	if _, err := d.found(ctx, image); err != nil {
		return nil, err
	}
	device, err := d.Cluster.attach(ctx, image, how)
	if failed(err, syscall.EBUSY) || failed(err, syscall.EROFS) || failed(err, syscall.ETIMEDOUT) {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is in use on another host: %v", image, err)
	}
	if err == nil && r.GetVolumeCapability().GetMount() != nil {
		err = d.stage(ctx, image, device, r.GetStagingTargetPath(), how, r.GetVolumeCapability().GetMount())
	}
	if err != nil {
		return nil, answer(err)
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// stage mounts a volume's file system, which it makes in a new volume.
func (d *Driver) stage(ctx context.Context, i image, device, point string, how access, wish *csi.VolumeCapability_MountVolume) error {
	list, err := mounts()
	if err != nil {
		return err
	}
	number, err := deviceNumber(device)
	if err != nil {
		return err
	}
	mounted, at := false, settle(point)
	for _, m := range list {
		switch {
		case m.device == number && m.point == at:
			return nil
		case m.device == number:
			mounted = true // in a pod that was to have ended
		case m.point == at:
			return fmt.Errorf("cannot mount volume %s: %s of %s is mounted at %s", i, m.kind, m.source, point)
		}
	}
	kind := wish.GetFsType()
	if kind == "" {
		kind = defaultFileSystem
	}
	if how == alone && !mounted {
		if err := d.Cluster.fileSystem(ctx, i, device, kind); err != nil {
			return err
		}
		if err := mend(device, kind); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(point, 0o750); err != nil {
		return fmt.Errorf("cannot mount volume %s: %w", i, err)
	}
	return mountDevice(device, kind, point, how == reading, wish.GetMountFlags())
}

// NodeUnstageVolume undoes NodeStageVolume.
func (d *Driver) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if r.GetStagingTargetPath() == "" {
		return nil, status.Error(codes.InvalidArgument, "no staging path is given")
	}
	image, release, err := d.take(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer release()
	if err := unmount(r.GetStagingTargetPath()); err != nil {
		return nil, answer(err)
	}
	device, err := d.Cluster.device(ctx, image)
	if err == nil && device != "" {
		err = d.Cluster.detach(ctx, device)
	}
	if err != nil {
		return nil, answer(err)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// NodePublishVolume shows a staged volume to one pod.
func (d *Driver) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if r.GetTargetPath() == "" || r.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "no target path or no volume capability is given")
	}
	how, err := accessOf(r.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	image, release, err := d.take(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer release()
	device, err := d.Cluster.device(ctx, image)
	if err != nil {
		return nil, answer(err)
	}
	if device == "" || r.GetStagingTargetPath() == "" {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is not staged on this host", image)
	}
	number, err := deviceNumber(device)
	if err != nil {
		return nil, answer(err)
	}
	p := publication{device: device, number: number, staging: r.GetStagingTargetPath(), target: r.GetTargetPath(),
		block: r.GetVolumeCapability().GetBlock() != nil, readOnly: r.GetReadonly() || how == reading,
		single: r.GetVolumeCapability().GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER}
	if err := p.make(); err != nil {
		if _, ok := status.FromError(err); ok {
			return nil, err
		}
		return nil, answer(err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// publication is a volume on its way to a pod.
type publication struct {
	device          string
	number          uint64
	staging, target string
	block, readOnly bool
	single          bool // for one pod only
}

func (p *publication) make() error {
	list, err := mounts()
	if err != nil {
		return err
	}
	staging, target, staged := settle(p.staging), settle(p.target), p.block
	for _, m := range list {
		switch {
		case !m.holds(p.device, p.number):
			if m.point == target {
				return fmt.Errorf("cannot publish a volume at %s: %s of %s is mounted there", target, m.kind, m.source)
			}
		case m.point == target:
			return nil
		case m.point == staging:
			staged = true
		case p.single:
			return status.Errorf(codes.FailedPrecondition, "the volume is for one pod, and one has it already at %s", m.point)
		}
	}
	if !staged {
		return status.Errorf(codes.FailedPrecondition, "no file system is mounted at %s", staging)
	}
	from := p.staging
	if p.block {
		from = p.device
		if err := os.MkdirAll(filepath.Dir(p.target), 0o750); err != nil {
			return fmt.Errorf("cannot publish a volume: %w", err)
		}
		f, err := os.OpenFile(p.target, os.O_CREATE, 0o640)
		if err != nil {
			return fmt.Errorf("cannot publish a volume: %w", err)
		}
		f.Close()
	} else if err := os.MkdirAll(p.target, 0o750); err != nil {
		return fmt.Errorf("cannot publish a volume: %w", err)
	}
	return bind(from, p.target, p.readOnly)
}

// NodeUnpublishVolume undoes NodePublishVolume.
func (d *Driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if r.GetTargetPath() == "" {
		return nil, status.Error(codes.InvalidArgument, "no target path is given")
	}
	_, release, err := d.take(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer release()
	if err := discardPoint(r.GetTargetPath()); err != nil {
		return nil, answer(err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// shown finds what of a volume is mounted at a path of this host.
func (d *Driver) shown(ctx context.Context, i image, point string) (device string, m *mount, err error) {
	device, err = d.Cluster.device(ctx, i)
	if err != nil {
		return "", nil, answer(err)
	}
	if device == "" {
		return "", nil, status.Errorf(codes.NotFound, "volume %s is not on this host", i)
	}
	number, err := deviceNumber(device)
	if err == nil {
		m, err = mountedAt(point)
	}
	if err != nil {
		return "", nil, answer(err)
	}
	if m == nil || !m.holds(device, number) {
		return "", nil, status.Errorf(codes.NotFound, "volume %s is not at %s", i, point)
	}
	return device, m, nil
}

// NodeExpandVolume makes the file system as large as its volume.
func (d *Driver) NodeExpandVolume(ctx context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if r.GetVolumePath() == "" {
		return nil, status.Error(codes.InvalidArgument, "no volume path is given")
	}
	image, release, err := d.take(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer release()
	device, m, err := d.shown(ctx, image, r.GetVolumePath())
	if err != nil {
		return nil, err
	}
	size, err := deviceSize(device)
	if err == nil && size < r.GetCapacityRange().GetRequiredBytes() {
		err = errors.New("the kernel has not seen yet that the volume is larger")
	}
	if err == nil && m.kind != "devtmpfs" {
		err = growFileSystem(device, m.kind, m.point)
	}
	if err != nil {
		return nil, answer(err)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: size}, nil
}

// NodeGetVolumeStats says how full a volume is.
func (d *Driver) NodeGetVolumeStats(ctx context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if r.GetVolumeId() == "" || r.GetVolumePath() == "" {
		return nil, status.Error(codes.InvalidArgument, "no volume id or no volume path is given")
	}
	image, ok := parseID(r.GetVolumeId())
	if !ok {
		return nil, status.Errorf(codes.NotFound, "volume %s is not there", r.GetVolumeId())
	}
	device, m, err := d.shown(ctx, image, r.GetVolumePath())
	if err != nil {
		return nil, err
	}
	if m.kind == "devtmpfs" {
		size, err := deviceSize(device)
		if err != nil {
			return nil, answer(err)
		}
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: size}}}, nil
	}
	s, err := usage(m.point)
	if err != nil {
		return nil, answer(err)
	}
	block := s.Bsize
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: int64(s.Blocks) * block, Available: int64(s.Bavail) * block, Used: int64(s.Blocks-s.Bfree) * block},
		{Unit: csi.VolumeUsage_INODES, Total: int64(s.Files), Available: int64(s.Ffree), Used: int64(s.Files - s.Ffree)},
	}}, nil
}

// NodeGetInfo names this host. Every host reaches every volume.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.Node}, nil
}

// NodeGetCapabilities says what the node service can do.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	out := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS, csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		out.Capabilities = append(out.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}}})
	}
	return out, nil
}

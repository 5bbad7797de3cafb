package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Name is that of the driver in Kubernetes.
const Name = "rbd.roost.local"

// Driver serves the Container Storage Interface on this host. Node, Pool and Cluster are needed.
type Driver struct {
	Node    string // name of this host in Kubernetes
	Pool    string // in which volumes are made that name no other
	Version string // of the release; "0" when empty
	Cluster *Cluster
	Log     *slog.Logger

	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer

	held held
}

// Serve answers on a socket until ctx ends. Where registry, a directory, is given, the kubelet is told there of the driver.
func (d *Driver) Serve(ctx context.Context, socket, registry string) error {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	server := grpc.NewServer(grpc.UnaryInterceptor(d.log))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	err := serve(ctx, group, server, socket)
	if err == nil && registry != "" {
		// Only now: the kubelet calls the driver as soon as it sees this.
		err = serve(ctx, group, newRegistration(socket, d.Log), filepath.Join(registry, Name+"-reg.sock"))
	}
	if err != nil {
		stop()
		return errors.Join(err, group.Wait())
	}
	d.Log.Info("volumes are served", "socket", socket, "pool", d.Pool)
	return group.Wait()
}

// stopPatience is how long calls under way may take when the driver ends.
const stopPatience = 10 * time.Second

// serve listens on a socket, in place of what a crash left there, and serves in the group.
func serve(ctx context.Context, group *errgroup.Group, server *grpc.Server, socket string) error {
	err := os.MkdirAll(filepath.Dir(socket), 0o750)
	if err == nil {
		if err = os.Remove(socket); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	var listener net.Listener
	if err == nil {
		listener, err = net.Listen("unix", socket)
	}
	if err != nil {
		return fmt.Errorf("cannot serve volumes: %w", err)
	}
	group.Go(func() error { return server.Serve(listener) })
	group.Go(func() error {
		<-ctx.Done()
		force := time.AfterFunc(stopPatience, server.Stop)
		defer force.Stop()
		server.GracefulStop()
		return nil
	})
	return nil
}

// log notes the calls that fail. What callers get wrong is theirs to report.
func (d *Driver) log(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	answer, err := next(ctx, request)
	if code := status.Code(err); code == codes.Internal || code == codes.FailedPrecondition || code == codes.DeadlineExceeded {
		d.Log.Warn("a volume could not be served", "call", filepath.Base(info.FullMethod), "error", err)
	}
	return answer, err
}

// GetPluginInfo names the driver.
func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	version := d.Version
	if version == "" {
		version = "0"
	}
	return &csi.GetPluginInfoResponse{Name: Name, VendorVersion: version}, nil
}

// GetPluginCapabilities says what the driver is.
func (d *Driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}}},
		{Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_ONLINE}}},
	}}, nil
}

// Probe says that the driver runs. It does not ask Ceph: a driver without Ceph waits for it in each call.
func (d *Driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// held are the volumes that a call works on: one call at a time for each.
type held struct {
	mu  sync.Mutex // guards ids
	ids map[string]bool
}

// hold takes a volume for a call, which gives it back through release; a second call has to come again.
func (h *held) hold(id string) (release func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ids[id] {
		return nil, status.Errorf(codes.Aborted, "volume %s: another call is under way", id)
	}
	if h.ids == nil {
		h.ids = map[string]bool{}
	}
	h.ids[id] = true
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.ids, id)
	}, nil
}

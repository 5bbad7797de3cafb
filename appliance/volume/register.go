package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// The kubelet looks into a directory for sockets of plugins and asks each what it is (pluginregistration.Registration, version
// 1). It is two calls of five fields, written out here: the module that has them made, k8s.io/kubelet, brings many others.

// registration answers the kubelet.
type registration struct {
	socket string
	log    *slog.Logger
}

// pluginInfo says what a plugin is: PluginInfo, to be written only.
type pluginInfo struct {
	kind, name, endpoint string
	versions             []string
}

func (p *pluginInfo) marshal() (b []byte) {
	for i, text := range append([]string{p.kind, p.name, p.endpoint}, p.versions...) {
		b = protowire.AppendTag(b, protowire.Number(min(i+1, 4)), protowire.BytesType)
		b = protowire.AppendString(b, text)
	}
	return b
}

// registered is how registration went: RegistrationStatus, to be read only.
type registered struct {
	ok     bool
	reason string
}

func (r *registered) unmarshal(b []byte) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		switch {
		case number == 1 && kind == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return protowire.ParseError(n)
			}
			r.ok, b = protowire.DecodeBool(v), b[n:]
		case number == 2 && kind == protowire.BytesType:
			v, n := protowire.ConsumeString(b)
			if n < 0 {
				return protowire.ParseError(n)
			}
			r.reason, b = v, b[n:]
		default:
			n := protowire.ConsumeFieldValue(number, kind, b)
			if n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
		}
	}
	return nil
}

// nothing is a message without fields, or one whose fields nobody reads.
type nothing struct{}

// wire writes and reads these messages.
type wire struct{}

func (wire) Name() string { return "proto" }

func (wire) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case *pluginInfo:
		return mem.BufferSlice{mem.SliceBuffer(v.marshal())}, nil
	case *nothing:
		return mem.BufferSlice{mem.SliceBuffer(nil)}, nil
	}
	return nil, fmt.Errorf("cannot write %T", v)
}

func (wire) Unmarshal(b mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *registered:
		return v.unmarshal(b.Materialize())
	case *nothing:
		return nil
	}
	return fmt.Errorf("cannot read %T", v)
}

var _ encoding.CodecV2 = wire{}

// newRegistration tells the kubelet of the driver at a socket.
func newRegistration(socket string, log *slog.Logger) *grpc.Server {
	server := grpc.NewServer(grpc.ForceServerCodecV2(wire{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "pluginregistration.Registration",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "GetInfo", Handler: func(self any, _ context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				if err := read(&nothing{}); err != nil {
					return nil, err
				}
				return &pluginInfo{kind: "CSIPlugin", name: Name, endpoint: self.(*registration).socket, versions: []string{"1.0.0"}}, nil
			}},
			{MethodName: "NotifyRegistrationStatus", Handler: func(self any, _ context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				how := &registered{}
				if err := read(how); err != nil {
					return nil, err
				}
				self.(*registration).note(how)
				return &nothing{}, nil
			}},
		},
	}, &registration{socket: socket, log: log})
	return server
}

// note logs how it went. The kubelet tries again by itself.
func (r *registration) note(how *registered) {
	if how.ok {
		r.log.Info("the kubelet knows the driver")
		return
	}
	r.log.Warn("the kubelet refuses the driver", "error", errors.New(how.reason))
}

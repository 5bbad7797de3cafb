package store

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"google.golang.org/grpc"
)

// Door lets a program of this machine into a part of the store by the engine's own protocol: Kubernetes, whose API server
// speaks no other.
//
// It opens what its fields say and nothing else: keys below Prefix and those of Extra, to read, write and watch, and leases.
// Everything else is refused, compaction too, because the history is everyone's. The engine's own users and roles were
// rejected: they are switched on for all at once, this process included, and a release from before that, to which a host may
// have to roll back, could not read its store any more; and they do not keep a user from compacting.
type Door struct {
	Prefix string      // ends in a slash
	Extra  []string    // single keys
	TLS    *tls.Config // decides who comes in
}

// Serve opens the door on listener until ctx ends. It closes the listener.
func (s *Store) Serve(ctx context.Context, listener net.Listener, d Door) error {
	server := v3rpc.Server(s.etcd.Server, d.TLS, d.unary, grpc.ChainStreamInterceptor(d.stream))
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) && ctx.Err() == nil {
		return fmt.Errorf("cannot serve %s of the store: %w", d.Prefix, err)
	}
	return nil
}

// unary passes requests that stay inside.
func (d Door) unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if !d.admits(request) {
		return nil, rpctypes.ErrGRPCPermissionDenied
	}
	return next(ctx, request)
}

// admits reports whether a request is of the known kinds and stays inside.
func (d Door) admits(request any) bool {
	switch r := request.(type) {
	case *pb.RangeRequest:
		return d.inside(r.Key, r.RangeEnd)
	case *pb.PutRequest:
		return d.inside(r.Key, nil)
	case *pb.DeleteRangeRequest:
		return d.inside(r.Key, r.RangeEnd)
	case *pb.TxnRequest:
		return d.admitsTxn(r)
	case *pb.WatchRequest:
		create := r.GetCreateRequest()
		return create == nil || d.inside(create.Key, create.RangeEnd)
	case *pb.LeaseTimeToLiveRequest:
		return !r.Keys // the keys may be anyone's
	case *pb.LeaseGrantRequest, *pb.LeaseRevokeRequest, *pb.LeaseKeepAliveRequest, *pb.StatusRequest:
		return true
	}
	return false
}

func (d Door) admitsTxn(r *pb.TxnRequest) bool {
	for _, c := range r.Compare {
		if !d.inside(c.Key, c.RangeEnd) {
			return false
		}
	}
	for _, op := range append(append([]*pb.RequestOp{}, r.Success...), r.Failure...) {
		var inner any
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			inner = o.RequestRange
		case *pb.RequestOp_RequestPut:
			inner = o.RequestPut
		case *pb.RequestOp_RequestDeleteRange:
			inner = o.RequestDeleteRange
		case *pb.RequestOp_RequestTxn:
			inner = o.RequestTxn
		}
		if !d.admits(inner) {
			return false
		}
	}
	return true
}

// inside reports whether a key, or all keys from key up to end, are below the prefix. An end of one zero byte means all keys
// there are.
func (d Door) inside(key, end []byte) bool {
	if len(end) == 0 {
		for _, extra := range d.Extra {
			if string(key) == extra {
				return true
			}
		}
		return bytes.HasPrefix(key, []byte(d.Prefix))
	}
	past := []byte(d.Prefix) // the first key after all that begin with the prefix: it ends in a slash, whose next is a zero
	past[len(past)-1]++
	return bytes.HasPrefix(key, []byte(d.Prefix)) && !bytes.Equal(end, []byte{0}) && bytes.Compare(end, past) <= 0
}

// stream looks at every message that comes in.
func (d Door) stream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return next(server, &doorStream{stream, d})
}

type doorStream struct {
	grpc.ServerStream
	door Door
}

// RecvMsg refuses what does not stay inside; the stream ends with it.
func (s *doorStream) RecvMsg(message any) error {
	if err := s.ServerStream.RecvMsg(message); err != nil {
		return err
	}
	if !s.door.admits(message) {
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

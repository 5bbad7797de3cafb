package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// Released says how [Release] gives volumes back.
type Released struct {
	Cluster  *Cluster
	Pods     string        // cgroup of all pods, which are killed when they do not end; none when empty
	Patience time.Duration // for pods to end by themselves, and then for volumes to become free
	Log      *slog.Logger
}

const releasePause = 300 * time.Millisecond

// Release unmounts all volumes of this host and takes their devices away. It is for the time when the machine goes down: Ceph's
// daemons end with it, and what is not written back before that is lost, or holds the machine up. Pods that still run are
// given time, then killed.
func (r Released) Release(ctx context.Context) error {
	err := r.attempt(ctx, r.Patience)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if r.Pods != "" {
		r.Log.Warn("pods that use volumes do not end, they are killed", "error", err)
		// All processes below the cgroup (Linux 5.14).
		if err := os.WriteFile(r.Pods+"/cgroup.kill", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			r.Log.Warn("pods cannot be killed", "error", err)
		}
	}
	return r.attempt(ctx, r.Patience)
}

// attempt tries to release all volumes again and again.
func (r Released) attempt(ctx context.Context, patience time.Duration) error {
	end := time.Now().Add(patience)
	for {
		left, err := r.once(ctx)
		if err == nil && left == 0 {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("cannot release volumes: %d are in use", left)
		}
		if time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(releasePause):
		}
	}
}

// once releases what can be, and counts the rest.
func (r Released) once(ctx context.Context) (left int, err error) {
	devices, err := r.Cluster.devices(ctx)
	if err != nil {
		return 0, err
	}
	var why []error
	for _, m := range devices {
		if err := r.free(ctx, m.device); err != nil {
			left++
			why = append(why, err)
		}
	}
	return left, errors.Join(why...)
}

// free unmounts a device everywhere, the newest mount first, and takes it away.
func (r Released) free(ctx context.Context, device string) error {
	number, err := deviceNumber(device)
	if err != nil {
		return err
	}
	list, err := mounts()
	if err != nil {
		return err
	}
	for i := len(list) - 1; i >= 0; i-- {
		if !list[i].holds(device, number) {
			continue
		}
		if err := unmount(list[i].point); err != nil {
			return err
		}
	}
	return r.Cluster.detach(ctx, device)
}

package ceph

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"os"

	"roost/appliance/api"
)

// keys reads the site's answer that this host keeps: users of Ceph to their keys, and the cluster's id.
func (b *bringUp) keys() (map[string]string, error) {
	keys := map[string]string{}
	text, err := b.Keys.Read(keysFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("no keys of Ceph yet")
	}
	if err == nil {
		err = json.Unmarshal(text, &keys)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read keys of Ceph: %w", err)
	}
	return keys, nil
}

func (b *bringUp) fsid() string {
	keys, err := b.keys()
	if err != nil {
		return "" // the step before this one sees to it
	}
	return keys[secretFSID]
}

// hasKeys asks for all that this host needs of the site.
func (b *bringUp) hasKeys(context.Context) error {
	keys, err := b.keys()
	if err != nil {
		return err
	}
	need := []string{secretFSID, userBootstrap}
	if b.control {
		need = append(append(need, poolUsers()...), userMonitor, userAdmin, userReader, manager(b.node), metadata(b.node), gateway(b.node))
	}
	if b.control && b.wish.Objects {
		need = append(need, secretAccess, secretSecret)
	}
	for _, name := range need {
		if keys[name] == "" {
			return fmt.Errorf("no key of %s yet", name)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range b.wish.On(b.node) {
		if d.Encrypt && b.diskKey == nil {
			return errors.New("no key of the encrypted disks yet")
		}
	}
	return nil
}

// fetchKeys asks the site for them. The one of encrypted disks stays in memory: a disk that is sold tells nothing, nor does
// this host's own.
func (b *bringUp) fetchKeys(ctx context.Context) error {
	material, err := b.Join(ctx, api.Join{Schema: 1})
	if err != nil {
		return err
	}
	keys := map[string]string{}
	for name, secret := range material.Secrets {
		keys[name] = string(secret)
	}
	b.mu.Lock()
	b.diskKey = material.Secrets[diskKey]
	b.mu.Unlock()
	delete(keys, diskKey)
	if have, err := b.keys(); err == nil && have[secretFSID] != keys[secretFSID] {
		return fmt.Errorf("the site now has the Ceph cluster %s, but this host is of %s", keys[secretFSID], have[secretFSID])
	}
	text, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return err
	}
	return b.Keys.Write(keysFile, append(text, '\n'))
}

// hasPurged asks whether the OSDs of all disks that are gone are, too.
func (b *bringUp) hasPurged(context.Context) error {
	list, err := b.disks()
	if err != nil {
		return err
	}
	for _, d := range list {
		if d.deed == purge {
			return fmt.Errorf("OSD %d of disk %s, which is gone, is still in the cluster", d.noted.ID, d.Path)
		}
	}
	return nil
}

// purge takes the OSDs of disks that are gone out of the cluster for good. What they held is copied from the others.
func (b *bringUp) purge(ctx context.Context) error {
	b.changed()
	list, err := b.disks()
	if err != nil {
		return err
	}
	for _, d := range list {
		if d.deed != purge {
			continue
		}
		if d.noted.ID >= 0 {
			for _, u := range []unit{d.noted.runOSD(), d.noted.makeOSD()} {
				if err := b.Machine.StopUnit(ctx, u.name); err != nil {
					return err
				}
				if err := os.Remove(b.path(u.file().path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			if _, err := b.ceph(ctx, nil, "osd", "purge", strconv.Itoa(d.noted.ID), "--yes-i-really-mean-it"); err != nil {
				return err
			}
		}
		if err := b.note(d.Path, nil); err != nil {
			return err
		}
	}
	return nil
}

// accepted asks whether there is no disk that people must see to.
func (b *bringUp) accepted(context.Context) error {
	list, err := b.disks()
	if err != nil {
		return err
	}
	var all []error
	for _, d := range list {
		if d.refused != nil {
			all = append(all, d.refused)
		}
	}
	return oneLine(all)
}

// hasOSDs asks whether every disk that can be an OSD is one, and runs.
func (b *bringUp) hasOSDs(ctx context.Context) error {
	list, err := b.disks()
	if err != nil {
		return err
	}
	for _, d := range list {
		switch d.deed {
		case create, adopt:
			return fmt.Errorf("disk %s is no OSD yet", d.Path)
		case serve:
			if err := b.runs(ctx, d.noted.runOSD()); err != nil {
				return fmt.Errorf("disk %s: %w", d.Path, err)
			}
		}
	}
	return nil
}

// makeOSDs makes what can be made, all disks at once: each takes its time, most of it in waiting for the disk.
func (b *bringUp) makeOSDs(ctx context.Context) error {
	b.changed()
	list, err := b.disks()
	if err != nil {
		return err
	}
	failed := make([]error, len(list))
	var group sync.WaitGroup
	for i, d := range list {
		group.Go(func() { failed[i] = b.makeOSD(ctx, d) })
	}
	group.Wait()
	return oneLine(failed)
}

func (b *bringUp) makeOSD(ctx context.Context, d disk) (err error) {
	o := d.noted
	switch d.deed {
	case adopt:
		o, err = b.adopt(ctx, d)
	case create:
		o, err = b.create(ctx, d)
	case serve:
		err = b.hand(o)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	u := o.runOSD()
	if b.runs(ctx, u) == nil {
		return nil
	}
	if err := b.put(u.file()); err != nil {
		return err
	}
	return b.Machine.StartUnit(ctx, u.name)
}

// adopt notes an OSD of this cluster that this host does not know, as after it was installed anew.
func (b *bringUp) adopt(ctx context.Context, d disk) (*osd, error) {
	id, err := strconv.Atoi(d.found.osd.meta["whoami"])
	if err != nil {
		return nil, fmt.Errorf("cannot use disk %s: its label names no OSD", d.Path)
	}
	key, err := b.ceph(ctx, nil, "auth", "get-key", fmt.Sprintf("osd.%d", id))
	if err != nil {
		return nil, fmt.Errorf("cannot use disk %s, which holds %s: %w", d.Path, d.found, err)
	}
	o := &osd{Path: d.Path, UUID: d.found.osd.uuid, ID: id, Key: strings.TrimSpace(string(key)), Made: true}
	if err := b.note(d.Path, o); err != nil {
		return nil, err
	}
	return o, b.hand(o)
}

// create makes the disk an OSD. What has been done of it is found by the notes, the cluster and the disk; each part may be done
// twice.
func (b *bringUp) create(ctx context.Context, d disk) (*osd, error) {
	o := d.noted
	if o == nil {
		o = &osd{Path: d.Path, UUID: newUUID(), Key: newKey(), ID: -1, Encrypted: d.Encrypt}
		if err := b.note(d.Path, o); err != nil {
			return nil, err
		}
	}
	if d.found.is(o) && d.found.osd != nil && d.found.osd.finished() { // and then the power went
		o.Made = true
		return o, errors.Join(b.note(d.Path, o), b.hand(o))
	}
	if o.ID < 0 {
		secret, err := json.Marshal(map[string]string{"cephx_secret": o.Key})
		if err != nil {
			return nil, err
		}
		out, err := b.ceph(ctx, secret, "--name", userBootstrap, "--keyring", b.path(confDir+"/ceph."+userBootstrap+".keyring"), "osd", "new", o.UUID, "--in-file", "-")
		if err != nil {
			return nil, err
		}
		if o.ID, err = strconv.Atoi(strings.TrimSpace(string(out))); err != nil {
			return nil, fmt.Errorf("cannot make disk %s an OSD: Ceph names it %q", d.Path, out)
		}
		if err := b.note(d.Path, o); err != nil {
			return nil, err
		}
	}
	if err := b.format(ctx, o, d.found.is(o)); err != nil {
		return nil, err
	}
	found, err := b.lookAt(d.Path)
	if err != nil {
		return nil, err
	}
	if !found.is(o) {
		return nil, fmt.Errorf("cannot make disk %s an OSD: it holds %s afterwards", d.Path, found)
	}
	o.Made = true
	return o, b.note(d.Path, o)
}

// hand writes what an OSD's services are handed.
func (b *bringUp) hand(o *osd) error {
	if o.Encrypted {
		b.mu.Lock()
		key := derive(b.diskKey, o.UUID)
		known := b.diskKey != nil
		b.mu.Unlock()
		if !known {
			return fmt.Errorf("cannot open disk %s: no key of the encrypted disks yet", o.Path)
		}
		if err := b.put(file{o.diskKeyFile(), 0o600, hex.EncodeToString(key)}); err != nil {
			return err
		}
	}
	return b.put(file{o.keyringFile(), 0o600, keyring(fmt.Sprintf("osd.%d", o.ID), o.Key, nil)})
}

const formatLimit = 5 * time.Minute // of one OSD on a slow disk

// format runs the service that makes the OSD and waits for its end. begun says that it has begun to before: what it left is
// written over, and perhaps still open.
func (b *bringUp) format(ctx context.Context, o *osd, begun bool) error {
	u := o.makeOSD()
	if err := errors.Join(b.hand(o), b.put(u.file())); err != nil {
		return err
	}
	if err := b.Machine.StopUnit(ctx, u.name); err != nil { // left by a daemon that was killed, or by an OSD of the same number
		return err
	}
	if !begun {
		if err := b.clear(o.Path); err != nil {
			return err
		}
	}
	if err := b.Machine.StartUnit(ctx, u.name); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, formatLimit)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		state, err := b.Machine.UnitState(ctx, u.name)
		switch {
		case err != nil:
			return err
		case state == "active":
			return nil
		case state == "failed":
			return fmt.Errorf("cannot make disk %s an OSD: %s failed; its journal says why", o.Path, u.name)
		}
		select {
		case <-within.Done():
			return fmt.Errorf("cannot make disk %s an OSD: %s is %s: %w", o.Path, u.name, state, within.Err())
		case <-ticker.C:
		}
	}
}

// newKey makes a random key of Ceph.
func newKey() string {
	seed := make([]byte, 32)
	rand.Read(seed) // never fails
	return keyOf(seed, "osd")
}

// oneLine makes one error of many.
func oneLine(list []error) error {
	var texts []string
	for _, err := range list {
		if err != nil {
			texts = append(texts, err.Error())
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}

package appliance

import (
	"context"
	"encoding/json"
	"fmt"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/appliance/linux"
	"roost/appliance/trust"
	"roost/updater"
	"roost/updater/boot"
	"roost/updater/slot"
)

// slotless is the disk of a container of the lab, as the update engine sees it: there is none.
type slotless struct{}

func noSlots() error { return fmt.Errorf("%w: %w", linux.ErrContainer, updater.ErrNoSlots) }

func (slotless) Slots() ([]slot.Slot, error)                        { return nil, noSlots() }
func (slotless) Write(context.Context, slot.ID, slot.Content) error { return noSlots() }
func (slotless) Check(context.Context, slot.ID, string) error       { return noSlots() }
func (slotless) Seal(context.Context, slot.ID, string) error        { return noSlots() }
func (slotless) Use(context.Context, func(boot.ESP) error) error    { return noSlots() }
func (slotless) Close() error                                       { return nil }

// adopt is how a container of the lab is installed: it runs the granted release already, so only the identity and the
// configuration are written. The identity comes last, for without it there is nothing.
func (d *daemon) adopt(ctx context.Context, key *trust.Key, a *api.Assignment, site *client.Client, progress func(done, total int64)) error {
	if a.Disk != linux.ContainerState {
		return fmt.Errorf("cannot install to %s: %w; approve it with --disk %s", a.Disk, linux.ErrContainer, linux.ContainerState)
	}
	keys, err := d.releaseKeys()
	if err != nil {
		return err
	}
	fetcher := &Fetcher{Registry: a.Registry, Transport: site.Transport(), Keys: keys}
	source, err := fetcher.Open(ctx, a.Repository+"@"+string(a.Release))
	if err != nil {
		return err
	}
	if err := d.settle(key, a, source); err != nil {
		return err
	}
	progress(1, 1)
	return nil
}

// settle writes what the installed machine finds at its next boot.
func (d *daemon) settle(key *trust.Key, a *api.Assignment, source *updater.Source) error {
	r := &source.Release
	if r.RootHash != d.boot.RootHash {
		return fmt.Errorf("cannot install %s %s: %w and runs another root image; make it anew from that release", r.Name, r.Version, linux.ErrContainer)
	}
	for name, value := range map[string]any{configFile: a.Config, gatesFile: r.Gates} {
		b, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			return fmt.Errorf("cannot write %s: %w", name, err)
		}
		if err := d.state.Write(name, append(b, '\n')); err != nil {
			return err
		}
	}
	running := slot.Installed{Manifest: source.Manifest, Name: r.Name, Version: r.Version, RootHash: r.RootHash, UKI: r.UKI}
	if err := (slot.Records{Dir: d.state}).Put(running, func(slot.Installed) bool { return false }); err != nil {
		return err
	}
	return key.Save(d.identity, a)
}

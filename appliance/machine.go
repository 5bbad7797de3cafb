package appliance

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/appliance/linux"
	"roost/appliance/software"
	"roost/appliance/trust"
	"roost/images"
	"roost/images/release"
	"roost/updater"
	"roost/updater/boot"
	"roost/updater/install"
	"roost/updater/slot"
)

// Places on the machine, below its root.
const (
	stateDir    = "var/lib/roost"
	identityDir = stateDir + "/identity"
	controlDir  = stateDir + "/control"
	releaseKeys = "usr/lib/roost/trust/release.pub"
	sitePins    = "usr/lib/roost/trust/sites"
	gatesFile   = "gates.json"
	apiPort     = "7443"
)

// engineHost is the machine as the update engine asks about it.
type engineHost struct {
	root     string
	machine  linux.Machine
	rootHash string
	vars     boot.Variables
	state    software.Files
}

// crashFile remembers what tells the evidence of one failed boot from what was there before.
const crashFile = "crash.json"

type crashNotes struct {
	Known []string `json:"known"`          // crash records that were there when the update began
	From  string   `json:"from,omitempty"` // boot id of the boot that the engine ended by a reboot
}

func (h *engineHost) notes() (n crashNotes) {
	b, err := h.state.Read(crashFile)
	if err != nil || json.Unmarshal(b, &n) != nil {
		return crashNotes{} // then old records are taken for new ones, which is better than none
	}
	return n
}

func (h *engineHost) note(n crashNotes) error {
	b, err := json.Marshal(n)
	if err == nil {
		err = h.state.Write(crashFile, b)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", crashFile, err)
	}
	return nil
}

// Begin notes the crash records that are there before an update.
func (h *engineHost) Begin() error {
	records, err := h.machine.Pstore()
	if err != nil {
		return err
	}
	return h.note(crashNotes{Known: slices.Sorted(maps.Keys(records))})
}

func (h *engineHost) Facts(context.Context) (updater.Facts, error) {
	id, err := h.machine.BootID()
	if err != nil {
		return updater.Facts{}, err
	}
	uptime, err := h.machine.Uptime()
	if err != nil {
		return updater.Facts{}, err
	}
	started, err := h.vars.Started()
	if err != nil {
		return updater.Facts{}, err
	}
	uptime -= keptFor(h.root) // gates have all their time
	return updater.Facts{Boot: id, Uptime: uptime, Architecture: runtime.GOARCH, RootHash: h.rootHash, Started: started}, nil
}

// Evidence collects what it can: a boot that ended early has left little, and nothing must keep the machine from going on.
func (h *engineHost) Evidence(ctx context.Context, bootID string) (found updater.Found, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	notes := h.notes()
	log, id, err := h.machine.Journal(ctx, bootID, 60)
	switch {
	case err != nil:
		found.Log = []string{"no journal: " + err.Error()}
	case bootID != "" || id != notes.From: // else the failed boot left no journal, and this is the one before it
		found.Log = log
	}
	records, err := h.machine.Pstore()
	for _, name := range slices.Sorted(maps.Keys(records)) {
		if !slices.Contains(notes.Known, name) {
			found.Pstore = append(found.Pstore, records[name])
		}
	}
	return found, err
}

func (h *engineHost) Reboot(ctx context.Context) error {
	notes := h.notes()
	if id, err := h.machine.BootID(); err == nil {
		notes.From = id
	}
	return errors.Join(h.note(notes), h.machine.Reboot(ctx))
}

// openDisk opens what the update engine works on: the slots and the EFI system partition of the disk that this machine
// started from.
func (d *daemon) openDisk() (updater.Slots, updater.Boot, io.Closer, error) {
	if d.boot.Contained() {
		return slotless{}, slotless{}, slotless{}, nil
	}
	device, closer, err := slot.OpenDevice(d.boot.Disk)
	if err != nil {
		return nil, nil, nil, err
	}
	esp := &boot.Partition{Device: bootPartition(boot.Variables{Dir: boot.EFIVars}, d.boot.Disk), Dir: "/run/roost/esp", Log: d.log}
	updates := d.pulse.part("updates")
	return &slot.Disk{Device: device, Progress: func(int64, int64) { updates(updateLimit) }}, esp, closer, nil
}

// openEngine makes the update engine of this machine.
func openEngine(d *daemon, slots updater.Slots, esp updater.Boot, fetcher updater.Fetcher, gates updater.Gates) (*updater.Updater, *engineHost, error) {
	store, err := keptState(d.root, d.boot, d.state, d.log)
	if err != nil {
		return nil, nil, err
	}
	vars := boot.Variables{Dir: boot.EFIVars}
	host := &engineHost{root: d.root, machine: d.machine, rootHash: d.boot.RootHash, vars: vars, state: d.state}
	return &updater.Updater{
		Journal: d.state, Fetcher: fetcher, Slots: slots, Gates: gates, Log: d.log, Now: time.Now, Pause: 5 * time.Second,
		Expect: d.pulse.part("updates"),
		Boot:   esp, Host: host, Kept: store,
	}, host, nil
}

// bootPartition is the EFI system partition that the firmware started us from, or, where it does not say, the first of the disk.
func bootPartition(vars boot.Variables, disk string) string {
	if started, err := vars.Started(); err == nil && started.Partition != "" {
		path := "/dev/disk/by-partuuid/" + started.Partition
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return partition(disk, 1)
}

// partition names a partition of a disk as the kernel does: a disk whose name ends in a digit gets a p between.
func partition(disk string, n int) string {
	if last := disk[len(disk)-1:]; last >= "0" && last <= "9" {
		disk += "p"
	}
	return disk + strconv.Itoa(n)
}

// runningSlot is the slot whose root is mounted.
func runningSlot(slots updater.Slots, rootHash string) string {
	list, err := slots.Slots()
	if err != nil {
		return ""
	}
	for _, s := range list {
		if s.RootHash == rootHash {
			return string(s.ID)
		}
	}
	return ""
}

// installer installs this machine as the site granted.
func (d *daemon) install(ctx context.Context, key *trust.Key, a *api.Assignment, site *client.Client, progress func(done, total int64)) error {
	keys, err := d.releaseKeys()
	if err != nil {
		return err
	}
	fetcher := &Fetcher{Registry: a.Registry, Transport: site.Transport(), Keys: keys}
	source, err := fetcher.Open(ctx, a.Repository+"@"+string(a.Release))
	if err != nil {
		return err
	}
	files, err := installFiles(key, a, &source.Release)
	if err != nil {
		return err
	}
	path, err := filepath.EvalSymlinks(a.Disk)
	if err != nil {
		return fmt.Errorf("cannot install to %s: %w", a.Disk, err)
	}
	device, closer, err := slot.OpenDevice(path)
	if err != nil {
		return err
	}
	seed := sha256.Sum256([]byte(a.Nonce + a.Host))
	i := &install.Installer{
		Path: path, Device: device, Sector: d.sector(path), Formatter: install.Ext4{}, Log: d.log,
		Progress: func(stage install.Stage, done, total int64) {
			if stage == install.StageSlot {
				progress(done, total)
			}
		},
	}
	if vars := filepath.Join("/", d.root, boot.EFIVars); exists(vars) {
		i.Variables = &boot.Variables{Dir: vars}
	}
	err = i.Install(ctx, install.Request{Manifest: source.Manifest, Release: source.Release, Open: source.Open, Files: files, Wipe: a.Wipe, Seed: seed[:]})
	return errors.Join(err, closer.Close())
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// sector is the logical sector size of a disk in bytes.
func (d *daemon) sector(path string) int {
	inventory, err := d.inventory()
	if err == nil {
		for _, disk := range inventory.Disks {
			if disk.Path == path {
				return disk.Sector
			}
		}
	}
	return 0
}

// installFiles is what the installed system finds in its state at the first boot.
func installFiles(key *trust.Key, a *api.Assignment, r *images.Release) ([]install.File, error) {
	collected := &collector{}
	if err := key.Save(collected, a); err != nil {
		return nil, err
	}
	for name, value := range map[string]any{configFile: a.Config, gatesFile: r.Gates} {
		b, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("cannot write %s: %w", name, err)
		}
		collected.files = append(collected.files, install.File{Path: strings.TrimPrefix(stateDir, "var/") + "/" + name, Mode: 0o600, Data: append(b, '\n')})
	}
	return collected.files, nil
}

// collector takes an identity as files for the installer.
type collector struct{ files []install.File }

// Read finds nothing: a new identity is written, not read.
func (c *collector) Read(name string) ([]byte, error) { return nil, os.ErrNotExist }

// Write keeps a file of the identity.
func (c *collector) Write(name string, b []byte) error {
	c.files = append(c.files, install.File{Path: strings.TrimPrefix(identityDir, "var/") + "/" + name, Mode: 0o600, Data: b})
	return nil
}

// releaseKeys are the keys that this image trusts to sign releases.
func (d *daemon) releaseKeys() (keys []*ecdsa.PublicKey, err error) {
	b, err := os.ReadFile(filepath.Join("/", d.root, releaseKeys))
	if err != nil {
		return nil, fmt.Errorf("cannot read the image's release keys: %w", err)
	}
	return release.ParseKeys(b)
}

// pins are the fingerprints of site roots that this image trusts; none: the first one shown is believed.
func (d *daemon) pins() (pins []images.Digest, err error) {
	b, err := os.ReadFile(filepath.Join("/", d.root, sitePins))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the image's site pins: %w", err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		pin, err := images.ParseDigest(line)
		if err != nil {
			return nil, fmt.Errorf("cannot read the image's site pins: %w", err)
		}
		pins = append(pins, pin)
	}
	return pins, nil
}

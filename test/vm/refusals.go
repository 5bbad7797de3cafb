package vm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"roost/appliance/api"
	"roost/images"
	"roost/images/depot"
	"roost/images/disk"
	"roost/images/keys"
	"roost/test/lab"
)

// refuseRequests asks the running site, on release 2, for what it must refuse: each time with the reason and the next command
// where there is one, and both machines stay in service on what they run.
func (j *Journey) refuseRequests(ctx context.Context) error {
	bad, err := j.forgeAll(ctx)
	if err != nil {
		return err
	}
	push := func(name string) []string { return []string{"release", "push", j.path("bad"), "--release", bad[name]} }
	start := func(release string, more ...string) []string {
		return append([]string{"update", "start", release}, more...)
	}
	for _, name := range []string{"for arm64", "flipped"} {
		if err := j.roost(ctx, push(name)...); err != nil {
			return err
		}
	}
	for _, r := range []struct {
		command []string
		says    []string
	}{
		{start(j.releases["2"]), []string{"every host runs edge 2.0.0 already"}},
		{start(j.releases["1"]), []string{"1.0.0 is older than 2.0.0", "--force"}},
		{start("edge:9.9"), []string{"no release edge 9.9 is on the site's shelf", "roost release push"}},
		{start(j.releases["2"], "--only", "worker-9"), []string{`cannot find host "worker-9"`, "roost host list"}},
		{start(bad["for arm64"], "--only", "worker-0"), []string{"is for arm64, host worker-0 is amd64"}},
		{push("unsigned"), []string{"cannot copy release edge 2.2.0", "not signed"}},
		{push("signed by a stranger"), []string{"cannot copy release edge 2.3.0", "signed by a key that is not trusted"}},
		{push("built anew"), []string{"another release has this version"}},
		{[]string{"host", "approve", "worker-0", "--personality", "worker"}, []string{"it is in service"}},
		{[]string{"host", "approve", "nobody", "--personality", "worker"}, []string{`cannot find host "nobody"`, "roost host list"}},
	} {
		if err := j.refused(ctx, r.says, r.command...); err != nil {
			return err
		}
	}
	if err := j.refuseDamaged(ctx, bad["flipped"]); err != nil {
		return err
	}
	for _, name := range []string{"worker-0", "controller-0"} {
		if _, err := j.awaitHost(ctx, time.Minute, name, j.runs("2")); err != nil {
			return err
		}
	}
	return nil
}

// refused demands that a command fails and says why.
func (j *Journey) refused(ctx context.Context, says []string, args ...string) error {
	err := j.roost(ctx, args...)
	if err == nil {
		return fmt.Errorf("roost %s was not refused", strings.Join(args, " "))
	}
	for _, want := range says {
		if !strings.Contains(err.Error(), want) {
			return fmt.Errorf("%w\nwant %q in it", err, want)
		}
	}
	fmt.Fprintf(j.Out, "      refused: %v\n", err)
	return nil
}

// refuseDamaged rolls a release out whose root image has one wrong bit, and asks for another update meanwhile.
func (j *Journey) refuseDamaged(ctx context.Context, digest string) error {
	if err := j.roost(ctx, "update", "start", digest, "--only", "worker-0"); err != nil {
		return err
	}
	if err := j.refused(ctx, []string{"cannot start update: update", "roost update abort"}, "update", "start", j.releases["1"], "--force"); err != nil {
		return err
	}
	return j.paused(ctx, "does not take 2.1.0", "root", "does not match its digest", "it runs 2.0.0")
}

// paused waits until the update pauses, demands that it says why, and ends it.
func (j *Journey) paused(ctx context.Context, says ...string) error {
	limit := time.Now().Add(5 * time.Minute)
	for {
		var u api.Update
		if err := j.query(ctx, &u, "update", "status"); err != nil {
			return err
		}
		if u.State == api.Paused {
			fmt.Fprintf(j.Out, "      refused: %s\n", u.Reason)
			for _, want := range says {
				if !strings.Contains(u.Reason, want) {
					return fmt.Errorf("the update is paused, for %q: want %q in it", u.Reason, want)
				}
			}
			return j.roost(ctx, "update", "abort")
		}
		if u.State == api.Done || time.Now().After(limit) {
			return fmt.Errorf("the update does not pause: it is %s %s", u.State, u.Reason)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// forgeAll makes releases that nobody should take, of the parts of release 2, in a depot of their own. It returns their
// digests by what is wrong with them.
func (j *Journey) forgeAll(ctx context.Context) (map[string]string, error) {
	set, err := keys.Open(j.path("keys"))
	if err != nil {
		return nil, err
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	shelf, err := depot.Open(ctx, j.path("depot"), depot.Options{})
	if err != nil {
		return nil, err
	}
	defer shelf.Close()
	two, err := shelf.Get(ctx, j.releases["2"])
	if err != nil {
		return nil, err
	}
	bad, err := depot.Open(ctx, j.path("bad"), depot.Options{Create: true})
	if err != nil {
		return nil, err
	}
	defer bad.Close()
	made := map[string]string{}
	for _, f := range []struct {
		name   string
		signer crypto.Signer
		change func(*depot.Publication) error
	}{
		{"for arm64", set.Release(), func(p *depot.Publication) error {
			p.Document.Version, p.Document.Architecture = "2.0.1", "arm64"
			return nil
		}},
		{"flipped", set.Release(), func(p *depot.Publication) error { p.Document.Version = "2.1.0"; return j.flipRoot(p) }},
		{"unsigned", nil, func(p *depot.Publication) error { p.Document.Version = "2.2.0"; return nil }},
		{"signed by a stranger", stranger, func(p *depot.Publication) error { p.Document.Version = "2.3.0"; return nil }},
		{"built anew", set.Release(), func(p *depot.Publication) error {
			p.Document.Created = p.Document.Created.Add(time.Second)
			return nil
		}},
	} {
		document := *two.Document
		p := depot.Publication{Document: &document, Parts: map[images.Kind]string{}, Signer: f.signer}
		for kind, part := range two.Manifest.Parts {
			p.Parts[kind] = j.path("depot", "blobs", "sha256", part.Digest.Hex())
		}
		if err := f.change(&p); err != nil {
			return nil, err
		}
		r, err := bad.Publish(ctx, p)
		if err != nil {
			return nil, err
		}
		made[f.name] = string(r.Manifest.Digest)
	}
	return made, nil
}

// flipRoot gives a release another root image, a small one that a machine has soon read, of which one bit is not as the
// signed document says.
func (j *Journey) flipRoot(p *depot.Publication) error {
	content := make([]byte, 8<<20)
	if _, err := rand.Read(content); err != nil {
		return err
	}
	p.Document.Root = images.Part{Digest: images.DigestOf(content), Size: int64(len(content))}
	hash := images.DigestOf(content[:100]).Hex()
	p.Document.CommandLine = strings.Replace(p.Document.CommandLine, p.Document.RootHash, hash, 1)
	p.Document.RootHash = hash
	content[len(content)/2] ^= 4
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		return err
	}
	p.Parts[images.KindRoot] = j.path("flipped.erofs.zst")
	return errors.Join(os.WriteFile(p.Parts[images.KindRoot], encoder.EncodeAll(content, nil), 0o644), encoder.Close())
}

// approveAbsent lets a third machine be discovered, takes its power away, and approves it when the site knows that it left.
func (j *Journey) approveAbsent(ctx context.Context) error {
	m, err := j.lab.Add(lab.Spec{Name: "m3"})
	if err != nil {
		return err
	}
	if err := m.PowerOn(ctx); err != nil {
		return err
	}
	if _, err := j.awaitHost(ctx, 5*time.Minute, m.MAC(), discovered); err != nil {
		return err
	}
	if err := m.Remove(); err != nil {
		return err
	}
	h, err := j.awaitHost(ctx, 5*time.Minute, m.MAC(), func(h *api.Host) error {
		if h.Availability != api.Offline {
			return fmt.Errorf("it is %s", h.Availability)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return j.refused(ctx, []string{"the machine has left", "it was last heard of at", "boot it from the network again"},
		"host", "approve", h.Name, "--personality", "worker", "--as", "worker-1")
}

// discovered demands a host that waits for approval.
func discovered(h *api.Host) error {
	if h.Phase != api.Discovered {
		return fmt.Errorf("it is %s", h.Phase)
	}
	return nil
}

// fillPartition fills the worker's EFI system partition, a real FAT, while the worker is off: release 2 is refused before
// anything is fetched. With room again, the update that follows works.
func (j *Journey) fillPartition(ctx context.Context) error {
	if err := j.publish(ctx, "2"); err != nil {
		return err
	}
	if err := j.withPartition(ctx, j.leaveRoom); err != nil {
		return err
	}
	if err := j.roost(ctx, "update", "start", j.releases["2"], "--only", "worker-0"); err != nil {
		return err
	}
	if err := j.paused(ctx, "does not take 2.0.0", "on the EFI system partition", "does not fit", "it runs 1.0.0"); err != nil {
		return err
	}
	if _, err := j.awaitHost(ctx, time.Minute, "worker-0", j.runs("1")); err != nil {
		return err
	}
	return j.withPartition(ctx, func(ctx context.Context, at string) error { return tool(ctx, "mdel", "-i", at, "::/filler.bin") })
}

// withPartition changes the worker's EFI system partition, in the way of mtools, while the worker is off.
func (j *Journey) withPartition(ctx context.Context, change func(ctx context.Context, at string) error) error {
	if err := j.worker.PowerOff(); err != nil {
		return err
	}
	f, err := os.Open(j.worker.DiskPath())
	if err != nil {
		return err
	}
	defer f.Close()
	table, err := disk.Read(f, j.worker.Disk)
	if err != nil {
		return err
	}
	p, ok := table.Find(disk.ESPA)
	if !ok {
		return fmt.Errorf("the worker's disk has no %s", disk.ESPA)
	}
	off := time.Now()
	if err := change(ctx, fmt.Sprintf("%s@@%d", f.Name(), p.Offset)); err != nil {
		return err
	}
	if err := j.worker.PowerOn(ctx); err != nil {
		return err
	}
	_, err = j.awaitHost(ctx, 10*time.Minute, "worker-0", func(h *api.Host) error {
		if h.LastSeen.Before(off) {
			return fmt.Errorf("it was last seen at %s", h.LastSeen)
		}
		return j.runs("1")(h)
	})
	return err
}

// leaveRoom fills the partition with a file until the UKI of release 2 fits once, not twice.
func (j *Journey) leaveRoom(ctx context.Context, at string) error {
	shelf, err := depot.Open(ctx, j.path("depot"), depot.Options{})
	if err != nil {
		return err
	}
	defer shelf.Close()
	size := disk.DefaultESP
	for n, parts := range map[string]int64{"1": 2, "2": 3} { // halves
		r, err := shelf.Get(ctx, j.releases[n])
		if err != nil {
			return err
		}
		size -= r.Document.UKI.Size * parts / 2
	}
	filler := j.path("filler.bin")
	if err := errors.Join(os.WriteFile(filler, nil, 0o600), os.Truncate(filler, size)); err != nil {
		return err
	}
	return tool(ctx, "mcopy", "-i", at, filler, "::/filler.bin")
}

// tool runs a program of this computer.
func tool(ctx context.Context, name string, args ...string) error {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return nil
}

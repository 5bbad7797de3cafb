package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"roost/appliance/api"
	"roost/images"
	"roost/images/keys"
	"roost/test/lab"
)

// Addresses of the site in the lab.
const (
	controllerAddress = lab.Controller + "/24"
	addressRange      = "10.77.0.100-10.77.0.199"
)

// build makes keys, the first release, and the images for machines that boot from a disk or a disc.
func (j *Journey) build(ctx context.Context) error {
	if err := j.prepareBuild(ctx); err != nil {
		return err
	}
	if err := j.release(ctx, "1"); err != nil {
		return err
	}
	if err := j.roost(ctx, "image", "verify", j.path("depot"), "--release", j.releases["1"], "--key", j.path("keys", "release.pub")); err != nil {
		return err
	}
	for _, kind := range []string{"disk", "iso"} {
		if err := j.roost(ctx, "image", kind, j.path("depot"), j.path("edge."+kind), "--release", j.releases["1"]); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journey) prepareBuild(ctx context.Context) error {
	if err := os.CopyFS(j.path("recipes"), os.DirFS(j.Recipes)); err != nil {
		return err
	}
	return j.roost(ctx, "keys", "init", j.path("keys"), "--name", "Journey")
}

// release builds release n from its recipe and remembers its manifest digest.
func (j *Journey) release(ctx context.Context, n string) error {
	return j.releaseOf(ctx, j.recipe(n), n)
}

// releaseOf builds a release from any recipe, to be called n.
func (j *Journey) releaseOf(ctx context.Context, recipe, n string) error {
	if err := j.roost(ctx, "lock", recipe); err != nil {
		return err
	}
	return j.buildLocked(ctx, recipe, n)
}

// buildLocked builds a release from a recipe with the lock that it has.
func (j *Journey) buildLocked(ctx context.Context, recipe, n string) error {
	var built struct {
		Digest images.Digest `json:"digest"`
	}
	err := j.query(ctx, &built, "build", recipe, "--keys", j.path("keys"), "--depot", j.path("depot"))
	if err != nil {
		return err
	}
	j.releases[n] = string(built.Digest)
	fmt.Fprintf(j.Out, "      release %s is %s\n", n, built.Digest)
	return nil
}

// makeLab makes the lab whose firmware enforces our keys.
func (j *Journey) makeLab(ctx context.Context) error {
	set, err := keys.Open(j.path("keys"))
	if err != nil {
		return err
	}
	enrolled := &lab.Keys{}
	for use, list := range map[string]*[]byte{keys.PK: &enrolled.PK, keys.KEK: &enrolled.KEK, keys.DB: &enrolled.DB} {
		if *list, err = set.SignatureList(use); err != nil {
			return err
		}
	}
	l, err := lab.Up(ctx, lab.Config{Name: j.Lab, Dir: j.path("lab"), SecureBoot: enrolled})
	if err != nil {
		return err
	}
	j.lab = l
	fmt.Fprintf(j.Out, "      machines run under %s\n", l.Accelerator())
	return nil
}

// makeSite makes the site's authority, the lab and its two machines.
func (j *Journey) makeSite(ctx context.Context) (err error) {
	if err := j.makeLab(ctx); err != nil {
		return err
	}
	// The controller's disk is like a server's of today, the worker's like a virtual machine's of a cloud.
	if j.controller, err = j.lab.Add(lab.Spec{Name: "m1", DiskKind: "nvme"}); err != nil {
		return err
	}
	if j.worker, err = j.lab.Add(lab.Spec{Name: "m2", WriteLog: j.Cuts > 0}); err != nil {
		return err
	}
	return j.initSite(ctx)
}

func (j *Journey) initSite(ctx context.Context, more ...string) error {
	return j.roost(ctx, append([]string{"site", "init", j.path("site"), "--name", "journey", "--address", controllerAddress, "--mac", j.controller.MAC(),
		"--pxe", "dhcp", "--range", addressRange}, more...)...)
}

// bootMedia boots the disk image, from SATA and from USB, and the ISO image on machines without a network. None belongs to
// a site, and each says what it needs next.
func (j *Journey) bootMedia(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for spec, says := range map[*lab.Spec]*regexp.Regexp{
		{Name: "sata", Image: j.path("edge.disk"), DiskKind: "sata"}: regexp.MustCompile(`roost: this disk holds no identity`),
		{Name: "usb", Image: j.path("edge.disk"), DiskKind: "usb"}:   regexp.MustCompile(`roost: this disk holds no identity`),
		{Name: "iso", CDROM: j.path("edge.iso"), Disk: -1}:           regexp.MustCompile(`roost: no boot server of a site answered`),
	} {
		group.Go(func() error {
			start := time.Now()
			m, err := j.lab.Add(*spec)
			if err != nil {
				return err
			}
			if err := errors.Join(m.SetCable(false), m.PowerOn(ctx)); err != nil {
				return err
			}
			if _, err := awaitConsole(ctx, m, says); err != nil {
				return fmt.Errorf("from %s: %w", spec.Name, err)
			}
			fmt.Fprintf(j.Out, "      up from %s after %s\n", spec.Name, since(start))
			return m.Remove()
		})
	}
	return group.Wait()
}

// startSeed serves the first release to the one machine that the site file names.
func (j *Journey) startSeed(ctx context.Context) error {
	out, err := os.Create(j.path("seed.log"))
	if err != nil {
		return err
	}
	j.seedOut = out
	j.seed = j.command(ctx, "pxe", "serve", "--interface", j.lab.Interface(), "--depot", j.path("depot"), "--release", j.releases["1"],
		"--seed", j.path("site", "site.yaml"), "--root-key", j.path("site", "root.key"), "--range", addressRange)
	j.seed.Stdout, j.seed.Stderr = out, out
	j.seed.Cancel = func() error { return j.seed.Process.Signal(os.Interrupt) }
	return j.lab.Start(j.seed)
}

func (j *Journey) stopSeed() {
	if j.seed == nil || j.seed.Process == nil {
		return
	}
	if err := j.seed.Process.Signal(os.Interrupt); err == nil {
		_ = j.seed.Wait() // it was told to stop; how it says so does not matter
	}
	j.seedOut.Close()
	j.seed = nil
}

// installController boots a blank machine from the network and waits until it runs the site.
func (j *Journey) installController(ctx context.Context) error {
	if err := j.startSeed(ctx); err != nil {
		return err
	}
	if err := j.controller.PowerOn(ctx); err != nil {
		return err
	}
	_, err := j.awaitHost(ctx, 10*time.Minute, "controller-0", serving)
	j.stopSeed()
	if err != nil {
		return err
	}
	if err := j.roost(ctx, "release", "push", j.path("depot"), "--release", j.releases["1"], "--current"); err != nil {
		return err
	}
	return j.roost(ctx, "host", "list")
}

// discoverWorker boots the second blank machine from the controller and times power-on to check-in.
func (j *Journey) discoverWorker(ctx context.Context) error {
	start := time.Now()
	if err := j.worker.PowerOn(ctx); err != nil {
		return err
	}
	h, err := j.awaitHost(ctx, 5*time.Minute, j.worker.MAC(), discovered)
	if err != nil {
		return err
	}
	j.note("  power-on to check-in", since(start))
	contained := j.worker.Kind == lab.Container
	if !contained { // its memory is the computer's
		j.noteVitals(h, 0)
	}
	if !contained && h.SecureBoot != "enabled" {
		return fmt.Errorf("the worker booted with Secure Boot %s", h.SecureBoot)
	}
	return j.roost(ctx, "host", "list")
}

func (j *Journey) installWorker(ctx context.Context) error {
	h, err := j.awaitHost(ctx, time.Minute, j.worker.MAC(), func(*api.Host) error { return nil })
	if err != nil {
		return err
	}
	if err := j.roost(ctx, "host", "approve", h.Name, "--personality", "worker", "--as", "worker-0"); err != nil {
		return err
	}
	if _, err := j.awaitHost(ctx, 10*time.Minute, "worker-0", serving); err != nil {
		return err
	}
	return j.roost(ctx, "host", "list")
}

// update rolls release 2 out and checks that both machines run it, the controller updated last.
func (j *Journey) update(ctx context.Context) error {
	if err := j.publish(ctx, "2"); err != nil {
		return err
	}
	if err := j.record(ctx); err != nil {
		return err
	}
	if err := j.roost(ctx, "update", "start", j.releases["2"], "--wait"); err != nil {
		return err
	}
	for _, name := range []string{"worker-0", "controller-0"} {
		if _, err := j.awaitHost(ctx, 10*time.Minute, name, j.runs("2")); err != nil {
			return err
		}
	}
	var u api.Update
	if err := j.query(ctx, &u, "update", "status"); err != nil {
		return err
	}
	if last := u.Hosts[len(u.Hosts)-1]; last.Name != "controller-0" || last.Finished.Before(u.Hosts[0].Finished) {
		return fmt.Errorf("the controller was not updated last: %+v", u.Hosts)
	}
	return j.roost(ctx, "host", "list")
}

// publish builds a release and pushes it to the site.
func (j *Journey) publish(ctx context.Context, n string) error {
	if err := j.release(ctx, n); err != nil {
		return err
	}
	return j.roost(ctx, "release", "push", j.path("depot"), "--release", j.releases[n])
}

func (j *Journey) failedGate(ctx context.Context) error {
	return j.broken(ctx, "3", j.victims(), func(f *api.Failure) error {
		if f.Gate != "ssh" || len(f.Log) == 0 {
			return fmt.Errorf("want gate %q and log lines as evidence, got gate %q and %d lines", "ssh", f.Gate, len(f.Log))
		}
		return nil
	})
}

func (j *Journey) panicLate(ctx context.Context) error {
	return j.broken(ctx, "4", j.victims(), func(f *api.Failure) error {
		if !slices.ContainsFunc(f.Log, func(line string) bool { return strings.Contains(line, "sysrq") || strings.Contains(line, "panic") }) {
			return fmt.Errorf("want the panic in the evidence, got %q", f.Log)
		}
		return nil
	})
}

func (j *Journey) panicEarly(ctx context.Context) error {
	return j.broken(ctx, "5", []string{"worker-0"}, func(f *api.Failure) error {
		if f.Reason == "" {
			return errors.New("want a reason, got none")
		}
		return nil
	})
}

// broken rolls a bad release out to each host in turn and checks that the host comes back on release 2 by itself, says
// why, and refuses the release afterwards.
func (j *Journey) broken(ctx context.Context, n string, hosts []string, check func(*api.Failure) error) error {
	if err := j.publish(ctx, n); err != nil {
		return err
	}
	for _, name := range hosts {
		start := time.Now()
		watching, stop := context.WithCancel(ctx)
		fell := make(chan time.Time, 1)
		go func() { fell <- lastFall(watching, j.named(name)) }()
		err := j.roost(ctx, "update", "start", j.releases[n], "--only", name, "--wait")
		var h *api.Host
		if err == nil {
			err = fmt.Errorf("release %s was taken by %s", n, name)
		} else {
			h, err = j.awaitHost(ctx, 10*time.Minute, name, j.runs("2"))
		}
		stop()
		at := <-fell
		if err != nil {
			return err
		}
		j.note("  "+name+": update start to back on release 2", since(start))
		if !at.IsZero() {
			j.note("  "+name+": failed trial went down to back on release 2 (target 180 s)", since(at))
		}
		i := slices.IndexFunc(h.Software.Failures, func(f api.Failure) bool { return string(f.Release) == j.releases[n] })
		if i < 0 {
			return fmt.Errorf("%s tells no failure of release %s", name, n)
		}
		fmt.Fprintf(j.Out, "      %s says: %s\n", name, h.Software.Failures[i].Reason)
		if err := check(&h.Software.Failures[i]); err != nil {
			return fmt.Errorf("evidence of %s: %w", name, err)
		}
		if err := j.roost(ctx, "update", "abort"); err != nil {
			return err
		}
		if err := j.roost(ctx, "update", "start", j.releases[n], "--only", name, "--wait"); err == nil {
			return fmt.Errorf("%s took release %s again, which failed on it", name, n)
		}
		if err := j.roost(ctx, "update", "abort"); err != nil && !strings.Contains(err.Error(), "done") {
			return err
		}
		if err := j.roost(ctx, "host", "clear", name); err != nil {
			return err
		}
	}
	return nil
}

// requestedRollback leaves release 2 for release 1 and takes it again. It comes before the bad releases: they overwrite the
// slot that release 1 is in.
func (j *Journey) requestedRollback(ctx context.Context) error {
	if err := j.roost(ctx, "host", "rollback", "worker-0"); err != nil {
		return err
	}
	back := func(h *api.Host) error {
		if !h.Software.Refuses(images.Digest(j.releases["2"])) {
			return errors.New("it does not refuse release 2 yet")
		}
		return j.runs("1")(h)
	}
	if _, err := j.awaitHost(ctx, 10*time.Minute, "worker-0", back); err != nil {
		return err
	}
	if err := j.roost(ctx, "host", "list"); err != nil {
		return err
	}
	if err := j.roost(ctx, "host", "clear", "worker-0"); err != nil {
		return err
	}
	if err := j.roost(ctx, "update", "start", j.releases["2"], "--only", "worker-0", "--wait"); err != nil {
		return err
	}
	if _, err := j.awaitHost(ctx, 10*time.Minute, "worker-0", j.runs("2")); err != nil {
		return err
	}
	return j.stopRecording(ctx)
}

// serving demands a host in service with every gate passed.
func serving(h *api.Host) error {
	if h.Phase != api.InService || h.Administrative != api.Unlocked || h.Operational != api.Enabled || h.Availability != api.Available {
		return fmt.Errorf("it is %s, %s, %s, %s %s", h.Phase, h.Administrative, h.Operational, h.Availability, h.Reason)
	}
	return nil
}

// runs demands a host in service that has committed release n.
func (j *Journey) runs(n string) func(h *api.Host) error {
	return func(h *api.Host) error {
		if err := serving(h); err != nil {
			return err
		}
		r := h.Software.Running
		if r == nil || string(r.Digest) != j.releases[n] || h.Software.Trial {
			return fmt.Errorf("it runs %+v, trial %v", r, h.Software.Trial)
		}
		return nil
	}
}

// awaitHost watches the site until the host of that name or MAC address satisfies want.
func (j *Journey) awaitHost(ctx context.Context, limit time.Duration, name string, want func(*api.Host) error) (*api.Host, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := errors.New("the site does not answer")
	for ctx.Err() == nil {
		h, err := j.watchHost(ctx, name, want)
		if err == nil {
			return h, nil
		}
		if !errors.Is(err, errWatchEnded) {
			last = err
		}
		select { // the site may be rebooting; its watch ends then
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil, fmt.Errorf("%s is not as wanted after %s: %w", name, limit, last)
}

var errWatchEnded = errors.New("the watch ended")

// watchHost follows one run of roost host list --watch.
func (j *Journey) watchHost(ctx context.Context, name string, want func(*api.Host) error) (*api.Host, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := j.command(ctx, "host", "list", "--watch", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := j.lab.Start(cmd); err != nil {
		return nil, err
	}
	h, err := findHost(out, name, want)
	cancel()
	var exit *exec.ExitError
	if waited := cmd.Wait(); waited != nil && !errors.As(waited, &exit) {
		return nil, waited
	}
	return h, err
}

func findHost(stream io.Reader, name string, want func(*api.Host) error) (*api.Host, error) {
	last := errWatchEnded
	for dec := json.NewDecoder(stream); ; {
		var hosts []api.Host
		if err := dec.Decode(&hosts); err != nil {
			return nil, last
		}
		i := slices.IndexFunc(hosts, func(h api.Host) bool { return h.Name == name || slices.Contains(h.MACs, name) })
		if i < 0 {
			last = errors.New("the site does not know it")
			continue
		}
		if last = want(&hosts[i]); last == nil {
			return &hosts[i], nil
		}
	}
}

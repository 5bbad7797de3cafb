package appliance

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/images"
	"roost/images/depot"
	"roost/images/depot/depottest"
	"roost/images/release/releasetest"
	"roost/updater"
)

// refusing is a site with a controller and one worker that is a box, on release 1.1 of the operator's depot.
type refusing struct {
	*lab
	controller *machine
	worker     *box
	ctx        context.Context
	good       *depot.Release
}

// newRefusing makes the site and installs the worker for real, from its network boot on.
func newRefusing(t *testing.T) *refusing {
	s := &refusing{lab: newLab(t)}
	s.limits.Silence = 1500 * time.Millisecond // a machine that waits for approval has left after a sixth of it
	s.controller, s.worker = s.machine(0), s.box(1)
	ctx, cancel := context.WithCancel(context.Background())
	s.ctx = ctx
	ended := make(chan error, 2)
	started := 0
	t.Cleanup(func() {
		cancel()
		for range started {
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
	s.found(ctx, s.controller)
	s.startController(s.controller)
	s.good = s.shelve(s.real("1.1", nil))
	if err := s.tryPush(s.good); err != nil {
		t.Fatal(err)
	}
	s.admit(s.worker, "worker-0")
	for _, run := range []func(context.Context) error{s.controller.run, s.worker.run} {
		started++
		go func() { ended <- run(ctx) }()
	}
	s.await("controller-0", serving)
	s.await("worker-0", serving)
	return s
}

// admit discovers a box, approves it and waits until it is installed.
func (s *refusing) admit(b *box, name string) {
	s.t.Helper()
	gone := make(chan error, 1)
	go func() { gone <- b.discover(s.ctx, s.address) }()
	s.await(mac(b.n), func(h *api.Host) bool { return h.Phase == api.Discovered })
	approval := api.Approval{Personality: "worker", Name: name, Release: s.good.Manifest.Digest}
	if _, err := s.admin.Approve(s.ctx, mac2id(s, b.n), approval); err != nil {
		s.t.Fatal(err)
	}
	if err := <-gone; err != nil {
		s.t.Fatalf("%v; its console says\n%s", err, b.text())
	}
}

func mac2id(s *refusing, n int) string {
	return s.await(mac(n), func(*api.Host) bool { return true }).ID
}

// tryPush is roost release push.
func (l *lab) tryPush(r *depot.Release) error {
	to, err := depot.Open(context.Background(), "docker://"+l.address, depot.Options{Transport: l.admin.Transport()})
	if err != nil {
		return err
	}
	defer to.Close()
	_, err = depot.Copy(context.Background(), r, to, depot.CopyOptions{})
	return err
}

// begin is roost update start for the worker.
func (s *refusing) begin(digest images.Digest) error {
	_, err := s.admin.StartUpdate(s.ctx, api.Update{Release: api.Release{Digest: digest}, Only: []string{"worker-0"}})
	return err
}

// says fails unless err is there and has every text in it.
func says(t *testing.T, err error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v\nwant %q in it", err, text)
		}
	}
}

// blob is the file in which the site's registry keeps a part.
func (s *refusing) blob(r *depot.Release, kind images.Kind) string {
	return filepath.Join(s.controller.dir, "control", "depot", "blobs", "sha256", r.Manifest.Parts[kind].Digest.Hex())
}

// damage changes a blob that the registry holds; the result puts it back.
func (s *refusing) damage(r *depot.Release, kind images.Kind, how func([]byte) []byte) (mend func()) {
	s.t.Helper()
	path := s.blob(r, kind)
	whole, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	put := func(b []byte) {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	put(how(append([]byte(nil), whole...)))
	return func() { put(whole) }
}

func flipped(b []byte) []byte { b[len(b)/2] ^= 4; return b }
func halved(b []byte) []byte  { return b[:len(b)/2] }

// TestRefusedAtTheDesk: what the site can judge it refuses before a host is asked: with the reason, and the next command
// where there is one. No host hears of it.
func TestRefusedAtTheDesk(t *testing.T) {
	s := newRefusing(t)
	before := s.worker.state()

	stranger := releasetest.Key(t)
	unsigned, foreign := s.real("2.0", nil), s.real("2.1", nil)
	unsigned.Signer, foreign.Signer = nil, stranger
	a, b := s.shelve(unsigned), s.shelve(foreign)
	says(t, s.tryPush(a), "cannot copy release edge 2.0", "not signed")
	says(t, s.tryPush(b), "cannot copy release edge 2.1", "signed by a key that is not trusted")
	// The manifest without a name is there, but of no use.
	says(t, s.begin(a.Manifest.Digest), "cannot use release edge 2.0", "not signed", "no host of this site would take it")
	_, err := s.admin.SetCurrent(s.ctx, b.Manifest.Digest)
	says(t, err, "cannot use release edge 2.1", "not trusted")
	// One that was smuggled past the registry is not listed either.
	layout := depottest.Open(t, "oci:"+filepath.Join(s.controller.dir, "control", "depot"))
	if _, err := depot.Copy(s.ctx, a, layout, depot.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	releases, err := s.admin.Releases(s.ctx)
	if err != nil || len(releases) != 1 || releases[0].Version != "1.1" {
		t.Errorf("the shelf shows %+v, %v", releases, err)
	}

	// A depot that was damaged on the way to the site. Each has a version of its own, and so an UKI: a part that the site has
	// already, from another push that broke off, is not copied again.
	for version, damage := range map[images.Version]struct {
		kind images.Kind
		how  func([]byte) []byte
	}{"2.2": {images.KindUKI, flipped}, "2.2.1": {images.KindRoot, halved}} {
		r := s.shelve(s.real(version, nil))
		path := filepath.Join(s.dir, "operator", "blobs", "sha256", r.Manifest.Parts[damage.kind].Digest.Hex())
		whole, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, damage.how(append([]byte(nil), whole...)), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		says(t, s.tryPush(r), "cannot copy part "+string(damage.kind))
		if err := os.WriteFile(path, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	arm := s.shelve(s.real("2.3", func(r *images.Release) { r.Architecture = "arm64" }))
	old, again := s.shelve(s.real("1.0", nil)), s.real("1.1", nil)
	for _, r := range []*depot.Release{arm, old} {
		if err := s.tryPush(r); err != nil {
			t.Fatal(err)
		}
	}
	says(t, s.begin(arm.Manifest.Digest), "is for arm64, host worker-0 is amd64")
	says(t, s.begin(old.Manifest.Digest), "1.0 is older than 1.1, which host worker-0 runs", "--force")
	says(t, s.begin(s.good.Manifest.Digest), "every host runs edge 1.1 already")
	rebuilt := depottest.Open(t, "oci:"+filepath.Join(s.dir, "rebuilt"))
	rb, err := rebuilt.Publish(s.ctx, again)
	if err != nil {
		t.Fatal(err)
	}
	says(t, s.tryPush(rb), "another release has this version")
	says(t, s.begin(images.DigestOf([]byte("nothing"))), "cannot find release", "roost release push")
	_, err = s.admin.StartUpdate(s.ctx, api.Update{Release: api.Release{Digest: s.good.Manifest.Digest}, Only: []string{"worker-9"}})
	says(t, err, `cannot find host "worker-9"`, "roost host list")

	s.refuseApprovals(arm)
	if after := s.worker.state(); after != before {
		t.Errorf("the worker was %s\nand is %s", before, after)
	}
}

// refuseApprovals asks for approvals that cannot be.
func (s *refusing) refuseApprovals(arm *depot.Release) {
	t := s.t
	t.Helper()
	ctx, leave := context.WithCancel(s.ctx)
	gone := make(chan error, 1)
	go func() { gone <- s.machine(2).discover(ctx, s.address) }()
	host := s.await(mac(2), func(h *api.Host) bool { return h.Phase == api.Discovered })
	good := s.good.Manifest.Digest
	for _, test := range []struct {
		host     string
		approval api.Approval
		want     []string
	}{
		{host.ID, api.Approval{Personality: "king", Release: good}, []string{`cannot use personality "king"`, "want one of controller, worker"}},
		{host.ID, api.Approval{Personality: "controller", Release: good}, []string{"only the seed"}},
		{host.ID, api.Approval{Personality: "worker", Release: good, Fingerprint: images.DigestOf([]byte("another"))}, []string{"cannot approve host " + host.Name, "its key is"}},
		{host.ID, api.Approval{Personality: "worker", Release: arm.Manifest.Digest}, []string{"is for arm64, the machine is amd64"}},
		{host.ID, api.Approval{Personality: "worker", Release: good, Disk: "/dev/sdz"}, []string{"no such disk"}},
		{host.ID, api.Approval{Personality: "worker", Release: good, Name: "worker-0"}, []string{"has this name already"}},
		{"nobody", api.Approval{Personality: "worker", Release: good}, []string{`cannot find host "nobody"`, "roost host list"}},
		{"worker-0", api.Approval{Personality: "worker", Release: good}, []string{"it is in service", "forget it"}},
	} {
		_, err := s.admin.Approve(s.ctx, test.host, test.approval)
		says(t, err, test.want...)
	}
	leave()
	<-gone
	deadline := time.Now().Add(20 * time.Second)
	for { // the site takes it for gone a moment after its last poll
		_, err := s.admin.Approve(s.ctx, host.ID, api.Approval{Personality: "king", Release: good})
		says(t, err, "king") // never approved by the polling of this test
		time.Sleep(s.limits.Silence / 4)
		_, err = s.admin.Approve(s.ctx, host.ID, api.Approval{Personality: "worker", Release: good, Fingerprint: host.Fingerprint})
		if err == nil {
			t.Error("a machine that left was approved")
			return
		}
		if strings.Contains(err.Error(), "the machine has left") {
			says(t, err, "it was last heard of at", "boot it from the network again")
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("a machine that left: %v", err)
			return
		}
	}
}

// paused waits until the update pauses, checks that the reason says what happened and what the host runs, and aborts.
func (s *refusing) paused(texts ...string) {
	s.t.Helper()
	u := s.settled(api.Paused)
	says(s.t, errors.New(u.Reason), append(texts, "host worker-0", "it runs 1.1")...)
	if _, err := s.admin.AbortUpdate(s.ctx, u.ID); err != nil {
		s.t.Error(err)
	}
}

// TestRefusedByTheHost: what goes wrong on the way to a host or on it leaves the host on the version that it runs, says why,
// and does not keep it from the next release.
func TestRefusedByTheHost(t *testing.T) {
	s := newRefusing(t)
	two := s.shelve(s.real("2.0", nil))
	huge := s.shelve(s.real("2.1", func(r *images.Release) {
		r.Needs = images.Needs{Slot: 8 << 20, Verity: 1 << 20, ESP: 40 << 20, Disk: 200 << 20, Memory: 1 << 30}
		r.Root.Size = 4 << 20
	}))
	three := s.shelve(s.real("3.0", nil))
	for _, r := range []*depot.Release{two, huge, three} {
		if err := s.tryPush(r); err != nil {
			t.Fatal(err)
		}
	}
	before := s.worker.state()
	for _, test := range []struct {
		name    string
		release *depot.Release
		spoil   func() (mend func())
		want    []string
	}{
		{"disk full while the slot is written", two, func() func() {
			s.worker.breakDisk(syscall.ENOSPC)
			return func() { s.worker.breakDisk(nil) }
		}, []string{"cannot write slot b", "no space left on device"}},
		{"disk that fails", two, func() func() {
			s.worker.breakDisk(syscall.EIO)
			return func() { s.worker.breakDisk(nil) }
		}, []string{"cannot write slot b", "input/output error"}},
		{"signed by a key that the host does not trust", two, func() func() {
			s.worker.road.trust(releasetest.Key(t))
			return func() { s.worker.road.trust(s.key) }
		}, []string{"does not take 2.0", "not signed by a trusted key"}},
		{"root flipped", two, func() func() { return s.damage(two, images.KindRoot, flipped) }, []string{"root", "does not match its digest"}},
		{"root truncated", two, func() func() { return s.damage(two, images.KindRoot, halved) }, []string{"root"}},
		{"verity flipped", two, func() func() { return s.damage(two, images.KindVerity, flipped) }, []string{"verity"}},
		{"registry that stalls for ever", two, func() func() {
			s.worker.road.set(s.stall(two.Manifest.Parts[images.KindRoot].Digest))
			return func() { s.worker.road.set(nil) }
		}, []string{"stopped sending"}},
		{"EFI system partition full before", two, func() func() {
			s.worker.fill(1000)
			return func() { s.worker.fill(100 << 20) }
		}, []string{"EFI system partition", updater.ErrDoesNotFit.Error()}},
		{"root larger than the slot", huge, func() func() { return func() {} }, []string{"into a slot of", updater.ErrDoesNotFit.Error()}},
		{"UKI flipped", two, func() func() { return s.damage(two, images.KindUKI, flipped) }, []string{"cannot arm edge_2.0", "does not match its digest"}},
		{"UKI truncated", two, func() func() { return s.damage(two, images.KindUKI, halved) }, []string{"cannot arm edge_2.0"}},
	} {
		t.Log(test.name)
		mend := test.spoil()
		if err := s.begin(test.release.Manifest.Digest); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		says(t, s.begin(test.release.Manifest.Digest), "cannot start update: update", "roost update status", "roost update abort")
		s.paused(test.want...)
		mend()
		if after := s.worker.state(); after != before {
			t.Fatalf("%s: the worker was %s\nand is %s", test.name, before, after)
		}
	}
	s.partitionFillsUp(two, before)
	s.silentRegistry(two)
	if !t.Failed() {
		s.survives(three)
	}
}

// stall makes a blob come as a body that gives nothing.
func (s *refusing) stall(blob images.Digest) func(*http.Request, *http.Response) {
	return func(q *http.Request, a *http.Response) {
		if strings.HasSuffix(q.URL.Path, string(blob)) {
			a.Body = stalled{a.Body, q.Context()}
		}
	}
}

// silentRegistry has the registry stall before the host knows what it is asked for: the update says what keeps it, the host
// stays in service, and aborting needs no answer from it.
func (s *refusing) silentRegistry(two *depot.Release) {
	s.t.Helper()
	s.worker.road.set(s.stall(two.Manifest.Config.Digest))
	if err := s.begin(two.Manifest.Digest); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	_, revision, err := s.admin.Updates(ctx)
	noted := errors.New("noted")
	if err == nil {
		err = s.admin.Watch(ctx, revision-1, []string{"update"}, func(api.Event) error {
			u, err := s.admin.Update(ctx, "latest")
			if err == nil && strings.Contains(u.Hosts[0].Note, "did not answer") {
				return noted
			}
			return err
		})
	}
	if !errors.Is(err, noted) {
		s.t.Errorf("the update does not say what keeps it: %v", err)
	}
	if h, err := s.admin.Host(ctx, "worker-0"); err != nil || !serving(h) {
		s.t.Errorf("while the registry is silent the host is %+v, %v", h, err)
	}
	if _, err := s.admin.AbortUpdate(ctx, "latest"); err != nil {
		s.t.Error(err)
	}
	s.worker.road.set(nil)
}

// partitionFillsUp has the EFI system partition fill up after the room was judged.
func (s *refusing) partitionFillsUp(two *depot.Release, before string) {
	s.t.Helper()
	s.worker.road.set(func(q *http.Request, _ *http.Response) {
		if strings.HasSuffix(q.URL.Path, string(two.Manifest.Parts[images.KindUKI].Digest)) {
			s.worker.fillLocked(100) // the engine that fetches holds the partition
		}
	})
	if err := s.begin(two.Manifest.Digest); err != nil {
		s.t.Fatal(err)
	}
	s.paused("cannot arm edge_2.0", "no space left on device")
	s.worker.road.set(nil)
	s.worker.fill(100 << 20)
	if after := s.worker.state(); after != before {
		s.t.Errorf("a full EFI system partition: the worker was %s\nand is %s", before, after)
	}
}

// survives rolls the same release out while the connection breaks again and again and the controller restarts meanwhile: what
// is there is not fetched again, and the host takes the release at last.
func (s *refusing) survives(three *depot.Release) {
	s.t.Helper()
	var offsets []string
	cut := make(chan struct{}, 1)
	s.worker.road.set(func(q *http.Request, a *http.Response) {
		if len(offsets) < 5 && strings.HasSuffix(q.URL.Path, string(three.Manifest.Parts[images.KindRoot].Digest)) {
			offsets = append(offsets, q.Header.Get("Range"))
			a.Body = &torn{ReadCloser: a.Body, left: 150_000}
			select {
			case cut <- struct{}{}:
			default:
			}
		}
	})
	if err := s.begin(three.Manifest.Digest); err != nil {
		s.t.Fatal(err)
	}
	<-cut
	s.stop()
	s.startController(s.controller)
	s.await("worker-0", func(h *api.Host) bool {
		return serving(h) && h.Software.Running.Digest == three.Manifest.Digest && !h.Software.Trial
	})
	s.settled(api.Done)
	s.worker.road.set(nil)
	if len(offsets) < 5 || offsets[0] != "" || offsets[4] == "" {
		s.t.Errorf("the root was fetched from %q; want it to go on where it stopped", offsets)
	}
}

// stalled is a body that gives nothing until the reader loses patience.
type stalled struct {
	io.ReadCloser
	ctx context.Context
}

func (s stalled) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

// torn is a body whose connection breaks after so many bytes.
type torn struct {
	io.ReadCloser
	left int
}

func (t *torn) Read(p []byte) (int, error) {
	if t.left <= 0 {
		return 0, syscall.ECONNRESET
	}
	n, err := t.ReadCloser.Read(p[:min(len(p), t.left)])
	t.left -= n
	return n, err
}

// TestInstallFromBadRegistry: a machine that is being installed says what is wrong, keeps trying, and is installed when the
// registry is mended, without another word from the operator.
func TestInstallFromBadRegistry(t *testing.T) {
	s := newRefusing(t)
	for n, test := range []struct {
		kind images.Kind
		how  func([]byte) []byte
	}{{images.KindRoot, flipped}, {images.KindUKI, halved}} {
		b := s.box(10 + n)
		name := "worker-" + string(rune('1'+n))
		mend := s.damage(s.good, test.kind, test.how)
		gone := make(chan error, 1)
		go func() { gone <- b.discover(s.ctx, s.address) }()
		s.await(mac(b.n), func(h *api.Host) bool { return h.Phase == api.Discovered })
		if _, err := s.admin.Approve(s.ctx, mac2id(s, b.n), api.Approval{Personality: "worker", Name: name, Release: s.good.Manifest.Digest}); err != nil {
			t.Fatal(err)
		}
		told := s.await(name, func(h *api.Host) bool { return strings.Contains(h.Reason, "cannot install edge 1.1") })
		says(t, errors.New(told.Reason), string(test.kind))
		if told.Phase != api.Installing {
			t.Errorf("a machine that cannot be installed is %s", told.Phase)
		}
		mend()
		if err := <-gone; err != nil {
			t.Fatal(err)
		}
		says(t, errors.New(b.text()), "cannot install edge 1.1", "trying again", "roost: installed")
	}
}

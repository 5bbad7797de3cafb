package appliance

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/appliance/command"
	"roost/images"
	"roost/images/release/releasetest"
)

// roost runs a verb of the roost command as an operator of the site, and returns all that it prints, its error last.
func (s *refusing) roost(args ...string) (out string, ok bool) {
	s.t.Helper()
	verbs := map[string]func() *cobra.Command{"release": command.Release, "update": command.Update, "host": command.Host}
	var b bytes.Buffer
	c := verbs[args[0]]()
	c.SetArgs(args[1:])
	c.PersistentFlags().String("site", filepath.Join(s.dir, "context.json"), "") // main.go has it for all verbs
	c.SetOut(&b)
	c.SetErr(&b)
	c.SilenceUsage, c.SilenceErrors = true, true
	err := c.ExecuteContext(s.ctx)
	if err != nil {
		b.WriteString("roost: " + err.Error() + "\n")
	}
	return b.String(), err == nil
}

// TestRefusedOnTheCommandLine walks an operator through bad releases and requests with the real verbs: each is refused with
// what is wrong, where, what the host runs, and what to type next; the host stays as it is, and takes the next good release.
func TestRefusedOnTheCommandLine(t *testing.T) {
	s := newRefusing(t)
	context := client.Context{Site: "lab", URL: s.file.Controller, Root: s.file.Root, Certificate: s.secrets.OperatorCertificate, Key: string(s.secrets.OperatorKey)}
	if err := context.Save(filepath.Join(s.dir, "context.json")); err != nil {
		t.Fatal(err)
	}
	before := s.worker.state()

	unsigned, foreign := s.real("2.0", nil), s.real("2.1", nil)
	unsigned.Signer, foreign.Signer = nil, releasetest.Key(t)
	depot := filepath.Join(s.dir, "operator")
	bits, half := s.shelve(s.real("2.2", nil)), s.shelve(s.real("2.3", nil))
	spoil := map[string]func([]byte) []byte{
		bits.Manifest.Parts[images.KindUKI].Digest.Hex(): flipped, half.Manifest.Parts[images.KindRoot].Digest.Hex(): halved}
	for name, how := range spoil {
		file := filepath.Join(depot, "blobs", "sha256", name)
		data, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, how(data), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.shelve(unsigned)
	s.shelve(foreign)
	arm := s.shelve(s.real("2.4", func(r *images.Release) { r.Architecture = "arm64" }))
	old, good := s.shelve(s.real("1.0", nil)), s.shelve(s.real("3.0", nil))

	for _, step := range []struct {
		args []string
		want []string // nil: it works
	}{
		{[]string{"release", "push", depot, "--release", "2.0"}, []string{"cannot copy release edge 2.0", "release is not signed"}},
		{[]string{"release", "push", depot, "--release", "2.1", "--current"}, []string{"cannot copy release edge 2.1", "signed by a key that is not trusted"}},
		{[]string{"release", "push", depot, "--release", "2.2"}, []string{"cannot copy part uki", "does not match its digest"}},
		{[]string{"release", "push", depot, "--release", "2.3"}, []string{"cannot copy part root", "does not match its digest"}},
		{[]string{"update", "start", "edge:2.0"}, []string{"no release edge 2.0 is on the site's shelf", "roost release push"}},
		{[]string{"release", "push", depot, "--release", "2.4"}, nil},
		{[]string{"update", "start", string(arm.Manifest.Digest)}, []string{"release edge 2.4 is for arm64, host"}},
		{[]string{"release", "push", depot, "--release", "1.0"}, nil},
		{[]string{"update", "start", string(old.Manifest.Digest), "--only", "worker-0"}, []string{"1.0 is older than 1.1, which host worker-0 runs", "--force"}},
		{[]string{"update", "start", "edge:1.1", "--only", "worker-0"}, []string{"every host runs edge 1.1 already"}},
		{[]string{"host", "approve", "0123456789abcdef", "--personality", "worker"}, []string{`cannot find host "0123456789abcdef"`, "roost host list"}},
		{[]string{"host", "approve", "worker-0", "--personality", "king"}, []string{`cannot use personality "king"`, "want one of"}},
		{[]string{"host", "approve", "worker-0", "--personality", "worker"}, []string{"cannot approve host worker-0: it is in service", "forget it"}},
		{[]string{"host", "rollback", "worker-0"}, []string{"cannot roll back host worker-0: its other slot holds no bootable release"}},
		{[]string{"release", "push", depot, "--release", "3.0"}, nil},
	} {
		s.expects(step.want, step.args...)
	}

	// A disk that is full pauses the update; a second one has to wait; mended, the same goes on.
	s.worker.breakDisk(syscall.ENOSPC)
	s.expects([]string{"is paused: host worker-0 does not take 3.0: cannot write slot b", "no space left on device; it runs 1.1",
		"roost host show worker-0", "roost update resume", "roost update abort"}, "update", "start", "edge:3.0", "--only", "worker-0", "--wait")
	s.expects([]string{"is paused", "roost update status", "roost update abort"}, "update", "start", "edge:3.0")
	if after := s.worker.state(); after != before {
		t.Errorf("the worker was %s\nand is %s", before, after)
	}
	s.worker.breakDisk(nil)
	s.expects(nil, "update", "resume")
	s.await("worker-0", func(h *api.Host) bool {
		return serving(h) && h.Software.Running.Digest == good.Manifest.Digest && !h.Software.Trial
	})
}

// expects runs a verb and checks that it is refused with all of want, or works when want is nil.
func (s *refusing) expects(want []string, args ...string) {
	s.t.Helper()
	out, ok := s.roost(args...)
	s.t.Logf("$ roost %s\n%s", strings.Join(args, " "), out)
	if ok != (want == nil) {
		s.t.Errorf("roost %s: succeeded %v\n%s", strings.Join(args, " "), ok, out)
	}
	for _, text := range want {
		if !strings.Contains(out, text) {
			s.t.Errorf("roost %s says\n%s\nwant %q in it", strings.Join(args, " "), out, text)
		}
	}
}

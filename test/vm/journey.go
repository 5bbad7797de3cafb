// Package vm boots real machines: real firmware, kernels and systemd in the lab, driven by the roost command as a user
// would drive it.
//
// [Journey] is the main job from end to end. make run walks it for a person to watch; the tests walk it too.
package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"roost/test/lab"
)

// Journey is one walk through the main job: build, serve, discover, install, update, roll back.
type Journey struct {
	Roost   string    // the roost command
	Recipes string    // directory of the shipped recipes
	Dir     string    // work directory; kept after a failure, for a look
	Out     io.Writer // progress for a person
	Lab     string    // name of the lab; default "journey"
	Short   bool      // each bad release meets one machine instead of both, and the early panic is left out
	Cuts    int       // power cuts during the worker's update after which a machine is really booted; 0: its disk is not recorded

	walk       func() []phase // what else is walked instead of the main job
	machine    bool           // walk volumes on a kernel of their own, not in a container
	blanks     int            // how many blank machines a fleet has
	lab        *lab.Lab
	controller *lab.Machine
	worker     *lab.Machine
	tree       string // where the release's root is mounted, for its programs
	kernel     string // of release 1, where another follows
	fleet      []*lab.Machine
	seed       *exec.Cmd
	seedOut    *os.File
	begun      time.Time // when a lab of containers was there, all off
	figures    []figure
	releases   map[string]string // version to manifest digest
}

// figure is one line of the summary.
type figure struct{ what, value string }

// phase is one step of the journey that a person can follow.
type phase struct {
	name string
	run  func(context.Context) error
}

func (j *Journey) phases() []phase {
	if j.walk != nil {
		return j.walk()
	}
	list := []phase{
		{"build release 1 and its disk and ISO images", j.build},
		{"make the site and the lab", j.makeSite},
		{"boot the disk and the ISO image", j.bootMedia},
		{"discover and install the first controller by network boot", j.installController},
		{"discover the worker", j.discoverWorker},
		{"approve and install the worker", j.installWorker},
	}
	if !j.Short {
		list = append(list, phase{"refuse release 2 while the worker's EFI system partition is full", j.fillPartition})
	}
	list = append(list,
		phase{"update both machines to release 2, the controller last", j.update},
		phase{"roll back on request, and take release 2 again", j.requestedRollback},
		phase{"refuse bad requests", j.refuseRequests},
		phase{"release 3 fails its health gate: roll back", j.failedGate},
		phase{"release 4 panics while it starts: roll back", j.panicLate},
	)
	if !j.Short {
		list = append(list,
			phase{"release 5 panics before any record can be kept: roll back", j.panicEarly},
			phase{"refuse to approve a machine that left", j.approveAbsent})
	}
	if j.Cuts > 0 {
		list = append(list, phase{"cut the power at every moment of the worker's update", j.powerCuts})
	}
	return list
}

// victims are the machines that a bad release is rolled out to.
func (j *Journey) victims() []string {
	if j.Short {
		return []string{"worker-0"}
	}
	return []string{"worker-0", "controller-0"}
}

// Run walks all phases and prints a summary. The lab is taken down at the end, also after a failure.
func (j *Journey) Run(ctx context.Context) (err error) {
	j.releases = map[string]string{}
	defer func() { err = errors.Join(err, j.close()) }()
	start := time.Now()
	for i, p := range j.phases() {
		fmt.Fprintf(j.Out, "[%d/%d] %s\n", i+1, len(j.phases()), p.name)
		begin := time.Now()
		if err := p.run(ctx); err != nil {
			return fmt.Errorf("phase %d (%s) failed after %s: %w\n%s", i+1, p.name, since(begin), err, j.evidence())
		}
		fmt.Fprintf(j.Out, "      done in %s\n", since(begin))
		j.note(p.name, since(begin))
	}
	if j.Cuts == 0 && j.blanks == 0 { // else it was asked before the machines were powered off
		if err := j.noteMemory(ctx); err != nil {
			return err
		}
	}
	fmt.Fprintf(j.Out, "\nAll of it works. %s in all.\n\n", since(start))
	for _, f := range j.figures {
		fmt.Fprintf(j.Out, "  %-72s %s\n", f.what, f.value)
	}
	return nil
}

func since(t time.Time) string { return time.Since(t).Round(100 * time.Millisecond).String() }

func (j *Journey) note(what, value string) { j.figures = append(j.figures, figure{what, value}) }

func (j *Journey) path(elem ...string) string {
	return filepath.Join(append([]string{j.Dir}, elem...)...)
}

// close stops the seed and takes the lab down.
func (j *Journey) close() error {
	j.stopSeed()
	if j.lab == nil {
		return nil
	}
	return errors.Join(j.closeTree(), j.lab.Down())
}

// command prepares roost with the site's context.
func (j *Journey) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, j.Roost, args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+j.path("config"), "ROOST_SITE=journey")
	return cmd
}

// roost runs the roost command and shows what it prints to the person.
func (j *Journey) roost(ctx context.Context, args ...string) error {
	cmd := j.command(ctx, args...)
	var errs bytes.Buffer
	cmd.Stdout = j.Out
	if args[0] == "lock" {
		cmd.Stdout = io.Discard // the whole list of packages is of no interest here
	}
	cmd.Stderr = io.MultiWriter(&errs)
	fmt.Fprintf(j.Out, "      $ roost %s\n", strings.Join(args, " "))
	if err := j.run(cmd); err != nil {
		return fmt.Errorf("roost %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return nil
}

// run runs a verb that talks to the site inside the lab's network, and any other outside.
func (j *Journey) run(cmd *exec.Cmd) error {
	if j.lab == nil || slices.Contains([]string{"lock", "build", "image", "keys"}, cmd.Args[1]) {
		return cmd.Run()
	}
	if err := j.lab.Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// query runs a listing verb and decodes its JSON.
func (j *Journey) query(ctx context.Context, into any, args ...string) error {
	cmd := j.command(ctx, append(args, "-o", "json")...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := j.run(cmd); err != nil {
		return fmt.Errorf("roost %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return json.Unmarshal(out.Bytes(), into)
}

// evidence is the end of every machine's console and of the seed's log.
func (j *Journey) evidence() string {
	var b strings.Builder
	files := []string{}
	for _, m := range append([]*lab.Machine{j.controller, j.worker}, j.fleet...) {
		if m != nil {
			files = append(files, m.ConsoleLog())
		}
	}
	if j.seedOut != nil {
		files = append(files, j.seedOut.Name())
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(content)), "\n")
		fmt.Fprintf(&b, "--- end of %s\n%s\n", file, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
	return b.String()
}

// recipe is the recipe of release n; 1 is the shipped one.
func (j *Journey) recipe(n string) string { return j.path("recipes", "edge-"+n+".yaml") }

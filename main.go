// Command roost builds, serves, installs and updates an immutable operating system for the distributed edge.
//
// It is one table of verbs. Each parses its flags, calls one function of one room, and prints; what a verb does is in
// the package of its noun.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"roost/appliance"
	"roost/appliance/command"
	"roost/appliance/trust"
	"roost/builder"
	"roost/builder/archive"
	"roost/builder/assemble"
	"roost/builder/lock"
	"roost/builder/pack"
	"roost/builder/tree"
	"roost/images"
	"roost/images/depot"
	"roost/images/depot/policy"
	"roost/images/keys"
	"roost/images/release"
	"roost/pxe"
	"roost/recipes"
	"roost/test/lab"
)

func main() {
	if status, done := lab.Helper(os.Args); done {
		os.Exit(status)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the command as a function: exit status 0 on success, 1 on failure, 2 for a wrong command line.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "roost",
		Short:         "Build, serve, install and update the immutable operating system of an edge site",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &command.UsageError{Command: c, Err: err} })
	root.AddCommand(buildCommand(), lockCommand(), imageCommand(), pxeCommand(), cacheCommand(), keysCommand(), command.Site(), command.Host(), command.Release(), command.Update(), command.Kubernetes(), command.Ceph(), command.OpenStack(), command.Audit(), labCommand())
	root.PersistentFlags().String("site", "", "site to talk to: a name, or the path of a context file; default $ROOST_SITE, else the only one known")
	err := root.ExecuteContext(ctx)
	var usage *command.UsageError
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(stderr, "roost: %v\nSee roost help for what there is.\n", err)
		return 2
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "roost: interrupted")
		return 130
	}
	fmt.Fprintf(stderr, "roost: %v\n", err)
	return 1
}

func keysCommand() *cobra.Command {
	var name string
	initialise := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a new key set: Secure Boot keys (PK, KEK, db) and the release key",
		Long: "Make a new key set in DIR: the Secure Boot keys PK, KEK and db (RSA-2048) and the release key (ECDSA P-256).\n" +
			"Private keys are readable by you alone. An existing set is never overwritten.",
		Args: command.Exact(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := keys.Init(args[0], name); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "Key set made in %s. Keep a copy offline: releases signed with it can be made nowhere else.\n", args[0])
			return nil
		},
	}
	initialise.Flags().StringVar(&name, "name", "Roost", "whose keys these are; part of the certificates' names")
	export := &cobra.Command{
		Use:   "export KEYS DIR",
		Short: "Write the public halves: certificates, signature lists, signed enrolment updates, release.pub",
		Args:  command.Exact(2),
		RunE: func(c *cobra.Command, args []string) error {
			set, err := keys.Open(args[0])
			if err != nil {
				return err
			}
			return set.Export(args[1])
		},
	}
	var which string
	enroll := &cobra.Command{
		Use:   "enroll KEYS DEPOT FILE",
		Short: "Make an ISO image that enrols the Secure Boot keys into machines in Setup Mode",
		Long: "Make an ISO image that enrols PK, KEK and db of a key set into a machine whose firmware is in Setup Mode, with the\n" +
			"boot loader of a release. Boot the machine from it once: it enrols after a countdown and reboots.",
		Args: command.Exact(3),
		RunE: func(c *cobra.Command, args []string) error {
			set, err := keys.Open(args[0])
			if err != nil {
				return err
			}
			return withRelease(c, args[1], which, func(r *depot.Release) error { return builder.WriteEnrolment(c.Context(), r, set, args[2]) })
		},
	}
	enroll.Flags().StringVar(&which, "release", "", "which release of the depot: digest, version or NAME:VERSION; the newest when empty")
	return command.Noun("keys", "Make, export and enrol signing keys", initialise, export, enroll)
}

func labCommand() *cobra.Command {
	var name string
	open := func() (*lab.Lab, error) { return lab.Open(lab.Config{Name: name}) }
	machine := func(which string) (*lab.Machine, error) {
		l, err := open()
		if err != nil {
			return nil, err
		}
		return l.Machine(which)
	}
	power := &cobra.Command{
		Use: "power MACHINE on|off|reset|shutdown", Short: "Press a machine's buttons; off pulls the plug", Args: command.Exact(2),
		ValidArgs: []string{"on", "off", "reset", "shutdown"},
		RunE: func(c *cobra.Command, args []string) error {
			m, err := machine(args[0])
			if err != nil {
				return err
			}
			switch args[1] {
			case "on":
				return m.PowerOn(c.Context())
			case "off":
				return m.PowerOff()
			case "reset":
				return m.Reset(c.Context())
			case "shutdown":
				return m.Shutdown(c.Context())
			}
			return &command.UsageError{Command: c, Err: fmt.Errorf("cannot do %q: want on, off, reset or shutdown", args[1])}
		},
	}
	console := &cobra.Command{
		Use: "console MACHINE", Short: "Attach to a machine's serial console; Ctrl-C detaches", Args: command.Exact(1),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := machine(args[0])
			if err != nil {
				return err
			}
			return m.Console(c.Context(), c.InOrStdin(), c.OutOrStdout())
		},
	}
	inside := labExecCommand(open)
	down := &cobra.Command{
		Use: "down", Short: "Power every machine off and remove the lab, disks included", Args: command.Exact(0),
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			return l.Down()
		},
	}
	c := command.Noun("lab", "A virtual site on this computer: virtual machines with real firmware, or containers, on a private network",
		labUpCommand(&name), labStatusCommand(&name), console, power, inside, down)
	c.PersistentFlags().StringVar(&name, "name", "lab", "name of the lab")
	return c
}

func labExecCommand(open func() (*lab.Lab, error)) *cobra.Command {
	var in string
	c := &cobra.Command{
		Use: "exec -- COMMAND [ARG...]", Short: "Run a command inside the lab's network, or in a container with --in", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			cmd := exec.CommandContext(c.Context(), args[0], args[1:]...)
			if in != "" {
				m, err := l.Machine(in)
				if err != nil {
					return err
				}
				if cmd, err = m.Command(c.Context(), args...); err != nil {
					return err
				}
			}
			cmd.Stdin, cmd.Stdout, cmd.Stderr = c.InOrStdin(), c.OutOrStdout(), c.ErrOrStderr()
			if err := l.Start(cmd); err != nil {
				return fmt.Errorf("cannot run %s: %v", args[0], err)
			}
			return cmd.Wait()
		},
	}
	c.Flags().StringVar(&in, "in", "", "the container to run it in, as root there")
	return c
}

func labUpCommand(name *string) *cobra.Command {
	var count int
	var memory, disk int64
	var keysDir, kind, depotRef, which string
	var disks []int64
	c := &cobra.Command{
		Use: "up", Short: "Make the lab, its network and its machines, powered off", Args: command.Exact(0),
		Long: "Make the lab, its network and its machines, powered off. What is there already stays.\n\n" +
			"Machines are virtual (m1, m2 …): real firmware, an empty disk, a kernel of their own. Or they are containers (c1, c2 …):\n" +
			"systemd of a release from a depot, on this computer's kernel, at its full speed. Containers join the same site, but have no\n" +
			"firmware and no slots: they cannot be updated, only made anew. Both kinds may be in one lab.",
		RunE: func(c *cobra.Command, _ []string) error {
			config := lab.Config{Name: *name}
			if keysDir != "" {
				enrolled, err := labKeys(keysDir)
				if err != nil {
					return err
				}
				config.SecureBoot = enrolled
			}
			l, err := lab.Up(c.Context(), config)
			if err != nil {
				return err
			}
			how, spec := "native speed", lab.Spec{Memory: memory << 20, Disk: disk << 30}
			switch lab.Kind(kind) {
			case lab.VirtualMachine:
				how = l.Accelerator()
			case lab.Container:
				spec.Kind = lab.Container
				for _, gigabytes := range disks {
					spec.Disks = append(spec.Disks, gigabytes<<30)
				}
				err = withRelease(c, depotRef, which, func(r *depot.Release) error {
					spec.Root, err = l.Unpack(c.Context(), r)
					return err
				})
			default:
				err = &command.UsageError{Command: c, Err: fmt.Errorf("cannot make a %q: want vm or container", kind)}
			}
			if err != nil {
				return err
			}
			for i := range count {
				spec.Name = fmt.Sprintf("%s%d", map[lab.Kind]string{"": "m", lab.Container: "c"}[spec.Kind], i+1)
				m, err := l.Add(spec)
				if err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "%s  %s\n", m.Name, m.MAC())
			}
			fmt.Fprintf(c.OutOrStdout(), "Lab %s is up (%s). Power a machine on with roost lab power %s on.\n", l.Name(), how, spec.Name)
			return nil
		},
	}
	c.Flags().StringVar(&kind, "kind", string(lab.VirtualMachine), "what the machines are: vm or container")
	c.Flags().StringVar(&depotRef, "depot", "out/depot", "depot with the release that containers run")
	c.Flags().StringVar(&which, "release", "", "which release of the depot: digest, version or NAME:VERSION; the newest when empty")
	c.Flags().Int64SliceVar(&disks, "data-disk", nil, "size in GiB of a block device that each container gets (sparse); may be given several times")
	c.Flags().IntVarP(&count, "machines", "n", 2, "number of machines")
	c.Flags().Int64Var(&memory, "memory", 2048, "memory of each machine in MiB")
	c.Flags().Int64Var(&disk, "disk", 32, "disk of each machine in GiB (sparse)")
	c.Flags().StringVar(&keysDir, "keys", "", "key set whose Secure Boot keys the machines' firmware enforces")
	return c
}

// labKeys reads what firmware enrols from a key set.
func labKeys(dir string) (*lab.Keys, error) {
	set, err := keys.Open(dir)
	if err != nil {
		return nil, err
	}
	k := &lab.Keys{}
	for use, list := range map[string]*[]byte{keys.PK: &k.PK, keys.KEK: &k.KEK, keys.DB: &k.DB} {
		if *list, err = set.SignatureList(use); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func labStatusCommand(name *string) *cobra.Command {
	c := &cobra.Command{Use: "status", Short: "List the machines of the lab", Args: command.Exact(0)}
	format := command.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		l, err := lab.Open(lab.Config{Name: *name})
		if err != nil {
			return err
		}
		machines, err := l.Machines()
		if err != nil {
			return err
		}
		t := command.Table{Head: []string{"NAME", "KIND", "POWER", "MAC", "CONSOLE LOG"}}
		var value []map[string]string
		for _, m := range machines {
			power := "off"
			if m.Running() {
				power = "on"
			}
			t.Rows = append(t.Rows, []string{m.Name, string(m.Kind), power, m.MAC(), m.ConsoleLog()})
			value = append(value, map[string]string{"name": m.Name, "kind": string(m.Kind), "power": power, "mac": m.MAC(), "disk": filepath.Clean(m.DiskPath()), "consoleLog": m.ConsoleLog()})
		}
		t.Value = value
		return t.Print(c.OutOrStdout(), *format)
	}
	return c
}

// workshopFlags are the flags of every verb that builds.
type workshopFlags struct {
	mirror, cache, module string
	offline               bool
}

func (f *workshopFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.mirror, "mirror", "", "Debian mirror, or several separated by spaces; default $ROOST_MIRROR, else what this computer's apt uses")
	c.Flags().StringVar(&f.cache, "cache", "", "cache directory; default $ROOST_CACHE, else below your cache directory")
	c.Flags().StringVar(&f.module, "source", "", "Roost's own sources, for the programs of the image; default: the checkout around the current directory")
	c.Flags().BoolVar(&f.offline, "offline", false, "use only what the cache has")
}

func openCache(dir string) (*archive.Cache, error) {
	if dir == "" {
		var err error
		if dir, err = archive.DefaultDir(os.Getenv); err != nil {
			return nil, err
		}
	}
	return archive.OpenCache(dir)
}

// workshop opens the cache and finds the mirror. The caller closes the cache.
func (f *workshopFlags) workshop(c *cobra.Command) (*builder.Workshop, error) {
	cache, err := openCache(f.cache)
	if err != nil {
		return nil, err
	}
	mirror, err := archive.FindMirror(f.mirror, os.Getenv, os.DirFS("/"))
	if err != nil && !f.offline {
		cache.Close()
		return nil, err
	}
	w := &builder.Workshop{Cache: cache, Mirror: mirror, Shipped: recipes.FS(), Module: f.module, Offline: f.offline}
	w.Watch = progress(c.ErrOrStderr())
	return w, nil
}

// progress prints the stages of a build: a line at the end of each, and a moving line for transfers on a terminal.
func progress(w io.Writer) func(builder.Event) {
	terminal := false
	if f, ok := w.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		terminal = err == nil
	}
	return func(e builder.Event) {
		switch {
		case e.Done && terminal:
			fmt.Fprintf(w, "\r\033[K%-10s %6.1f s  %s\n", e.Stage, e.Took.Seconds(), e.Text)
		case e.Done:
			fmt.Fprintf(w, "%-10s %6.1f s  %s\n", e.Stage, e.Took.Seconds(), e.Text)
		case terminal && e.Total > 0:
			fmt.Fprintf(w, "\r\033[K%-10s %d of %d MB  %s", e.Stage, e.Bytes/1e6, e.Total/1e6, e.Text)
		case terminal:
			fmt.Fprintf(w, "\r\033[K%-10s %s", e.Stage, e.Text)
		}
	}
}

func lockCommand() *cobra.Command {
	var flags workshopFlags
	var update bool
	c := &cobra.Command{
		Use: "lock RECIPE", Short: "Resolve a recipe to exact packages, write its lock, and print what changed", Args: command.Exact(1),
		Long: "Resolve a recipe to exact packages and write its lock beside it. Packages keep their versions where recipe and archive\n" +
			"allow; with --update each gets the newest. Builds read the lock and resolve nothing.",
		RunE: func(c *cobra.Command, args []string) error {
			w, err := flags.workshop(c)
			if err != nil {
				return err
			}
			defer w.Cache.Close()
			changes, err := w.Lock(c.Context(), args[0], update)
			if err != nil {
				return err
			}
			return lock.WriteDiff(c.OutOrStdout(), changes)
		},
	}
	flags.add(c)
	c.Flags().BoolVar(&update, "update", false, "take the newest version of every package")
	return c
}

func cacheCommand() *cobra.Command {
	var dir string
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "Show what the cache holds", Args: command.Exact(0)}
	format := command.OutputFlag(list)
	list.RunE = func(c *cobra.Command, _ []string) error {
		cache, err := openCache(dir)
		if err != nil {
			return err
		}
		defer cache.Close()
		usage, err := cache.Usage()
		if err != nil {
			return err
		}
		trees, err := builder.OpenTrees(cache)
		if err != nil {
			return err
		}
		held, err := trees.Usage()
		if err != nil {
			return err
		}
		usage = withTrees(usage, held)
		return usageTable(usage).Print(c.OutOrStdout(), *format)
	}
	var limits archive.Prune
	var megabytes int64
	prune := &cobra.Command{Use: "prune", Short: "Remove what has not been used for long, or what is too much", Args: command.Exact(0)}
	prune.Flags().DurationVar(&limits.UnusedFor, "older", 0, "remove what was last used longer ago than this, for example 720h")
	prune.Flags().BoolVarP(&limits.DryRun, "dry-run", "n", false, "only say what would be removed")
	prune.Flags().Int64Var(&megabytes, "keep", 0, "remove the longest unused until this many MB are left")
	prune.RunE = func(c *cobra.Command, _ []string) error {
		cache, err := openCache(dir)
		if err != nil {
			return err
		}
		defer cache.Close()
		limits.MaxBytes = megabytes * 1e6
		removed, err := cache.Prune(limits, time.Now())
		if err != nil {
			return err
		}
		if limits.UnusedFor > 0 {
			trees, err := pruneTrees(c.Context(), cache, limits)
			if err != nil {
				return err
			}
			removed = withTrees(removed, trees)
		}
		return usageTable(removed).Print(c.OutOrStdout(), "table")
	}
	verify := &cobra.Command{Use: "verify", Short: "Check every file against its digest; damaged ones are removed", Args: command.Exact(0)}
	verify.RunE = func(c *cobra.Command, _ []string) error {
		cache, err := openCache(dir)
		if err != nil {
			return err
		}
		defer cache.Close()
		damaged, err := cache.Verify(c.Context())
		for _, d := range damaged {
			fmt.Fprintf(c.OutOrStdout(), "removed %s: its content was damaged\n", d)
		}
		return err
	}
	c := command.Noun("cache", "See and prune what builds keep", list, prune, verify)
	c.PersistentFlags().StringVar(&dir, "cache", "", "cache directory; default $ROOST_CACHE, else below your cache directory")
	return c
}

// pruneTrees removes unpacked packages and assembled trees by age; a limit of size is for files only.
func pruneTrees(ctx context.Context, cache *archive.Cache, limits archive.Prune) (removed tree.Usage, err error) {
	trees, err := builder.OpenTrees(cache)
	if err != nil {
		return removed, err
	}
	err = cache.Alone(func() error {
		removed, err = trees.Prune(ctx, time.Now().Add(-limits.UnusedFor), limits.DryRun)
		return err
	})
	return removed, err
}

func withTrees(usage []archive.Usage, trees tree.Usage) []archive.Usage {
	if trees.Files == 0 {
		return usage
	}
	return append(usage, archive.Usage{Section: "trees", Files: trees.Files, Bytes: trees.Bytes, Oldest: trees.Oldest, Newest: trees.Newest})
}

func usageTable(usage []archive.Usage) command.Table {
	t := command.Table{Head: []string{"SECTION", "FILES", "SIZE", "OLDEST USE"}, Value: usage}
	for _, u := range usage {
		t.Rows = append(t.Rows, []string{u.Section, fmt.Sprint(u.Files), fmt.Sprintf("%.1f MB", float64(u.Bytes)/1e6), u.Oldest.Format(time.DateOnly)})
	}
	return t
}

// cacheBound is how many bytes of images a build leaves in the cache, those used last. Packages stay: they may not be had again.
const cacheBound = 20e9

func buildCommand() *cobra.Command {
	var flags workshopFlags
	var order builder.Order
	var keysDir string
	c := &cobra.Command{
		Use: "build RECIPE", Short: "Build a recipe into a signed release and publish it", Args: command.Exact(1),
		Long: "Build a recipe into a signed release, from its lock, and publish it into a depot: an OCI layout directory, an archive\n" +
			"or a registry. Packages come from the cache or the mirror; nothing is resolved and nothing of this computer goes in.\n" +
			"Of images, the cache keeps the 20 GB that were used last.\n" +
			"It needs no root: a user builds in a user namespace, with the ids that /etc/subuid and /etc/subgid give (Debian's\n" +
			"package uidmap).",
	}
	flags.add(c)
	format := command.OutputFlag(c)
	c.Flags().StringVar(&keysDir, "keys", "", "key set to sign with; made by roost keys init (required)")
	c.Flags().StringVar(&order.Depot, "depot", "out/depot", "where the release is published")
	c.Flags().StringVar((*string)(&order.Version), "version", "", "version of the release; the recipe's when empty")
	if err := c.MarkFlagRequired("keys"); err != nil {
		panic(err) // the flag is defined above
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := assemble.BecomeRoot(); err != nil {
			return err
		}
		var err error
		if order.Keys, err = keys.Open(keysDir); err != nil {
			return err
		}
		if order.Version != "" {
			if order.Version, err = images.ParseVersion(string(order.Version)); err != nil {
				return err
			}
		}
		w, err := flags.workshop(c)
		if err != nil {
			return err
		}
		defer w.Cache.Close()
		order.Recipe = args[0]
		built, err := w.Build(c.Context(), order)
		if err != nil {
			return err
		}
		// A cache that is in use elsewhere is left to the next build.
		if _, err := w.Cache.Prune(archive.Prune{MaxBytes: cacheBound, Section: pack.Section}, time.Now()); err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		r := built.Release
		t := command.Table{Head: []string{"RELEASE", "KERNEL", "UKI", "ROOT", "DEPOT", "DIGEST"}, Value: built}
		t.Rows = [][]string{{r.Name + " " + string(r.Version), r.Kernel, megabytes(r.UKI.Size), megabytes(r.Root.Size), built.Depot, string(built.Digest)}}
		return t.Print(c.OutOrStdout(), *format)
	}
	return c
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// withRelease opens a depot and one release of it.
func withRelease(c *cobra.Command, ref, which string, do func(r *depot.Release) error) error {
	d, err := depot.Open(c.Context(), ref, depot.Options{Keychain: authn.DefaultKeychain})
	if err != nil {
		return err
	}
	defer d.Close()
	r, err := d.Get(c.Context(), which)
	if err == nil {
		err = do(r)
	}
	if errors.Is(err, depot.ErrCorrupt) || errors.Is(err, depot.ErrIncomplete) {
		return fmt.Errorf("%w: the depot is damaged; build the release again into an empty one, or take another copy", err)
	}
	return err
}

func imageCommand() *cobra.Command {
	var which, key, cert string
	var size int64
	diskVerb := &cobra.Command{
		Use: "disk DEPOT FILE", Short: "Make a raw disk that boots a release from slot A", Args: command.Exact(2),
		RunE: func(c *cobra.Command, args []string) error {
			return withRelease(c, args[0], which, func(r *depot.Release) error {
				return builder.WriteDisk(c.Context(), r, args[1], size<<30)
			})
		},
	}
	diskVerb.Flags().Int64Var(&size, "size", 0, "size in GiB; the least the release needs when 0")
	iso := &cobra.Command{
		Use: "iso DEPOT FILE", Short: "Make an ISO image that boots a release from an optical drive or a USB stick", Args: command.Exact(2),
		RunE: func(c *cobra.Command, args []string) error {
			return withRelease(c, args[0], which, func(r *depot.Release) error { return builder.WriteISO(c.Context(), r, args[1]) })
		},
	}
	verify := &cobra.Command{
		Use: "verify DEPOT", Short: "Check a release: signature, digests, Secure Boot signatures, every block of the root image", Args: command.Exact(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withRelease(c, args[0], which, func(r *depot.Release) error { return verifyRelease(c, r, key, cert) })
		},
	}
	verify.Flags().StringVar(&key, "key", "", "public release key to verify with, PEM (required)")
	verify.Flags().StringVar(&cert, "cert", "", "Secure Boot certificate that must have signed UKI and loader, PEM")
	if err := verify.MarkFlagRequired("key"); err != nil {
		panic(err) // the flag is defined above
	}
	inspect := &cobra.Command{Use: "inspect DEPOT", Short: "Show what a release is made of: components, versions, sizes, units, state, ports, setuid programs", Args: command.Exact(1)}
	format := command.OutputFlag(inspect)
	inspect.RunE = func(c *cobra.Command, args []string) error {
		return withRelease(c, args[0], which, func(r *depot.Release) error {
			contents, err := builder.ReadContents(c.Context(), r)
			if err != nil {
				return err
			}
			value := map[string]any{"digest": r.Manifest.Digest, "signatures": len(r.Bundle.Signatures), "release": r.Document}
			if *format == "table" { // a document is no table; YAML is what people read best
				*format = "yaml"
				return errors.Join(command.Table{Value: value}.Print(c.OutOrStdout(), *format), builder.WriteContents(c.OutOrStdout(), contents))
			}
			value["contents"] = contents
			return command.Table{Value: value}.Print(c.OutOrStdout(), *format)
		})
	}
	c := command.Noun("image", "Make bootable media of releases, inspect and verify them", inspect, verify, diskVerb, iso)
	c.PersistentFlags().StringVar(&which, "release", "", "which release of the depot: digest, version or NAME:VERSION; the newest when empty")
	return c
}

func verifyRelease(c *cobra.Command, r *depot.Release, keyFile, certFile string) error {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return fmt.Errorf("cannot read release key: %w", err)
	}
	trust := release.Policy{}
	if trust.Keys, err = release.ParseKeys(text); err != nil {
		return err
	}
	var cert *x509.Certificate
	if certFile != "" {
		if cert, err = keys.ReadCertificate(certFile); err != nil {
			return err
		}
	}
	v, err := builder.Verify(c.Context(), r, trust, cert)
	if err != nil {
		return err
	}
	if where := r.Reference(); where.Kind == depot.KindRegistry { // a second opinion, by others' code from the same specification
		if err := policy.Check(c.Context(), where.String(), text, v.Release.Name, policy.Options{Keychain: authn.DefaultKeychain}); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.OutOrStdout(), "%s %s is good: signed, complete, and every block of its root image matches %s\n", v.Release.Name, v.Release.Version, v.Release.RootHash)
	return nil
}

func pxeCommand() *cobra.Command {
	var server appliance.BootServer
	var interfaces []string
	var mode, addresses, router, which, seedFile, rootKey, state, ipxe string
	serve := &cobra.Command{
		Use: "serve", Short: "Offer a release to machines that boot from the network; with --seed, make a site's first controller", Args: command.Exact(0),
		Long: "Offer a release to machines that boot from the network: UEFI PXE and UEFI HTTP boot, straight into the signed kernel image.\n" +
			"With --seed it also takes the report of the one machine that site.yaml names and makes it the site's first controller.\n" +
			"Needs root, for the ports of DHCP and TFTP.",
		RunE: func(c *cobra.Command, _ []string) error {
			return withRelease(c, server.Depot, which, func(r *depot.Release) (err error) {
				server.Release = r.Manifest.Digest
				if server.PXE.Interfaces, err = bootInterfaces(interfaces, mode, addresses, router); err != nil {
					return err
				}
				if ipxe != "" {
					if server.PXE.IPXE, err = os.ReadFile(ipxe); err != nil {
						return fmt.Errorf("cannot read iPXE: %w", err)
					}
				}
				if seedFile != "" {
					if server.Seed, err = readSeed(seedFile, rootKey, state); err != nil {
						return err
					}
				}
				server.PXE.OnEvent = printBoot(c.OutOrStdout())
				server.Log = slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
				fmt.Fprintf(c.OutOrStdout(), "Serving %s %s on %s (%s). Interrupt to stop.\n", r.Document.Name, r.Document.Version, strings.Join(interfaces, ", "), mode)
				if err := server.Run(c.Context()); err != nil && c.Context().Err() == nil {
					return err
				}
				return nil
			})
		},
	}
	f := serve.Flags()
	f.StringSliceVarP(&interfaces, "interface", "i", nil, "network interface to serve on; may be repeated (required)")
	f.StringVar(&mode, "mode", "dhcp", "dhcp: own addresses; proxy: beside a DHCP server; off: TFTP and HTTP only")
	f.StringVar(&addresses, "range", "", "with dhcp, addresses to hand out: FIRST-LAST")
	f.StringVar(&router, "router", "", "with dhcp, default gateway of the machines")
	f.StringVar(&server.Depot, "depot", "out/depot", "OCI layout directory that holds the release")
	f.StringVar(&which, "release", "", "which release of the depot: digest, version or NAME:VERSION; the newest when empty")
	f.StringVar(&ipxe, "ipxe", "", "undionly.kpxe, to let BIOS machines be discovered; Debian's package ipxe has it")
	f.StringVar(&seedFile, "seed", "", "site.yaml of the site whose first controller is to be made")
	f.StringVar(&rootKey, "root-key", "", "the site's root key; root.key beside site.yaml when empty")
	f.StringVar(&state, "state", "", "directory that remembers leases and the admitted machine; seed beside site.yaml when empty")
	f.StringVar(&server.PXE.Leases, "leases", "", "directory of the lease log; leases are forgotten at exit when empty")
	if err := serve.MarkFlagRequired("interface"); err != nil {
		panic(err) // the flag is defined above
	}
	return command.Noun("pxe", "Serve releases to machines that boot from the network", serve)
}

func bootInterfaces(names []string, mode, addresses, router string) (out []pxe.Interface, err error) {
	known := map[string]pxe.Mode{"dhcp": pxe.Own, "proxy": pxe.Proxy, "off": pxe.Off}
	m, ok := known[mode]
	if !ok {
		return nil, fmt.Errorf("cannot serve in mode %q: want dhcp, proxy or off", mode)
	}
	for _, name := range names {
		i := pxe.Interface{Name: name, Mode: m}
		if m == pxe.Own {
			first, last, ok := strings.Cut(addresses, "-")
			if i.Network.First, err = netip.ParseAddr(first); err != nil || !ok {
				return nil, fmt.Errorf("cannot hand out %q: want --range FIRST-LAST, for example 10.77.0.100-10.77.0.199", addresses)
			}
			if i.Network.Last, err = netip.ParseAddr(last); err != nil {
				return nil, fmt.Errorf("cannot hand out %q: want --range FIRST-LAST, for example 10.77.0.100-10.77.0.199", addresses)
			}
			if router != "" {
				if i.Network.Router, err = netip.ParseAddr(router); err != nil {
					return nil, fmt.Errorf("cannot use router: %w", err)
				}
			}
		}
		out = append(out, i)
	}
	return out, nil
}

func readSeed(seedFile, rootKey, state string) (*appliance.SeedConfig, error) {
	beside := func(path *string, name string) {
		if *path == "" {
			*path = filepath.Join(filepath.Dir(seedFile), name)
		}
	}
	beside(&rootKey, "root.key")
	beside(&state, "seed")
	text, err := os.ReadFile(seedFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read site file: %w", err)
	}
	site, err := trust.ParseSite(text)
	if err != nil {
		return nil, err
	}
	if text, err = os.ReadFile(rootKey); err != nil {
		return nil, fmt.Errorf("cannot read the site's root key: %w", err)
	}
	key, err := trust.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", rootKey, err)
	}
	return &appliance.SeedConfig{Site: site, RootKey: key, Dir: state}, nil
}

// printBoot prints each step of each boot as a line.
func printBoot(w io.Writer) func(pxe.Event) {
	return func(e pxe.Event) {
		line := fmt.Sprintf("%s  %s  %-12s", e.Time.Format(time.TimeOnly), e.Client.MAC, e.Kind)
		if e.File != "" {
			line += "  " + e.File
		}
		if e.Took > 0 {
			line += fmt.Sprintf("  %.1f MB in %.1f s", float64(e.Bytes)/1e6, e.Took.Seconds())
		}
		if e.Reason != "" {
			line += "  " + e.Reason
		}
		if e.Kind == pxe.ForeignDHCP {
			line = fmt.Sprintf("%s  warning: another DHCP server, %s, answers on %s; serve with --mode proxy beside it", e.Time.Format(time.TimeOnly), e.Foreign.Server, e.Client.Interface)
		}
		fmt.Fprintln(w, line)
	}
}

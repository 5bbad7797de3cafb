package assemble

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"roost/builder/deb"
	"roost/builder/lock"
	"roost/builder/tree"
	"roost/images"
)

// groupVersion is part of the key of every group's layer; it changes when code that makes them changes. The scripts and
// the surroundings of a job are part of the key themselves.
const groupVersion = "group 3"

// groupKey names the tree after a group by everything it is made of: the tree below, the packages in order, and the
// numbers of users.
func (a *assembly) groupKey(below images.Digest, g lock.Group) images.Digest {
	parts := []string{groupVersion, configureScript, enter, hosts, strings.Join(environment(), "\n"), strings.Join(placeholders(), "\n"), string(below), a.Lock.Architecture, fmt.Sprint(a.IDs)}
	for _, p := range g.Packages {
		parts = append(parts, p.Name, string(p.SHA256))
	}
	return keyOf(parts...)
}

// groups returns the tree of all groups. It looks for the highest group that is cached and builds only those above. It calls
// done with the tree after each, from the highest cached one on, on the way.
func (a *assembly) groups(ctx context.Context, done func(tree.Tree)) (tree.Tree, error) {
	keys := a.groupKeys()
	built := tree.Tree{}
	next := 0
	for i := len(keys) - 1; i >= 0; i-- {
		t, ok, err := a.Store.LoadTree(ctx, keys[i])
		if err != nil {
			return tree.Tree{}, err
		}
		if ok {
			built, next = t, i+1
			break
		}
	}
	if next > 0 {
		done(built)
	}
	if next == len(a.Lock.Groups) {
		return built, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	unpacked := a.unpackAll(ctx, a.Lock.Groups)
	defer func() {
		cancel()
		for _, u := range unpacked {
			u.group.Wait() // what failed has been told
		}
	}()
	own := newOwnership()
	for i, g := range a.Lock.Groups {
		started := time.Now()
		layers, err := unpacked[i].wait()
		waited := time.Since(started)
		switch {
		case err != nil:
		case i < next:
			err = own.note(layers, built.Draft())
		default:
			err = a.Cores.Urgent(func() (err error) {
				if built, err = a.buildGroup(ctx, built, g, layers, own); err == nil {
					err = a.Store.SaveTree(keys[i], built)
				}
				return err
			})
			a.Log.Info("group assembled", "group", g.Name, "packages", len(layers), "waited", waited.Round(time.Millisecond), "took", time.Since(started).Round(time.Millisecond))
		}
		if err != nil {
			return tree.Tree{}, fmt.Errorf("cannot assemble group %s: %w", g.Name, err)
		}
		if i >= next {
			done(built)
		}
	}
	return built, nil
}

// groupKeys returns the key of each group's tree.
func (a *assembly) groupKeys() []images.Digest {
	keys := make([]images.Digest, len(a.Lock.Groups))
	below := keyOf("nothing")
	for i, g := range a.Lock.Groups {
		keys[i] = a.groupKey(below, g)
		below = keys[i]
	}
	return keys
}

// buildGroup puts layers on the tree below and configures them.
func (a *assembly) buildGroup(ctx context.Context, below tree.Tree, g lock.Group, layers []*layer, own *ownership) (tree.Tree, error) {
	d := below.Draft()
	diversions, err := a.text(d, database+"/diversions")
	if err != nil {
		return tree.Tree{}, err
	}
	own.readDiversions(diversions)
	if err := own.merge(d, layers); err != nil {
		return tree.Tree{}, err
	}
	if err := a.register(d, layers, own); err != nil {
		return tree.Tree{}, err
	}
	unpacked, err := d.Tree()
	if err != nil {
		return tree.Tree{}, err
	}
	if unpacked, err = a.configure(ctx, unpacked, g, layers); err != nil {
		return tree.Tree{}, err
	}
	return unpacked, a.checkIDs(unpacked.Draft())
}

// configureScript runs what dpkg would have run before unpacking, makes the users, and lets dpkg configure.
//
// base-passwd makes /etc/passwd in its preinst, so it comes first and our users after it. Dependencies were settled by the
// lock, which may know of names that the image provides without a package; hence --force-depends.
const configureScript = `
in=/run/roost
prepare() {
	echo "Preparing $1 ..."
	DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=$1 DPKG_MAINTSCRIPT_ARCH=$3 DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 \
	DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= /var/lib/dpkg/info/$2.preinst install
}
accounts() {
	while IFS= read -r line; do
		grep -q "^${line%%:*}:" "$1" || echo "$line" >>"$1"
	done <$2
}
while read -r name stem arch; do
	if [ "$name" = base-passwd ]; then prepare $name $stem $arch; fi
done <$in/preinst
accounts /etc/group $in/group
accounts /etc/passwd $in/passwd
while read -r name stem arch; do
	if [ "$name" != base-passwd ]; then prepare $name $stem $arch; fi
done <$in/preinst
dpkg --force-depends --force-confold --force-unsafe-io --abort-after=1 --configure --pending
`

// configure brings the packages of layers from unpacked to installed. Packages without scripts and triggers need no
// program for that.
func (a *assembly) configure(ctx context.Context, t tree.Tree, g lock.Group, layers []*layer) (tree.Tree, error) {
	if isPlain(layers) {
		return a.markInstalled(ctx, t)
	}
	ids, err := a.IDs.wantedBy(layers)
	if err != nil {
		return tree.Tree{}, err
	}
	input := map[string]string{"preinst": "", "passwd": "", "group": ""}
	for _, u := range ids.Users {
		input["passwd"] += u.passwdLine()
		if u.Group == "" {
			input["group"] += groupLine(u.Name, u.GID)
		}
	}
	for _, x := range ids.Groups {
		input["group"] += groupLine(x.Name, x.GID)
	}
	for _, l := range layers {
		if _, ok := l.members["preinst"]; ok {
			input["preinst"] += fmt.Sprintln(l.Name, l.infoName(), l.control.Get("Architecture"))
		}
	}
	doing := ""
	t, err = a.run(ctx, t, job{
		name:   "configure packages",
		script: configureScript,
		input:  input,
		hide:   isModule, // a kernel's postinst would index thousands of modules that are picked and indexed later
		report: func(line string) {
			a.Log.Debug("configure", "says", line)
			if name, ok := strings.CutPrefix(line, "Setting up "); ok {
				doing, _, _ = strings.Cut(name, " ")
			} else if name, ok := strings.CutPrefix(line, "Preparing "); ok {
				doing, _, _ = strings.Cut(name, " ")
			}
		},
	})
	if err != nil {
		if doing != "" && ctx.Err() == nil {
			return tree.Tree{}, fmt.Errorf("package %s: %w", strings.TrimSuffix(doing, ":"+a.Lock.Architecture), err)
		}
		return tree.Tree{}, err
	}
	return t, a.checkInstalled(t)
}

// isPlain tells whether nothing has to run for layers: no script at installation, no trigger.
func isPlain(layers []*layer) bool {
	for _, l := range layers {
		for _, name := range []string{"preinst", "postinst", "config", "triggers"} {
			if _, ok := l.members[name]; ok {
				return false
			}
		}
	}
	return true
}

// markInstalled ends the configuration of plain packages. A lower group's trigger may still be due (on a file of theirs);
// then dpkg runs for it.
func (a *assembly) markInstalled(ctx context.Context, t tree.Tree) (tree.Tree, error) {
	d := t.Draft()
	pending, err := a.text(d, database+"/triggers/Unincorp")
	if err != nil {
		return tree.Tree{}, err
	}
	if len(pending) > 0 {
		return a.run(ctx, t, job{name: "run triggers", script: "dpkg --force-depends --configure --pending\n"})
	}
	status, err := a.text(d, database+"/status")
	if err != nil {
		return tree.Tree{}, err
	}
	status = bytes.ReplaceAll(status, []byte("\nStatus: install ok unpacked\n"), []byte("\nStatus: install ok installed\n"))
	if err := a.write(d, database+"/status", 0o644, status); err != nil {
		return tree.Tree{}, err
	}
	return d.Tree()
}

// checkInstalled refuses a tree in which dpkg left a package half done.
func (a *assembly) checkInstalled(t tree.Tree) error {
	status, err := a.text(t.Draft(), database+"/status")
	if err != nil {
		return err
	}
	packages, err := deb.ParseParagraphs(status)
	if err != nil {
		return fmt.Errorf("cannot read dpkg's status: %w", err)
	}
	for _, p := range packages {
		if s := p.Get("Status"); s != "install ok installed" {
			return fmt.Errorf("package %s: dpkg left it as %q", p.Get("Package"), s)
		}
	}
	return nil
}

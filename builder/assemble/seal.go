package assemble

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"roost/builder/tree"
)

// databaseHome is where the finished image keeps dpkg's database: it describes the image, so it is not state. A link in
// /var leads there.
const databaseHome = "/usr/lib/sysimage/dpkg"

// identity lists what would make two machines of one image the same, or tell secrets of the build: it is removed.
var identity = []string{
	"/etc/hostname", "/etc/machine-info", "/etc/ssh/ssh_host_*", "/etc/ssl/private/*", "/etc/ssl/certs/ssl-cert-snakeoil.pem",
	"/etc/iscsi/initiatorname.iscsi", "/etc/nvme/hostid", "/etc/nvme/hostnqn", "/etc/openvswitch/conf.db", "/etc/openvswitch/system-id.conf",
	"/etc/openvswitch/.conf.db.~lock~", "/etc/bind/rndc.key", "/etc/adjtime",
	"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-", "/etc/.pwd.lock",
	"/vmlinuz", "/vmlinuz.old", "/initrd.img", "/initrd.img.old", "/.dockerenv", "/root/.bash_history",
}

// points are the directories that every image has, with their permissions. Those marked empty keep nothing from the build.
var points = []struct {
	path  string
	mode  uint32
	empty bool
}{
	{"/boot", 0o755, true}, {"/dev", 0o755, true}, {"/efi", 0o755, true}, {"/home", 0o755, false}, {"/media", 0o755, true}, {"/mnt", 0o755, true},
	{"/opt", 0o755, false}, {"/proc", 0o555, true}, {"/root", 0o700, false}, {"/run", 0o755, true}, {"/srv", 0o755, false}, {"/sys", 0o555, true},
	{"/tmp", 0o1777, true}, {"/var", 0o755, true},
}

// seal makes a tree fit to be an image that many machines share and that nobody writes to: it loses identity, secrets,
// logs, caches and all state; what it must have at run time in /var is written down as tmpfiles.d(5) lines, which make it
// on every boot.
func (a *assembly) seal(t tree.Tree) (tree.Tree, error) {
	d := t.Draft()
	for _, p := range d.Paths() {
		for _, pattern := range identity {
			if ok, _ := path.Match(pattern, p); ok {
				d.Remove(p)
			}
		}
	}
	if err := a.sealAccounts(d); err != nil {
		return tree.Tree{}, fmt.Errorf("cannot seal accounts: %w", err)
	}
	if err := a.sealVar(d); err != nil {
		return tree.Tree{}, fmt.Errorf("cannot seal /var: %w", err)
	}
	for _, p := range points {
		if p.empty {
			d.Remove(p.path)
		}
		if err := d.Put(tree.Entry{Path: p.path, Type: tree.Directory, Mode: p.mode}); err != nil {
			return tree.Tree{}, fmt.Errorf("cannot seal: %w", err)
		}
	}
	sealed, err := d.Tree()
	if err != nil {
		return tree.Tree{}, err
	}
	if err := a.sealFiles(d, EnabledUnits(sealed)); err != nil {
		return tree.Tree{}, fmt.Errorf("cannot seal: %w", err)
	}
	return d.Tree()
}

// hosts is for programs that read /etc/hosts and nothing else.
const hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"

// sealFiles writes the files that say what the image is to those who would otherwise change it at boot.
func (a *assembly) sealFiles(d *tree.Draft, units []string) error {
	// An empty machine-id is filled by whoever boots the image. With .updated as old as /usr, systemd leaves caches of
	// /etc alone, which are complete (ConditionNeedsUpdate= in systemd.unit(5)).
	for _, f := range []struct {
		name string
		mode uint32
		text string
	}{
		{"/etc/machine-id", 0o444, ""},
		{"/etc/.updated", 0o644, "# As old as /usr: nothing here needs an update.\n"},
		{"/usr/lib/systemd/system-preset/00-roost.preset", 0o644, preset(units)},
	} {
		if err := a.write(d, f.name, f.mode, []byte(f.text)); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"/etc/hosts": hosts, "/etc/locale.conf": "LANG=C.UTF-8\n"} {
		if _, ok := d.Lookup(name); ok {
			continue
		}
		if err := a.write(d, name, 0o644, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// sealAccounts makes the four account files agree, locks every account that has no password of its own, and ships our
// numbers as sysusers.d(5), so that no later tool gives them away.
func (a *assembly) sealAccounts(d *tree.Draft) error {
	for _, pair := range []struct {
		file, shadow, form string
		shadowGID          uint32
	}{
		{"/etc/passwd", "/etc/shadow", "%s:!*:%d:0:99999:7:::\n", 42},
		{"/etc/group", "/etc/gshadow", "%s:!::%s\n", 42},
	} {
		text, err := a.text(d, pair.file)
		if err != nil || text == nil {
			return err
		}
		shadow, err := a.text(d, pair.shadow)
		if err != nil {
			return err
		}
		kept := map[string]string{}
		for line := range strings.Lines(string(shadow)) {
			name, _, _ := strings.Cut(line, ":")
			kept[name] = strings.TrimSuffix(line, "\n") + "\n"
		}
		var plain, hidden strings.Builder
		for line := range strings.Lines(string(text)) {
			fields := strings.Split(strings.TrimSuffix(line, "\n"), ":")
			if len(fields) < 4 {
				return fmt.Errorf("%s has the line %q", pair.file, line)
			}
			fields[1] = "x"
			plain.WriteString(strings.Join(fields, ":") + "\n")
			hidden.WriteString(shadowLine(kept[fields[0]], pair.form, fields))
		}
		if err := a.write(d, pair.file, 0o644, []byte(plain.String())); err != nil {
			return err
		}
		if err := a.write(d, pair.shadow, 0o640, []byte(hidden.String())); err != nil {
			return err
		}
		e, _ := d.Lookup(pair.shadow)
		e.GID = pair.shadowGID
		if err := d.Put(e); err != nil {
			return err
		}
	}
	return a.writeSysusers(d)
}

// shadowLine returns the entry that is there, or a locked one. Group members are repeated in gshadow.
func shadowLine(have, form string, fields []string) string {
	switch {
	case have != "" && len(fields) != 4:
		return have
	case len(fields) == 4: // a group
		return fmt.Sprintf(form, fields[0], fields[3])
	}
	return fmt.Sprintf(form, fields[0], tree.FileTime/86400)
}

// writeSysusers ships the accounts of our table that the image has.
func (a *assembly) writeSysusers(d *tree.Draft) error {
	names := map[string]bool{}
	for _, file := range []string{"/etc/passwd", "/etc/group"} {
		text, err := a.text(d, file)
		if err != nil {
			return err
		}
		accounts, err := parseAccounts(text)
		if err != nil {
			return err
		}
		for _, x := range accounts {
			names[x.name] = true
		}
	}
	ids := a.IDs.only(names)
	if len(ids.Users)+len(ids.Groups) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("# Numbers of users and groups, the same in every image. Made by the image builder.\n")
	for _, g := range ids.Groups {
		fmt.Fprintf(&b, "g %s %d\n", g.Name, g.GID)
	}
	for _, u := range ids.Users {
		if u.Group == "" {
			fmt.Fprintf(&b, "g %s %d\n", u.Name, u.GID)
		}
		fmt.Fprintf(&b, "u %s %d:%d - %s %s\n", u.Name, u.UID, u.GID, u.Home, u.Shell)
	}
	return a.write(d, "/usr/lib/sysusers.d/00-roost.conf", 0o644, []byte(b.String()))
}

// noState lists what of /var is of the build only: no directory of it is made again at run time.
var noState = []string{
	database, "/var/lib/apt", "/var/cache/apt", "/var/cache/debconf", "/var/cache/ldconfig", "/var/lib/ucf", "/var/lib/pam",
	"/var/lib/systemd/deb-systemd-helper-enabled", "/var/lib/systemd/deb-systemd-user-helper-enabled", "/var/lib/systemd/deb-systemd-helper-masked",
	"/var/lib/systemd/catalog", "/var/lib/shells.state", "/var/backups", "/var/local",
}

// sealVar moves dpkg's database out, empties /var and writes the lines that make its directories and links at boot.
func (a *assembly) sealVar(d *tree.Draft) error {
	if err := a.moveDatabase(d); err != nil {
		return err
	}
	have, err := a.tmpfilesPaths(d)
	if err != nil {
		return err
	}
	declared := make([]string, 0, len(a.Recipe.State))
	for _, s := range a.Recipe.State {
		declared = append(declared, s.Path)
	}
	var b strings.Builder
	b.WriteString("# Directories that packages expect in /var. Made by the image builder.\n")
	var dropped []string
	for _, p := range d.Paths() {
		e, _ := d.Lookup(p)
		if !strings.HasPrefix(p, "/var/") || have[p] || below(p, noState) {
			continue
		}
		if below(p, declared) { // what a component finds in its state is what it put there, not what a script made at build time
			continue
		}
		switch e.Type {
		case tree.Directory:
			fmt.Fprintf(&b, "d %s %04o %d %d - -\n", tmpfilesPath(p), e.Mode, e.UID, e.GID)
		case tree.Symlink:
			fmt.Fprintf(&b, "L %s - - - - %s\n", tmpfilesPath(p), e.Target)
		default:
			dropped = append(dropped, p)
		}
	}
	if _, ok := d.Lookup(databaseHome); ok {
		fmt.Fprintf(&b, "L %s - - - - ../..%s\n", database, databaseHome)
	}
	if len(dropped) > 0 {
		a.Log.Info("files of packages in /var are state and not in the image", "files", dropped)
	}
	d.Empty("/var")
	return a.write(d, "/usr/lib/tmpfiles.d/roost-var.conf", 0o644, []byte(b.String()))
}

func below(p string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") })
}

// tmpfilesPath escapes what tmpfiles.d(5) would read as a specifier or a separator.
func tmpfilesPath(p string) string {
	return strings.NewReplacer("%", "%%", " ", `\x20`).Replace(p)
}

// tmpfilesPaths returns the paths that packages' own tmpfiles.d files make; ours would only be duplicates.
func (a *assembly) tmpfilesPaths(d *tree.Draft) (map[string]bool, error) {
	paths := map[string]bool{}
	for _, p := range d.Paths() {
		dir := path.Dir(p)
		if dir != "/usr/lib/tmpfiles.d" && dir != "/etc/tmpfiles.d" || path.Ext(p) != ".conf" {
			continue
		}
		if e, _ := d.Lookup(p); e.Type != tree.File {
			continue
		}
		text, err := a.text(d, p)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if len(words) >= 2 && strings.ContainsAny(words[0][:1], "dDvqQLfFpC") {
				paths[path.Clean(words[1])] = true
			}
		}
	}
	return paths, nil
}

// moveDatabase keeps of dpkg's database what tells about the image: status, file lists and checksums, diversions and
// alternatives. Scripts and templates have no use where nothing is installed or removed.
func (a *assembly) moveDatabase(d *tree.Draft) error {
	if _, ok := d.Lookup(database); !ok {
		return nil
	}
	for _, p := range d.Paths() {
		name, ok := strings.CutPrefix(p, database+"/")
		if !ok {
			continue
		}
		keep := slices.Contains([]string{"status", "arch", "diversions", "statoverride", "info", "info/format", "alternatives"}, name) ||
			strings.HasPrefix(name, "alternatives/") ||
			strings.HasPrefix(name, "info/") && slices.Contains([]string{".list", ".md5sums", ".conffiles"}, path.Ext(name))
		if !keep {
			d.Remove(p)
		}
	}
	return d.Move(database, databaseHome)
}

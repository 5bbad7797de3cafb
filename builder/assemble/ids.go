package assemble

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"roost/builder/tree"
)

// IDs is the project-wide table of users and groups: the same name has the same number in every image, for the numbers
// are on disks that outlive images.
type IDs struct {
	Users  []UserID  `yaml:"users"`
	Groups []GroupID `yaml:"groups"`
}

// UserID is one user. It has a group of its own name with number GID.
type UserID struct {
	Name  string `yaml:"name"`
	UID   uint32 `yaml:"uid"`
	GID   uint32 `yaml:"gid"`   // default: UID
	Group string `yaml:"group"` // primary group, if not its own
	Home  string `yaml:"home"`  // default /nonexistent
	Shell string `yaml:"shell"` // default /usr/sbin/nologin
	Mode  uint32 `yaml:"mode"`  // make Home with these permissions; 0 leaves that to packages
}

// GroupID is one group that is no user's own.
type GroupID struct {
	Name string `yaml:"name"`
	GID  uint32 `yaml:"gid"`
}

// ParseIDs reads the table. Names and numbers must be unique, and the numbers outside the ranges that adduser and useradd
// choose from by themselves in practice (they count up from 100 and down from 999), so that the two never meet.
func ParseIDs(text []byte) (IDs, error) {
	var t IDs
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&t); err != nil {
		return IDs{}, fmt.Errorf("cannot read the table of user ids: %w", err)
	}
	names, uids, gids := map[string]bool{}, map[uint32]string{}, map[uint32]string{}
	for i := range t.Groups {
		g := t.Groups[i]
		if err := claimID(gids, g.GID, g.Name); err != nil || names[g.Name] {
			return IDs{}, fmt.Errorf("cannot read the table of user ids: group %s: %w", g.Name, cmp.Or(err, errTwice))
		}
		names[g.Name] = true
	}
	for i := range t.Users {
		u := &t.Users[i]
		err := claimID(uids, u.UID, u.Name)
		if u.Group == "" {
			u.GID = cmp.Or(u.GID, u.UID)
			err = cmp.Or(err, claimID(gids, u.GID, u.Name))
		} else if u.GID == 0 {
			err = cmp.Or(err, fmt.Errorf("the gid of its group %s is missing", u.Group))
		}
		if err != nil || names[u.Name] {
			return IDs{}, fmt.Errorf("cannot read the table of user ids: user %s: %w", u.Name, cmp.Or(err, errTwice))
		}
		names[u.Name] = true
		u.Home, u.Shell = cmp.Or(u.Home, "/nonexistent"), cmp.Or(u.Shell, "/usr/sbin/nologin")
	}
	return t, nil
}

var (
	errTwice = errors.New("it is there twice")
	idName   = regexp.MustCompile(`\A[a-z_][a-z0-9_-]{0,31}\z`)
)

func claimID(taken map[uint32]string, id uint32, name string) error {
	switch {
	case !idName.MatchString(name):
		return errors.New("it is not a name for a user or group")
	case id < 200 || id >= 900 && id < 60000 || id >= 65534:
		return fmt.Errorf("number %d is outside 200-899 and 60000-65533", id)
	case taken[id] != "":
		return fmt.Errorf("number %d is also that of %s", id, taken[id])
	}
	taken[id] = name
	return nil
}

// passwdLine and groupLine are lines for /etc/passwd and /etc/group without a usable password.
func (u UserID) passwdLine() string {
	return fmt.Sprintf("%s:*:%d:%d::%s:%s\n", u.Name, u.UID, u.GID, u.Home, u.Shell)
}

func groupLine(name string, gid uint32) string { return fmt.Sprintf("%s:*:%d:\n", name, gid) }

// makesUsers tells whether a maintainer script may make users or groups.
var makesUsers = regexp.MustCompile(`adduser|addgroup|useradd|groupadd|sysusers`)

// wantedBy returns the part of the table that the packages mention where they make users: in their sysusers.d files and in
// maintainer scripts that call a program for it.
func (t IDs) wantedBy(layers []*layer) (IDs, error) {
	var said strings.Builder
	for _, l := range layers {
		for _, name := range l.scripts {
			text, err := l.member(name)
			if err != nil {
				return IDs{}, err
			}
			if makesUsers.Match(text) {
				said.Write(text)
			}
		}
		for _, e := range l.files.Under("/usr/lib/sysusers.d") {
			if e.Type != tree.File {
				continue
			}
			text, err := l.store.ReadFile(e.Blob)
			if err != nil {
				return IDs{}, err
			}
			said.Write(text)
		}
	}
	words := map[string]bool{}
	for _, w := range strings.FieldsFunc(said.String(), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}) {
		words[w] = true
	}
	return t.only(words), nil
}

// only returns the entries with the given names, and the groups their users need.
func (t IDs) only(names map[string]bool) IDs {
	var part IDs
	need := map[string]bool{}
	for _, u := range t.Users {
		if names[u.Name] {
			part.Users = append(part.Users, u)
			need[u.Group] = true
		}
	}
	for _, g := range t.Groups {
		if names[g.Name] || need[g.Name] {
			part.Groups = append(part.Groups, g)
		}
	}
	return part
}

// account is a line of /etc/passwd or /etc/group, as far as numbers go.
type account struct {
	name string
	id   uint32
	line string
}

func parseAccounts(text []byte) ([]account, error) {
	var all []account
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 3 {
			continue
		}
		id, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("account %s has the number %q", fields[0], fields[2])
		}
		all = append(all, account{fields[0], uint32(id), strings.TrimSpace(line)})
	}
	return all, nil
}

// fixedByDebian tells whether number n is the same in every Debian: base-passwd's up to 100, nobody, and those that were
// assigned to packages for good (policy 9.2.2).
func fixedByDebian(n uint32) bool { return n <= 100 || n == 65534 || n >= 60000 && n <= 64999 }

// checkIDs refuses accounts of the tree whose number was chosen by a package's script and not by the table or
// by Debian.
func (a *assembly) checkIDs(d *tree.Draft) error {
	uids, gids := map[string]uint32{}, map[string]uint32{}
	for _, u := range a.IDs.Users {
		uids[u.Name] = u.UID
		if u.Group == "" {
			gids[u.Name] = u.GID
		}
	}
	for _, g := range a.IDs.Groups {
		gids[g.Name] = g.GID
	}
	var faults []string
	for file, table := range map[string]map[string]uint32{"/etc/passwd": uids, "/etc/group": gids} {
		text, err := a.text(d, file)
		if err != nil {
			return err
		}
		accounts, err := parseAccounts(text)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", file, err)
		}
		for _, x := range accounts {
			want, known := table[x.name]
			if (known && want != x.id) || (!known && !fixedByDebian(x.id)) {
				faults = append(faults, fmt.Sprintf("%s has %s with number %d", file, x.name, x.id))
			}
		}
	}
	if len(faults) == 0 {
		return nil
	}
	slices.Sort(faults)
	return fmt.Errorf("cannot fix user ids: %s; add it to the table of user ids with a number of its own, so that it is the same in every image", strings.Join(faults, ", "))
}

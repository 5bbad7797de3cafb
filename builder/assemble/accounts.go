package assemble

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"roost/builder/recipe"
	"roost/builder/tree"
)

// addAccounts adds the recipe's groups and users, without passwords.
func (a *assembly) addAccounts(d *tree.Draft) error {
	for _, g := range a.Recipe.Groups {
		if err := a.addAccount(d, "/etc/group", g.Name, g.GID, fmt.Sprintf("%s:*:%d:", g.Name, g.GID)); err != nil {
			return err
		}
	}
	for _, u := range a.Recipe.Users {
		u, err := a.fromTable(u)
		if err != nil {
			return err
		}
		if _, err := a.number(d, "/etc/group", u.Group); err != nil && u.Group == u.Name {
			if err := a.addAccount(d, "/etc/group", u.Name, u.UID, fmt.Sprintf("%s:*:%d:", u.Name, u.UID)); err != nil {
				return err
			}
		}
		gid, err := a.number(d, "/etc/group", u.Group)
		if err != nil {
			return fmt.Errorf("cannot add user %s: %w", u.Name, err)
		}
		line := fmt.Sprintf("%s:*:%d:%d:%s:%s:%s", u.Name, u.UID, gid, u.Comment, u.Home, u.Shell)
		if err := a.addAccount(d, "/etc/passwd", u.Name, u.UID, line); err != nil {
			return err
		}
		for _, group := range u.Groups {
			if err := a.addMember(d, group, u.Name); err != nil {
				return fmt.Errorf("cannot add user %s: %w", u.Name, err)
			}
		}
		if err := a.addHome(d, u, gid); err != nil {
			return fmt.Errorf("cannot add user %s: %w", u.Name, err)
		}
	}
	return nil
}

// fromTable gives a user without a number what the project's table says of it.
func (a *assembly) fromTable(u recipe.User) (recipe.User, error) {
	if u.UID != 0 {
		return u, nil
	}
	ids := a.IDs.only(map[string]bool{u.Name: true})
	if len(ids.Users) == 0 {
		return u, fmt.Errorf("cannot add user %s: it has no number; state its uid, or add it to the table of user ids", u.Name)
	}
	entry := ids.Users[0]
	u.UID, u.Home, u.Shell = int(entry.UID), entry.Home, entry.Shell
	if entry.Group != "" {
		u.Group = entry.Group
	}
	return u, nil
}

func (a *assembly) addAccount(d *tree.Draft, file, name string, id int, line string) error {
	text, err := a.text(d, file)
	if err != nil {
		return err
	}
	accounts, err := parseAccounts(text)
	if err != nil {
		return err
	}
	for _, x := range accounts {
		if x.name == name && x.id == uint32(id) {
			return nil
		}
		if x.name == name || x.id == uint32(id) {
			return fmt.Errorf("cannot add %s with number %d: %s has %s with number %d", name, id, file, x.name, x.id)
		}
	}
	return a.write(d, file, 0o644, append(text, line+"\n"...))
}

func (a *assembly) addMember(d *tree.Draft, group, user string) error {
	text, err := a.text(d, "/etc/group")
	if err != nil {
		return err
	}
	var b strings.Builder
	found := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		fields := strings.Split(line, ":")
		if len(fields) == 4 && fields[0] == group {
			found = true
			if slices.Contains(strings.Split(fields[3], ","), user) {
				return nil
			}
			if fields[3] != "" {
				fields[3] += ","
			}
			fields[3] += user
			line = strings.Join(fields, ":")
		}
		b.WriteString(line + "\n")
	}
	if !found {
		return fmt.Errorf("the image has no group %s", group)
	}
	return a.write(d, "/etc/group", 0o644, []byte(b.String()))
}

// addHome makes a user's home in the tree. One below /var becomes a tmpfiles.d line when the tree is sealed.
func (a *assembly) addHome(d *tree.Draft, u recipe.User, gid uint32) error {
	if _, ok := d.Lookup(u.Home); ok || u.Home == "" || u.Home == "/nonexistent" || path.Clean(u.Home) == "/" {
		return nil
	}
	return d.Put(tree.Entry{Path: path.Clean(u.Home), Type: tree.Directory, Mode: 0o700, UID: uint32(u.UID), GID: gid})
}

// sysuser is one line of a sysusers.d(5) file.
type sysuser struct {
	kind, name, id, comment, home, shell string
}

// parseSysusers reads the lines that make users, groups and memberships; ranges (r) choose numbers, which images never do.
func parseSysusers(text []byte) ([]sysuser, error) {
	var all []sysuser
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words, err := splitQuoted(line)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		words = append(words, make([]string, 6)...)[:6]
		for i, w := range words {
			if w == "-" {
				words[i] = ""
			}
		}
		kind := strings.TrimRight(words[0], "!-")
		if kind != "u" && kind != "g" && kind != "m" && kind != "r" {
			return nil, fmt.Errorf("%q: unknown type %q", line, words[0])
		}
		if kind != "r" {
			all = append(all, sysuser{kind, words[1], words[2], words[3], words[4], words[5]})
		}
	}
	return all, nil
}

// splitQuoted splits at blanks outside quotes.
func splitQuoted(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote, open := rune(0), false
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, open = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if open {
				words = append(words, word.String())
				word.Reset()
			}
			open = false
		default:
			word.WriteRune(c)
			open = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if open {
		words = append(words, word.String())
	}
	return words, nil
}

// addSysusers does for the whole tree what systemd-sysusers does at boot of a machine whose /etc can be written, so that
// accounts of the recipe's own sysusers.d files are in the image. Packages made theirs when they were configured.
func (a *assembly) addSysusers(d *tree.Draft) error {
	var all []sysuser
	for _, p := range d.Paths() {
		e, _ := d.Lookup(p)
		if path.Dir(p) != "/usr/lib/sysusers.d" && path.Dir(p) != "/etc/sysusers.d" || e.Type != tree.File || path.Ext(p) != ".conf" {
			continue
		}
		text, err := a.text(d, p)
		if err != nil {
			return err
		}
		lines, err := parseSysusers(text)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", p, err)
		}
		all = append(all, lines...)
	}
	for _, kind := range []string{"g", "u", "m"} { // as systemd-sysusers orders them
		for _, s := range all {
			if s.kind != kind {
				continue
			}
			if err := a.addSysuser(d, s); err != nil {
				return fmt.Errorf("cannot make account %s of sysusers.d: %w", s.name, err)
			}
		}
	}
	return nil
}

func (a *assembly) addSysuser(d *tree.Draft, s sysuser) error {
	file := map[string]string{"g": "/etc/group", "u": "/etc/passwd"}[s.kind]
	if s.kind == "m" {
		return a.addMember(d, s.id, s.name)
	}
	if _, err := a.number(d, file, s.name); err == nil {
		return nil
	}
	uid, group, hasGroup := strings.Cut(s.id, ":")
	n, err := strconv.ParseUint(uid, 10, 31)
	if err != nil {
		n, err = a.tableID(s)
	}
	if err != nil {
		return err
	}
	if s.kind == "g" {
		return a.addAccount(d, file, s.name, int(n), fmt.Sprintf("%s:*:%d:", s.name, n))
	}
	var gid uint32
	if hasGroup {
		if gid, err = a.number(d, "/etc/group", group); err != nil {
			return err
		}
	} else if gid, err = a.number(d, "/etc/group", s.name); err != nil {
		gid = uint32(n)
		if err := a.addAccount(d, "/etc/group", s.name, int(n), fmt.Sprintf("%s:*:%d:", s.name, n)); err != nil {
			return err
		}
	}
	line := fmt.Sprintf("%s:*:%d:%d:%s:%s:%s", s.name, n, gid, s.comment, cmp.Or(s.home, "/"), cmp.Or(s.shell, "/usr/sbin/nologin"))
	return a.addAccount(d, file, s.name, int(n), line)
}

// tableID is the number that the project's table gives to an account whose line leaves it open.
func (a *assembly) tableID(s sysuser) (uint64, error) {
	ids := a.IDs.only(map[string]bool{s.name: true})
	switch {
	case s.kind == "u" && len(ids.Users) == 1:
		return uint64(ids.Users[0].UID), nil
	case s.kind == "g" && len(ids.Groups) == 1:
		return uint64(ids.Groups[0].GID), nil
	}
	return 0, errors.New("it has no number of its own; state one, or add it to the table of user ids")
}

package assemble

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// idRange is how many user and group ids a tree may use: those of Debian and of recipes are all below.
const idRange = 1 << 16

// BecomeRoot lets a user build: it starts this program anew as root of a user namespace with the range of ids that
// subuid(5) and subgid(5) give the user. It returns only when there is nothing to do or when it cannot be done. The new program
// has the same process id, arguments, environment and files.
func BecomeRoot() error {
	if os.Geteuid() == 0 {
		ids, err := os.ReadFile("/proc/self/uid_map")
		if err != nil {
			return fmt.Errorf("cannot build: %w", err)
		}
		return checkIDs(string(ids))
	}
	u, err := user.Current()
	if err != nil {
		return fmt.Errorf("cannot build as a user: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot build as a user: %w", err)
	}
	fail := func(err error) error {
		return fmt.Errorf("cannot build as user %s: %w; or build as root", u.Username, err)
	}
	// Only newuidmap and newgidmap may give a user more than one id.
	for _, name := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(name); err != nil {
			return fail(fmt.Errorf("the program %s is missing (Debian's package uidmap)", name))
		}
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return fail(errors.New("the program unshare is missing (util-linux 2.38 or later)"))
	}
	for _, name := range []string{"/etc/subuid", "/etc/subgid"} {
		f, err := os.Open(name)
		if err != nil {
			return fail(err)
		}
		ok := hasIDs(f, u.Username, u.Uid)
		f.Close()
		if !ok {
			return fail(fmt.Errorf("%s gives them no range of %d ids (usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s)", name, idRange, u.Username))
		}
	}
	argv := append([]string{"unshare", "--user", "--map-root-user", "--map-auto", "--", self}, os.Args[1:]...)
	return fail(fmt.Errorf("cannot run %s: %w", unshare, unix.Exec(unshare, argv, os.Environ())))
}

// checkIDs finds a user namespace that is too small, from its map (user_namespaces(7)).
func checkIDs(uidMap string) error {
	total := 0
	for line := range strings.Lines(uidMap) {
		if f := strings.Fields(line); len(f) == 3 {
			n, err := strconv.Atoi(f[2])
			if err != nil {
				return fmt.Errorf("cannot read the map of user ids: %w", err)
			}
			total += n
		}
	}
	if total < idRange {
		return fmt.Errorf("cannot build in this user namespace: it has %d user ids of the %d that a tree may use (unshare --map-root-user --map-auto makes one that has)", total, idRange)
	}
	return nil
}

// hasIDs looks for a range that is large enough, given by name or number (subuid(5)).
func hasIDs(r io.Reader, name, id string) bool {
	s := bufio.NewScanner(r)
	for s.Scan() {
		owner, rest, _ := strings.Cut(s.Text(), ":")
		_, count, _ := strings.Cut(rest, ":")
		if n, err := strconv.Atoi(count); err == nil && n >= idRange-1 && (owner == name || owner == id) {
			return true
		}
	}
	return false
}

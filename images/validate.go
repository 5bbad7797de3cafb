package images

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits of a release. They keep a document that lies from steering a machine into absurd work.
const (
	blockSize  = 4096    // dm-verity data and hash blocks
	maxPart    = 1 << 40 // bytes
	maxSeconds = 24 * 60 * 60
	maxList    = 1024 // gates, units
	maxLine    = 2048 // bytes of command line, COMMAND_LINE_SIZE of x86 Linux
)

// Validate reports everything that is wrong with r, or nil.
func (r *Release) Validate() error {
	var wrong []error
	add := func(field string, err error) {
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", field, err))
		}
	}
	if r.Schema != Schema {
		add("schema", fmt.Errorf("want %d, got %d", Schema, r.Schema))
	}
	_, err := ParseName(r.Name)
	add("name", err)
	_, err = ParseVersion(string(r.Version))
	add("version", err)
	_, err = ParseDigest(string(r.Lock))
	add("lock", err)
	add("architecture", oneOf(r.Architecture, "amd64", "arm64"))
	add("created", validateTime(r.Created))
	add("kernel", validateWord(r.Kernel))
	add("rootHash", validateRootHash(r.RootHash))
	add("commandLine", validateCommandLine(r.CommandLine, r.RootHash))
	for _, kind := range Kinds() {
		add(string(kind), r.Part(kind).validate())
	}
	add("needs", r.validateNeeds())
	add("update", r.validateUpdate())
	add("gates", validateGates(r.Gates))
	add("units", validateUnits(r.Units))
	return errors.Join(wrong...)
}

func validateTime(t time.Time) error {
	if t.Unix() <= 0 || t.Year() > 9999 || t.Nanosecond() != 0 {
		return fmt.Errorf("want whole seconds after 1970, got %v", t)
	}
	if t.Location() != time.UTC {
		return fmt.Errorf("want UTC, got %v", t)
	}
	return nil
}

func validateRootHash(s string) error {
	if !isHex(s, 32) {
		return fmt.Errorf("want 64 lower-case hexadecimal digits, got %q", s)
	}
	return nil
}

// validateCommandLine demands exactly the one roothash= that the document states.
func validateCommandLine(line, rootHash string) error {
	if len(line) > maxLine {
		return fmt.Errorf("%d bytes, limit %d", len(line), maxLine)
	}
	if strings.IndexFunc(line, func(c rune) bool { return c < ' ' || c > '~' }) >= 0 {
		return fmt.Errorf("want printable ASCII, got %q", line)
	}
	var hashes []string
	for _, word := range strings.Fields(line) {
		if hash, ok := strings.CutPrefix(word, "roothash="); ok {
			hashes = append(hashes, hash)
		}
	}
	if len(hashes) != 1 || hashes[0] != rootHash {
		return fmt.Errorf("want one roothash=%s, got %q", rootHash, line)
	}
	return nil
}

func validateWord(s string) error {
	if s == "" || len(s) > 128 || strings.IndexFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) >= 0 {
		return fmt.Errorf("want 1 to 128 printable characters without spaces, got %q", s)
	}
	return nil
}

func (p Part) validate() error {
	if _, err := ParseDigest(string(p.Digest)); err != nil {
		return err
	}
	if p.Size <= 0 || p.Size > maxPart {
		return fmt.Errorf("want a size of 1 to %d bytes, got %d", int64(maxPart), p.Size)
	}
	return nil
}

func (r *Release) validateNeeds() error {
	n := r.Needs
	for _, size := range []int64{n.Slot, n.Verity, n.ESP, n.Disk, n.Memory} {
		if size <= 0 || size > maxPart {
			return fmt.Errorf("want sizes of 1 to %d bytes, got %+v", int64(maxPart), n)
		}
	}
	switch {
	case r.Root.Size%blockSize != 0 || r.Verity.Size%blockSize != 0:
		return fmt.Errorf("root image of %d and verity data of %d bytes: want multiples of %d", r.Root.Size, r.Verity.Size, blockSize)
	case r.Root.Size > n.Slot:
		return fmt.Errorf("root image of %d bytes does not fit a slot of %d", r.Root.Size, n.Slot)
	case r.Verity.Size > n.Verity:
		return fmt.Errorf("verity data of %d bytes does not fit a partition of %d", r.Verity.Size, n.Verity)
	case 3*r.UKI.Size+2*r.Loader.Size > n.ESP:
		return fmt.Errorf("three UKIs of %d bytes and two loaders of %d do not fit an ESP of %d", r.UKI.Size, r.Loader.Size, n.ESP)
	case 2*(n.ESP+n.Slot+n.Verity) > n.Disk:
		return fmt.Errorf("two slots, verity partitions and ESPs do not fit a disk of %d bytes", n.Disk)
	}
	return nil
}

func (r *Release) validateUpdate() error {
	u := r.Update
	if u.Tries < 1 || u.Tries > 9 {
		return fmt.Errorf("want 1 to 9 tries, got %d", u.Tries)
	}
	if u.GateSeconds < 0 || u.GateSeconds > maxSeconds || (u.GateSeconds == 0 && len(r.Gates) > 0) {
		return fmt.Errorf("want 1 to %d seconds for the gates, got %d", maxSeconds, u.GateSeconds)
	}
	if u.RollbackFloor == "" {
		return nil
	}
	if _, err := ParseVersion(string(u.RollbackFloor)); err != nil {
		return err
	}
	if u.RollbackFloor.Compare(r.Version) > 0 {
		return fmt.Errorf("rollback floor %s is above the release's own version %s", u.RollbackFloor, r.Version)
	}
	return nil
}

func validateGates(gates []Gate) error {
	if len(gates) > maxList {
		return fmt.Errorf("%d gates, limit %d", len(gates), maxList)
	}
	seen := map[string]bool{}
	for _, g := range gates {
		if err := validateWord(g.Name); err != nil {
			return fmt.Errorf("name: %w", err)
		}
		if seen[g.Name] {
			return fmt.Errorf("two gates are named %s", g.Name)
		}
		seen[g.Name] = true
		if err := g.validate(); err != nil {
			return fmt.Errorf("gate %s: %w", g.Name, err)
		}
	}
	return nil
}

func (g Gate) validate() error {
	if err := oneOf(g.Kind, "unit", "units", "controller", "component", "program"); err != nil {
		return err
	}
	if (g.Kind == "unit") != (g.Unit != "") {
		return fmt.Errorf("kind %s with unit %q: the unit goes with kind unit and only with it", g.Kind, g.Unit)
	}
	if (g.Kind == "program") != (len(g.Exec) > 0) {
		return fmt.Errorf("kind %s with exec %q: exec goes with kind program and only with it", g.Kind, g.Exec)
	}
	if g.Kind == "unit" {
		return validateUnit(g.Unit)
	}
	if g.Kind == "program" && !strings.HasPrefix(g.Exec[0], "/") {
		return fmt.Errorf("exec: want an absolute path, got %q", g.Exec[0])
	}
	return nil
}

func validateUnits(units []string) error {
	if len(units) > maxList {
		return fmt.Errorf("%d units, limit %d", len(units), maxList)
	}
	for i, unit := range units {
		if err := validateUnit(unit); err != nil {
			return err
		}
		if i > 0 && units[i-1] >= unit {
			return fmt.Errorf("want sorted and without repeats, got %s after %s", unit, units[i-1])
		}
	}
	return nil
}

// validateUnit checks s as systemd.unit(5) does: characters, a suffix, at most 255 bytes.
func validateUnit(s string) error {
	ok := len(s) <= 255 && strings.LastIndexByte(s, '.') > 0 && !strings.HasSuffix(s, ".")
	for _, c := range []byte(s) {
		ok = ok && (isAlphanumeric(c) || strings.IndexByte(`:-_.\@`, c) >= 0)
	}
	if !ok {
		return fmt.Errorf("want a systemd unit name, got %q", s)
	}
	return nil
}

func oneOf(s string, words ...string) error {
	if !slices.Contains(words, s) {
		return fmt.Errorf("want one of %s, got %q", strings.Join(words, ", "), s)
	}
	return nil
}

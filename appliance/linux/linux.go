// Package linux is the running machine: its boot, its units, its journal, and the way to restart it.
//
// It is the only door from the control plane to the operating system. Each consumer declares the few methods it needs as
// an interface; [Machine] has them all. systemd is the executor, reached over D-Bus; nothing here supervises a process.
//
// Rejected: calling systemctl (its output is for people, and it costs a process each time); a home-made reboot (systemd
// ends services in order and syncs; the kernel's own is the last resort).
package linux

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/images"
)

// Machine is the machine below Root, which is / except in tests.
type Machine struct {
	Root string
}

func (m Machine) path(elem ...string) string {
	return filepath.Join(append([]string{"/", m.Root}, elem...)...)
}

// Boot is how this boot came about, as the initrd wrote it to /run/roost/boot.json. It is information, not authority.
type Boot struct {
	Origin     string        `json:"origin"` // disk, network, iso or container
	RootHash   string        `json:"rootHash"`
	Trial      bool          `json:"trial"`
	Began      int64         `json:"began"` // when the initrd's program started, and when systemd did, in ms since the kernel started
	Ended      int64         `json:"ended"`
	Disk       string        `json:"disk"`
	Interface  string        `json:"interface"`
	MAC        string        `json:"mac"`
	Address    string        `json:"address"` // with prefix length
	BootServer string        `json:"bootServer"`
	Release    images.Digest `json:"release"`
	Site       *struct {
		Name          string        `json:"name"`
		Controller    string        `json:"controller"`
		CAFingerprint images.Digest `json:"caFingerprint"`
	} `json:"site"`
	Hardware *api.Inventory `json:"hardware"` // of a container, as the lab made it
}

// Boot reads the record of this boot.
func (m Machine) Boot() (*Boot, error) {
	b, err := os.ReadFile(m.path("run/roost/boot.json"))
	if err != nil {
		return nil, fmt.Errorf("cannot read record of this boot: %w", err)
	}
	return parseBoot(b)
}

func parseBoot(b []byte) (*Boot, error) {
	boot := &Boot{}
	if err := json.Unmarshal(b, boot); err != nil {
		return nil, fmt.Errorf("cannot read record of this boot: %w", err)
	}
	switch boot.Origin {
	case "disk", "network", "iso", "container":
	default:
		return nil, fmt.Errorf("cannot read record of this boot: origin %q is none of disk, network, iso, container", boot.Origin)
	}
	return boot, nil
}

// Image is what the running image says of itself.
type Image struct {
	Name    string         `json:"name"` // of the recipe
	Version images.Version `json:"version"`
}

func (i Image) String() string { return i.Name + " " + string(i.Version) }

// Image reads the stamp that the builder put into the running image.
func (m Machine) Image() (i Image, err error) {
	b, err := os.ReadFile(m.path("usr/lib/roost/release.json"))
	if err == nil {
		err = json.Unmarshal(b, &i)
	}
	if err != nil {
		return Image{}, fmt.Errorf("cannot read the image's stamp: %w", err)
	}
	return i, nil
}

// BootID returns the kernel's id of this boot, in the form the journal uses: 32 hexadecimal digits.
func (m Machine) BootID() (string, error) {
	b, err := os.ReadFile(m.path("proc/sys/kernel/random/boot_id"))
	if err != nil {
		return "", fmt.Errorf("cannot read boot id: %w", err)
	}
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "-", ""), nil
}

// Uptime returns the time since the kernel started.
func (m Machine) Uptime() (time.Duration, error) {
	b, err := os.ReadFile(m.path("proc/uptime"))
	if err != nil {
		return 0, fmt.Errorf("cannot read uptime: %w", err)
	}
	first, _, _ := strings.Cut(string(b), " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0, fmt.Errorf("cannot read uptime: %w", err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// SecureBoot returns the firmware's Secure Boot state: enabled, disabled, setup or unsupported.
func (m Machine) SecureBoot() string {
	const global = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	variable := func(name string) (byte, bool) {
		b, err := os.ReadFile(m.path("sys/firmware/efi/efivars", name+"-"+global))
		if err != nil || len(b) != 5 { // four bytes of attributes and one of value
			return 0, false
		}
		return b[4], true
	}
	secure, ok := variable("SecureBoot")
	setup, _ := variable("SetupMode")
	switch {
	case !ok:
		return "unsupported"
	case setup == 1:
		return "setup"
	case secure == 1:
		return "enabled"
	}
	return "disabled"
}

// Addresses returns the addresses of this machine that others can reach, without prefix lengths.
func (m Machine) Addresses() []string {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	return out
}

// Pstore returns the records that the kernel left in persistent storage when it died, by the path of each. They are looked
// for where systemd-pstore moves them, and where the kernel shows them.
func (m Machine) Pstore() (map[string]string, error) {
	out := map[string]string{}
	for _, pattern := range []string{"var/lib/systemd/pstore/*/dmesg.txt", "var/lib/systemd/pstore/*/*/dmesg.txt", "var/lib/systemd/pstore/dmesg-*", "sys/fs/pstore/dmesg-*"} {
		found, err := filepath.Glob(m.path(pattern))
		if err != nil {
			return nil, fmt.Errorf("cannot look for crash records: %w", err)
		}
		for _, file := range found {
			b, err := os.ReadFile(file)
			if err == nil && len(bytes.TrimSpace(b)) > 0 && len(out) < 64 {
				out[strings.TrimPrefix(file, m.path())] = tail(string(b), 16<<10)
			}
		}
	}
	return out, nil
}

// tail returns the last whole lines of text that fit into n bytes.
func tail(text string, n int) string {
	if len(text) <= n {
		return text
	}
	text = text[len(text)-n:]
	if _, rest, ok := strings.Cut(text, "\n"); ok {
		return rest
	}
	return text
}

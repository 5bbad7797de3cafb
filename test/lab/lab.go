package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"sync"
	"syscall"
)

// Keys are EFI signature lists to enrol into the firmware of new machines; Secure Boot is then enforcing.
type Keys struct{ PK, KEK, DB []byte }

// Config describes a lab.
type Config struct {
	Name string // lower-case letters and digits, at most 8; default "lab"
	Dir  string // where state is kept; default $XDG_STATE_HOME/roost/lab/NAME
	// SecureBoot is enrolled into machines when they are created; nil leaves firmware in Setup Mode.
	SecureBoot *Keys
}

// Lab is an open lab.
type Lab struct {
	SecureBoot *Keys

	name    string
	dir     string
	network network

	mu       sync.Mutex // guards the fields below
	firmware firmware
	accel    accelerator
}

var validName = regexp.MustCompile(`^[a-z][a-z0-9]{0,7}$`)

// ErrNotFound is returned for a lab or a machine that does not exist.
var ErrNotFound = errors.New("not found")

// Up opens the lab, making its directory and network where they are missing.
func Up(ctx context.Context, c Config) (*Lab, error) {
	l, err := configure(c)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("cannot make a lab: it needs root for network namespaces and tap devices; run it with sudo")
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make lab %s: %v", l.name, err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "name"), []byte(l.name), 0o600); err != nil {
		return nil, fmt.Errorf("cannot make lab %s: %v", l.name, err)
	}
	return l, l.network.up()
}

// Open opens a lab that is up.
func Open(c Config) (*Lab, error) {
	l, err := configure(c)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(l.dir); err != nil {
		return nil, fmt.Errorf("cannot open lab %s: %w; make it with roost lab up", l.name, ErrNotFound)
	}
	return l, nil
}

// prepare finds what virtual machines need. A lab of containers needs neither QEMU nor firmware.
func (l *Lab) prepare(ctx context.Context) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.accel.name != "" {
		return nil
	}
	if l.firmware, err = findFirmware(); err != nil {
		return err
	}
	l.accel, err = l.probeAccelerator(ctx)
	return err
}

func configure(c Config) (*Lab, error) {
	if c.Name == "" {
		c.Name = "lab"
	}
	if !validName.MatchString(c.Name) {
		return nil, fmt.Errorf("cannot use lab name %q: want a letter and up to seven lower-case letters or digits", c.Name)
	}
	if c.Dir == "" {
		state := os.Getenv("XDG_STATE_HOME")
		if state == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return nil, fmt.Errorf("cannot find a place for lab %s: %v", c.Name, err)
			}
			state = filepath.Join(home, ".local", "state")
		}
		c.Dir = filepath.Join(state, "roost", "lab", c.Name)
	}
	return &Lab{SecureBoot: c.SecureBoot, name: c.Name, dir: c.Dir, network: network{name: "roost-" + c.Name}}, nil
}

// Name returns the lab's name.
func (l *Lab) Name() string { return l.name }

// Namespace returns the name of the lab's network namespace, as ip-netns(8) knows it.
func (l *Lab) Namespace() string { return l.network.name }

// Interface returns the name of the lab's bridge inside the namespace: where a boot server serves.
func (l *Lab) Interface() string { return bridgeName }

// Accelerator finds out how virtual machines run here: "kvm", "tcg" (emulation), or "none" where QEMU or firmware is missing;
// adding one then says what to install.
func (l *Lab) Accelerator() string {
	if err := l.prepare(context.Background()); err != nil {
		return "none"
	}
	return l.accel.name
}

// Do runs f on a thread inside the lab's network. Sockets that f opens and processes that it starts belong to it.
func (l *Lab) Do(f func() error) error { return l.network.do(f) }

// Command prepares a command that will run inside the lab's network. It must be started with Start.
func (l *Lab) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	return l.network.do(cmd.Start)
}

// Add makes a machine, powered off. A machine of that name is returned as it is.
func (l *Lab) Add(s Spec) (*Machine, error) {
	if !validName.MatchString(s.Name) {
		return nil, fmt.Errorf("cannot use machine name %q: want a letter and up to seven lower-case letters or digits", s.Name)
	}
	m := &Machine{Spec: s.withDefaults(), lab: l, dir: filepath.Join(l.dir, s.Name)}
	if err := m.create(); err != nil {
		return nil, err
	}
	return m, m.save()
}

// Machine returns the machine of that name.
func (l *Lab) Machine(name string) (*Machine, error) {
	b, err := os.ReadFile(filepath.Join(l.dir, filepath.Base(name), "machine.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot find machine %s in lab %s: %w; roost lab status lists them", name, l.name, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read machine %s: %v", name, err)
	}
	m := &Machine{lab: l, dir: filepath.Join(l.dir, filepath.Base(name))}
	if err := json.Unmarshal(b, &m.Spec); err != nil {
		return nil, fmt.Errorf("cannot read machine %s: %v", name, err)
	}
	m.Spec = m.withDefaults()
	return m, nil
}

// Machines returns all machines by name.
func (l *Lab) Machines() ([]*Machine, error) {
	files, err := filepath.Glob(filepath.Join(l.dir, "*", "machine.json"))
	if err != nil {
		return nil, err
	}
	sort.Strings(files)
	var machines []*Machine
	for _, f := range files {
		m, err := l.Machine(filepath.Base(filepath.Dir(f)))
		if err != nil {
			return nil, err
		}
		machines = append(machines, m)
	}
	return machines, nil
}

// Down powers every machine off and removes the network and all state, disks included.
func (l *Lab) Down() error {
	machines, err := l.Machines()
	if err != nil {
		return err
	}
	for _, m := range machines {
		if err := m.PowerOff(); err != nil {
			return err
		}
	}
	if err := removeCgroups(l.name); err != nil {
		return err
	}
	if err := l.network.down(); err != nil {
		return err
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("cannot remove lab %s: %v", l.name, err)
	}
	return nil
}

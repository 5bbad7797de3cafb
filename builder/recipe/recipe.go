package recipe

import (
	"encoding/json"

	"roost/images"
)

// Recipe is a merged recipe: a plain value that needs no file any more. Load returns only valid ones.
type Recipe struct {
	Name         string         `json:"name"`
	Version      images.Version `json:"version"`
	Description  string         `json:"description,omitempty"`
	Architecture string         `json:"architecture"`

	Base     Base        `json:"base"`
	Layers   []string    `json:"layers"`   // files that name packages, lowest first, relative to the top recipe
	Packages []Package   `json:"packages"` // in layer order, each name once
	Pins     []Pin       `json:"pins,omitempty"`
	Exclude  []Exclusion `json:"exclude,omitempty"`
	Provided []Provision `json:"provided,omitempty"`

	Kernel     Kernel        `json:"kernel"`
	Remove     []Rule        `json:"remove,omitempty"` // default: keep
	Moves      []Move        `json:"moves,omitempty"`
	Edits      []Edit        `json:"edits,omitempty"`
	Files      []File        `json:"files,omitempty"` // by path
	Units      Units         `json:"units"`
	Groups     []Group       `json:"groups,omitempty"`
	Users      []User        `json:"users,omitempty"`
	Sysctl     []Setting     `json:"sysctl,omitempty"` // by key
	Programs   []Program     `json:"programs,omitempty"`
	Containers []Container   `json:"containers,omitempty"`
	Components []Component   `json:"components,omitempty"`
	State      []State       `json:"state,omitempty"` // by path
	Ports      []Port        `json:"ports,omitempty"` // by number
	Gates      []images.Gate `json:"gates,omitempty"`
	Slot       Slot          `json:"slot"`
	Needs      Needs         `json:"needs"`
	Update     Update        `json:"update"`

	source string // the top file as the user named it
}

// Source is the file the recipe was loaded from, as the user named it; errors and advice repeat it.
func (r *Recipe) Source() string { return r.source }

// LayerOf names the file that said something, as Layers has it.
func (r *Recipe) LayerOf(at Position) string { return relativeTo(r.source, at.File) }

// Base is the distribution below the recipe.
type Base struct {
	Distribution string  `json:"distribution"` // "debian"
	Minimum      string  `json:"minimum"`      // "essential", "required" (and essential) or "none"
	Suites       []Suite `json:"suites"`
}

// Suite is one suite of an archive. The candidate of a package is the highest version among its suites of highest priority.
type Suite struct {
	Name       string   `json:"name"`       // code name, for example trixie-updates
	Archive    string   `json:"archive"`    // "debian" or "debian-security": which tree of the mirror; never a host
	Components []string `json:"components"` // for example main
	Priority   int      `json:"priority"`   // 1 to 999
}

// Package is a wish for a Debian package.
type Package struct {
	Name    string   `json:"name"`
	Version string   `json:"version,omitempty"` // exactly this version
	Suite   string   `json:"suite,omitempty"`   // the version of this suite
	Layer   int      `json:"layer"`             // index in Recipe.Layers
	At      Position `json:"-"`

	architecture string // as written in name:arch; validate compares it with the recipe's
}

// Pin narrows the candidates of all packages whose name matches: only versions that match Version and Suite count.
type Pin struct {
	Package string   `json:"package"`           // pattern
	Version string   `json:"version,omitempty"` // pattern
	Suite   string   `json:"suite,omitempty"`   // name
	At      Position `json:"-"`
}

// Exclusion names a package that must not be in the image.
type Exclusion struct {
	Name string   `json:"name"`
	At   Position `json:"-"`
}

// Provision is a package name that the image provides by other means; dependencies on it hold without a package.
type Provision struct {
	Name    string   `json:"name"`
	Version string   `json:"version,omitempty"` // satisfies versioned dependencies as this version; without it, none
	At      Position `json:"-"`
}

// Kernel chooses the kernel and its modules.
type Kernel struct {
	Flavour       string   `json:"flavour,omitempty"` // "standard", "cloud", "realtime"; "" for an image without kernel
	Version       string   `json:"version,omitempty"` // Debian version, for example 6.12.117-1
	Arguments     []string `json:"arguments,omitempty"`
	Modules       []Rule   `json:"modules,omitempty"`       // default: keep
	InitrdModules []Rule   `json:"initrdModules,omitempty"` // default: drop
	At            Position `json:"-"`
}

// File is a file, symbolic link or directory that the recipe adds to the tree, or replaces there.
type File struct {
	Path      string   `json:"path"` // absolute and clean
	Mode      uint32   `json:"mode"` // permission bits and setuid, setgid, sticky as in chmod(2)
	Owner     string   `json:"owner"`
	Group     string   `json:"group"`
	Content   []byte   `json:"content,omitempty"`
	Link      string   `json:"link,omitempty"` // target of a symbolic link
	Directory bool     `json:"directory,omitempty"`
	Template  bool     `json:"template,omitempty"` // Content has site values in it (images.Template); the machine writes Path at boot
	At        Position `json:"-"`
}

// Move puts what a package made elsewhere: data of the image that lies in /var, which is state.
type Move struct {
	From string   `json:"from"`
	To   string   `json:"to"`
	At   Position `json:"-"`
}

// Edit changes a text that a package brings. It fails the build where the package has another text, which a new version may.
type Edit struct {
	Path string   `json:"path"`
	Old  string   `json:"old"` // is there exactly once
	New  string   `json:"new"`
	At   Position `json:"-"`
}

// Units states what systemd starts. A unit is in one of the three lists at most.
type Units struct {
	Enable  []string   `json:"enable,omitempty"`
	Disable []string   `json:"disable,omitempty"`
	Mask    []string   `json:"mask,omitempty"`
	Define  []UnitFile `json:"define,omitempty"` // by name
}

// UnitFile is a unit or a drop-in ("ssh.service.d/50-edge.conf") below /usr/lib/systemd/system.
type UnitFile struct {
	Name    string   `json:"name"`
	Content string   `json:"content"`
	At      Position `json:"-"`
}

// Group is a group with a fixed number.
type Group struct {
	Name string   `json:"name"`
	GID  int      `json:"gid"`
	At   Position `json:"-"`
}

// User is a user with a fixed number and no password.
type User struct {
	Name    string   `json:"name"`
	UID     int      `json:"uid,omitempty"`    // that of the table of all images (ids.yaml) when 0, and then all of the table's entry
	Group   string   `json:"group"`            // primary group; its own name by default
	Groups  []string `json:"groups,omitempty"` // further groups
	Home    string   `json:"home"`
	Shell   string   `json:"shell"`
	Comment string   `json:"comment,omitempty"`
	At      Position `json:"-"`
}

// Setting is one sysctl.
type Setting struct {
	Key   string   `json:"key"`
	Value string   `json:"value"`
	At    Position `json:"-"`
}

// Slot holds partition sizes.
type Slot struct {
	Root   Size `json:"root"`
	Verity Size `json:"verity"`
	State  Size `json:"state"` // at least
}

// Needs states what a machine must have besides disk space.
type Needs struct {
	Memory Size `json:"memory"` // for a boot from the network
}

// Update steers how machines take a release of this recipe.
type Update struct {
	Tries         int            `json:"tries"`
	GateSeconds   int            `json:"gateSeconds"`
	RollbackFloor images.Version `json:"rollbackFloor,omitempty"`
}

// Digest names the whole recipe by its meaning: equal digests give equal images from equal locks.
func (r *Recipe) Digest() images.Digest { return digest(r) }

// WantsDigest names what the recipe asks of the resolver, and nothing else. A lock is stale when this changes.
func (r *Recipe) WantsDigest() images.Digest {
	return digest(struct {
		Name         string
		Architecture string
		Base         Base
		Layers       []string
		Packages     []Package
		Pins         []Pin
		Exclude      []Exclusion
		Provided     []Provision
		Flavour      string
		Kernel       string
		Programs     []Program   `json:",omitempty"`
		Containers   []Container `json:",omitempty"`
	}{r.Name, r.Architecture, r.Base, r.Layers, r.Packages, r.Pins, r.Exclude, r.Provided, r.Kernel.Flavour, r.Kernel.Version, r.published(), r.pulled()})
}

// published returns what of programs decides which modules they need.
func (r *Recipe) published() (list []Program) {
	for _, p := range r.Programs {
		if wants, pinned := p.Locked(); pinned {
			list = append(list, wants)
		}
	}
	return list
}

// pulled returns what of containers decides what is fetched.
func (r *Recipe) pulled() (list []Container) {
	for _, c := range r.Containers {
		if c.From != "" {
			list = append(list, Container{Name: c.Name, From: c.From, SignedBy: c.SignedBy})
		}
	}
	return list
}

// digest hashes the JSON of v, which is canonical: struct order is fixed, and recipes hold no maps and no floats.
func digest(v any) images.Digest {
	b, err := json.Marshal(v)
	if err != nil {
		panic("recipe: a plain value does not encode: " + err.Error()) // cannot happen: only strings, numbers, bytes
	}
	return images.DigestOf(b)
}

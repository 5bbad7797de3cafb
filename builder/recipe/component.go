package recipe

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"roost/images"
)

// Component is a part of the image that people, and the daemon, know by name: everything that its recipe file says.
type Component struct {
	Name  string   `json:"name"`
	Of    string   `json:"of,omitempty"` // the package or program of its file whose version is the component's
	Layer string   `json:"layer"`        // its file, as in Recipe.Layers
	At    Position `json:"-"`
}

// Program is a Go program built for the image: from Roost's own sources, from a directory, from published modules, or from
// a text in the recipe. Exactly one of Package, Commands and Main says what is built.
type Program struct {
	Name      string    `json:"name"`
	Directory string    `json:"directory,omitempty"` // of the Go module, relative to the recipe file; "" is Roost's own module
	Modules   []Module  `json:"modules,omitempty"`   // published modules that it is built from; Directory is empty then
	Package   string    `json:"package"`             // "./appliance/roostd"; an import path where there are Modules
	Commands  []string  `json:"commands,omitempty"`  // import paths of several commands that become one program; links beside Target have their names
	Main      string    `json:"main,omitempty"`      // Go text of the main package
	Stamps    []Setting `json:"stamps,omitempty"`    // string variables set by the linker: "import/path.name"
	Target    string    `json:"target"`              // path in the image; "" for a program that only containers hold
	At        Position  `json:"-"`
}

// Locked returns what of p its pins in a lock answer, and whether it has pins: a program of Roost's own sources, or of a
// directory, has none.
func (p *Program) Locked() (wants Program, pinned bool) {
	return Program{Name: p.Name, Modules: p.Modules, Package: p.Package, Commands: p.Commands, Main: p.Main}, len(p.Modules) > 0 || p.Main != ""
}

// WantsDigest names what its pins answer.
func (p *Program) WantsDigest() images.Digest {
	wants, _ := p.Locked()
	return digest(wants)
}

// Links returns the paths by which the commands of a program are called.
func (p *Program) Links() (list []string) {
	if p.Target == "" {
		return nil
	}
	for _, c := range p.Commands {
		list = append(list, path.Join(path.Dir(p.Target), path.Base(c)))
	}
	return list
}

// Module is a published Go module that a program is built from. Modules that it needs itself are chosen by Go's rules and
// kept in the lock.
type Module struct {
	Path    string   `json:"path"`
	Version string   `json:"version"`
	Nested  string   `json:"nested,omitempty"` // version of the modules that its go.mod replaces by directories of its own
	At      Position `json:"-"`
}

// Container is an OCI image that the machine's container runtime has without pulling it: made of a program of the recipe,
// or copied from elsewhere.
type Container struct {
	Name      string   `json:"name"`                // the name the runtime knows it by, for example roost.local/pause:1.0
	Program   string   `json:"program,omitempty"`   // the program that is all there is in it
	Arguments []string `json:"arguments,omitempty"` // of the program, where a pod says nothing else
	User      string   `json:"user,omitempty"`      // "uid:gid"; root when empty
	From      string   `json:"from,omitempty"`      // "docker://HOST/NAME:TAG", "oci:DIRECTORY:TAG" or "oci-archive:FILE:TAG"
	SignedBy  []byte   `json:"signedBy,omitempty"`  // public key (PEM) that must have signed what a registry gives
	At        Position `json:"-"`

	key      string // file of SignedBy, until it is read
	unsigned bool   // the recipe says that nobody signs it
}

// File is the path of the image's archive.
func (c *Container) File() string {
	return images.ContainersPath + "/" + strings.NewReplacer("/", "_", ":", "_").Replace(c.Name) + ".tar"
}

// containersUnit is the name of the unit that gives container images to the runtime.
const containersUnit = "roost-containers.service"

// importContainers adds the unit that gives the recipe's container images to the runtime, unless the recipe has one of its
// own. What the runtime has already it does not take again.
func (r *Recipe) importContainers() {
	if len(r.Containers) == 0 || slices.ContainsFunc(r.Units.Define, func(u UnitFile) bool { return u.Name == containersUnit }) {
		return
	}
	var b strings.Builder
	b.WriteString("[Unit]\nDescription=Give the image's container images to containerd\nRequires=containerd.service\nAfter=containerd.service\n" +
		"[Service]\nType=oneshot\nRemainAfterExit=yes\n")
	for _, c := range r.Containers {
		fmt.Fprintf(&b, "ExecStart=/usr/bin/ctr --namespace=k8s.io images import %s\n", c.File())
	}
	b.WriteString("[Install]\nWantedBy=multi-user.target\n")
	r.Units.Define = append(r.Units.Define, UnitFile{Name: containersUnit, Content: b.String(), At: r.Containers[0].At})
	r.Units.Enable = append(r.Units.Enable, containersUnit)
}

// State is a directory in /var that a component keeps state in. It is made at every boot where it lacks.
type State struct {
	Path     string   `json:"path"`
	Mode     uint32   `json:"mode"`
	Owner    string   `json:"owner"`
	Group    string   `json:"group"`
	Seed     string   `json:"seed,omitempty"` // directory of the image that is copied to Path while Path is not there
	Rollback string   `json:"rollback"`       // RollbackKeep, RollbackRestore or RollbackDrop
	At       Position `json:"-"`
}

// What becomes of a component's state when a trial of a newer release is rolled back.
const (
	RollbackKeep    = "keep"    // old and new understand each other's: it stays
	RollbackRestore = "restore" // a copy is taken before the trial and comes back
	RollbackDrop    = "drop"    // a cache: it is emptied
)

// Port is where a component listens.
type Port struct {
	Number   int      `json:"port"`
	Protocol string   `json:"protocol"` // "tcp" or "udp"
	Unit     string   `json:"unit,omitempty"`
	Local    bool     `json:"local,omitempty"` // only on the loopback interface
	At       Position `json:"-"`
}

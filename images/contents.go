package images

// Contents says what a release is made of, for people and for the daemon that runs in it. It is attached to the release
// beside its SBOM; what the running machine needs of it is in the image, at ComponentsPath.
type Contents struct {
	Schema     int         `json:"schema"` // 1
	Components []Component `json:"components"`
	Units      []string    `json:"units"`            // enabled, sorted
	Setuid     []Setuid    `json:"setuid,omitempty"` // programs that give rights to who calls them, by path
}

// MediaTypeContents is that of Contents as JSON.
const MediaTypeContents = "application/vnd.roost.contents.v1+json"

// ComponentsPath is where an image keeps its named components, as a JSON list.
const ComponentsPath = "/usr/lib/roost/components.json"

// TemplatesPath is the directory of the image below which files with values of the machine lie, each at the path that it
// has when it is written at boot.
const TemplatesPath = "/usr/lib/roost/templates"

// ContainersPath is the directory of the image that holds OCI archives for the container runtime.
const ContainersPath = "/usr/lib/roost/containers"

// Component is a part of an image that has a name.
type Component struct {
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	Packages   int        `json:"packages,omitempty"`   // of the distribution
	Size       int64      `json:"size,omitempty"`       // bytes of its files in the image
	Programs   []string   `json:"programs,omitempty"`   // built for it: NAME VERSION
	Containers []string   `json:"containers,omitempty"` // images that the runtime has without pulling them
	Units      []string   `json:"units,omitempty"`      // its units that are enabled
	State      []StateDir `json:"state,omitempty"`
	Ports      []Port     `json:"ports,omitempty"`
}

// StateDir is a directory in /var that a component keeps state in.
type StateDir struct {
	Path     string `json:"path"`
	Rollback string `json:"rollback"` // "keep", "restore" from a copy of before the trial, or "drop" what is there
}

// Port is where a component listens.
type Port struct {
	Number   int    `json:"port"`
	Protocol string `json:"protocol"` // tcp, udp
	Unit     string `json:"unit,omitempty"`
	Local    bool   `json:"local,omitempty"` // on the loopback interface only
}

// Setuid is a program that runs with the rights of its owner, of its group, or with capabilities.
type Setuid struct {
	Path string `json:"path"`
	Mode string `json:"mode"` // octal
	Cap  bool   `json:"capabilities,omitempty"`
}

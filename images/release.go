package images

import "time"

// Media types of the parts of a release in an OCI manifest.
const (
	MediaTypeRelease = "application/vnd.roost.release.v1"             // artifactType of the manifest
	MediaTypeConfig  = "application/vnd.roost.release.config.v1+json" // the Release document
	MediaTypeUKI     = "application/vnd.roost.uki.v1"                 // signed PE file, stored as it boots
	MediaTypeRoot    = "application/vnd.roost.root.erofs.v1+zstd"     // EROFS root image, zstd in transport
	MediaTypeVerity  = "application/vnd.roost.root.verity.v1+zstd"    // dm-verity superblock and hash tree, zstd in transport
	MediaTypeLoader  = "application/vnd.roost.loader.v1"              // signed systemd-boot for the ESP
	MediaTypeSBOM    = "application/spdx+json"
	MediaTypeInToto  = "application/vnd.in-toto+json"
)

// Release is the release document: everything a machine, the boot server or an operator must know before a byte of
// the parts is fetched. It is the config blob of the OCI manifest; its JSON is canonical (see Encode).
type Release struct {
	Schema       int       `json:"schema"` // 1
	Name         string    `json:"name"`   // the recipe's name, for example "edge"
	Version      Version   `json:"version"`
	Architecture string    `json:"architecture"` // Debian's name: amd64, arm64
	Created      time.Time `json:"created"`      // the lock's SOURCE_DATE_EPOCH, UTC, whole seconds
	Lock         Digest    `json:"lock"`         // digest of the lock file the release was built from

	Kernel      string `json:"kernel"`      // kernel release, as uname -r prints it
	CommandLine string `json:"commandLine"` // as signed into the UKI, roothash= included
	RootHash    string `json:"rootHash"`    // dm-verity root digest, 64 hexadecimal digits

	UKI    Part `json:"uki"`
	Loader Part `json:"loader"`
	Root   Part `json:"root"`
	Verity Part `json:"verity"`

	Needs  Needs    `json:"needs"`
	Update Update   `json:"update"`
	Gates  []Gate   `json:"gates"`
	Units  []string `json:"units,omitempty"` // units that the presets of the image enable, sorted
}

// Part is one file of a release. Size and Digest describe the file as used (uncompressed); the descriptor in the
// manifest describes the blob as transported.
type Part struct {
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"` // bytes
}

// Needs states what a machine must have; the updater refuses before download what will not fit.
type Needs struct {
	Slot   int64 `json:"slot"`   // bytes of a root partition; layout size, not content size
	Verity int64 `json:"verity"` // bytes of a verity partition
	ESP    int64 `json:"esp"`    // bytes of an EFI system partition
	Disk   int64 `json:"disk"`   // bytes of the smallest disk that the installer accepts
	Memory int64 `json:"memory"` // bytes of RAM a discovery boot needs
}

// Update steers how machines take the release.
type Update struct {
	Tries         int     `json:"tries"`                   // boot attempts before fall back (UAPI.1 boot counting), 1 to 9
	RollbackFloor Version `json:"rollbackFloor,omitempty"` // versions below are refused once this release is committed
	GateSeconds   int     `json:"gateSeconds"`             // seconds after boot until every gate must have passed
}

// Gate is one health check that a trial boot must pass. A gate that did not hold before the update need not hold after it.
type Gate struct {
	Name string   `json:"name"`           // unique in the release, shown as evidence
	Kind string   `json:"kind"`           // "unit": the unit is active; "units": no unit failed; "controller": the site answers; "component": that of the gate's name is ready, where the host wants it; "program": exits 0
	Unit string   `json:"unit,omitempty"` // for kind unit
	Exec []string `json:"exec,omitempty"` // for kind program: argv, run as an unprivileged transient unit
}

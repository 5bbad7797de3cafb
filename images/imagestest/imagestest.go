// Package imagestest makes valid release documents for tests.
package imagestest

import (
	"strings"
	"time"

	"roost/images"
)

// Release returns a small valid release document. Its parts name the content that [Content] returns.
func Release(name string, version images.Version) *images.Release {
	rootHash := images.DigestOf([]byte(name + string(version))).Hex()
	r := &images.Release{
		Schema: images.Schema, Name: name, Version: version, Architecture: "amd64",
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Lock:    images.DigestOf([]byte("lock of " + name)),
		Kernel:  "6.12.0-test", RootHash: rootHash,
		CommandLine: "roothash=" + rootHash + " panic=10 console=ttyS0,115200",
		Needs:       images.Needs{Slot: 64 << 20, Verity: 1 << 20, ESP: 64 << 20, Disk: 512 << 20, Memory: 1 << 30},
		Update:      images.Update{Tries: 2, GateSeconds: 60},
		Gates:       []images.Gate{{Name: "units", Kind: "units"}, {Name: "daemon", Kind: "unit", Unit: "roostd.service"}},
		Units:       []string{"roostd.service", "ssh.service"},
	}
	r.UKI, r.Root = part(r, images.KindUKI), part(r, images.KindRoot)
	r.Verity, r.Loader = part(r, images.KindVerity), part(r, images.KindLoader)
	return r
}

// Content returns the bytes of one part of Release(r.Name, r.Version), as used (uncompressed).
func Content(r *images.Release, kind images.Kind) []byte {
	line := string(kind) + " of " + r.Name + " " + string(r.Version) + "\n"
	size := map[images.Kind]int{images.KindUKI: 20000, images.KindRoot: 256 << 10, images.KindVerity: 8192, images.KindLoader: 3000}[kind]
	return []byte(strings.Repeat(line, size/len(line)+1)[:size])
}

func part(r *images.Release, kind images.Kind) images.Part {
	content := Content(r, kind)
	return images.Part{Digest: images.DigestOf(content), Size: int64(len(content))}
}

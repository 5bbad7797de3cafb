package debtest

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
)

// Suite is one suite of an archive, with one component "main" for amd64.
type Suite struct {
	Codename   string
	Packages   []Package
	Date       time.Time
	ValidUntil time.Time // zero for none
	Keys       []*Key
	ByHash     bool
	Extra      string // more fields of the release file, each with its line end
}

// Files returns the suite as a mirror serves it, by path below its base.
func (s Suite) Files(t testing.TB) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	var index bytes.Buffer
	for _, p := range s.Packages {
		deb := p.Build(t)
		version := p.Field("Version")
		version = version[strings.Index(version, ":")+1:] // file names have no epoch
		name := path.Join("pool/main", p.Field("Package"), fmt.Sprintf("%s_%s_%s.deb", p.Field("Package"), version, p.Field("Architecture")))
		files[name] = deb
		fmt.Fprintf(&index, "%sFilename: %s\nSize: %d\nSHA256: %x\n\n", p.control(), name, len(deb), sha256.Sum256(deb))
	}
	dir := path.Join("dists", s.Codename)
	indexes := map[string][]byte{
		"main/binary-amd64/Packages":    index.Bytes(),
		"main/binary-amd64/Packages.xz": Compress(t, "xz", index.Bytes()),
		"main/binary-amd64/Packages.gz": Compress(t, "gz", index.Bytes()),
	}
	for name, content := range indexes {
		files[path.Join(dir, name)] = content
		if s.ByHash {
			files[path.Join(dir, path.Dir(name), "by-hash/SHA256", fmt.Sprintf("%x", sha256.Sum256(content)))] = content
		}
	}
	files[path.Join(dir, "InRelease")] = Sign(t, s.Release(indexes), s.Date, crypto.SHA256, s.Keys...)
	return files
}

// Release returns the text of the release file that lists the given indexes.
func (s Suite) Release(indexes map[string][]byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Origin: Test\nLabel: Test\nSuite: %s\nCodename: %s\nDate: %s\n", s.Codename, s.Codename, releaseTime(s.Date))
	if !s.ValidUntil.IsZero() {
		fmt.Fprintf(&b, "Valid-Until: %s\n", releaseTime(s.ValidUntil))
	}
	if s.ByHash {
		b.WriteString("Acquire-By-Hash: yes\n")
	}
	fmt.Fprintf(&b, "%sArchitectures: amd64\nComponents: main\nSHA256:\n", s.Extra)
	for _, name := range slices.Sorted(maps.Keys(indexes)) {
		fmt.Fprintf(&b, " %x %8d %s\n", sha256.Sum256(indexes[name]), len(indexes[name]), name)
	}
	return b.Bytes()
}

func releaseTime(t time.Time) string { return t.UTC().Format("Mon, 02 Jan 2006 15:04:05 MST") }

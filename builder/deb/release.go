package deb

import (
	"fmt"
	"strings"
	"time"

	"roost/images"
)

// Release is what a suite's Release file says. Only a value from [Keyring.OpenInRelease] is verified.
type Release struct {
	Origin        string
	Label         string
	Suite         string // moves with time: "stable"
	Codename      string // stays: "trixie"
	Version       string // "13.7"; "" for suites without one
	Date          time.Time
	ValidUntil    time.Time // zero when the file states none
	Architectures []string
	Components    []string
	ByHash        bool // indexes are also found under by-hash/SHA256/
	NotAutomatic  bool // packages are taken only when asked for (experimental, backports)
	Indexes       map[string]IndexFile
}

// IndexFile is one entry of the SHA256 list of a release file.
type IndexFile struct {
	Path   string // below the directory of the Release file, clean
	Size   int64  // bytes
	SHA256 images.Digest
}

// ParseRelease parses the text of a release file. It verifies nothing.
func ParseRelease(text []byte) (*Release, error) {
	p, err := ParseParagraph(text)
	if err != nil {
		return nil, fmt.Errorf("cannot parse release file: %w", err)
	}
	r := &Release{
		Origin: p.Get("Origin"), Label: p.Get("Label"), Suite: p.Get("Suite"), Codename: p.Get("Codename"), Version: p.Get("Version"),
		Architectures: strings.Fields(p.Get("Architectures")), Components: strings.Fields(p.Get("Components")),
		ByHash: p.Get("Acquire-By-Hash") == "yes", NotAutomatic: p.Get("NotAutomatic") == "yes",
	}
	if r.Suite == "" && r.Codename == "" {
		return nil, fmt.Errorf("cannot parse release file: it names neither Suite nor Codename")
	}
	if r.Date, err = parseReleaseTime(p.Get("Date")); err != nil {
		return nil, fmt.Errorf("cannot parse release file: Date: %w", err)
	}
	if until := p.Get("Valid-Until"); until != "" {
		if r.ValidUntil, err = parseReleaseTime(until); err != nil {
			return nil, fmt.Errorf("cannot parse release file: Valid-Until: %w", err)
		}
	}
	if r.Indexes, err = parseIndexList(p.Lines("SHA256")); err != nil {
		return nil, fmt.Errorf("cannot parse release file: SHA256: %w", err)
	}
	return r, nil
}

// parseReleaseTime accepts RFC 2822 dates in UTC; anything else would be a guess at a time zone.
func parseReleaseTime(s string) (time.Time, error) {
	for _, layout := range []string{"Mon, 02 Jan 2006 15:04:05 MST", "Mon, _2 Jan 2006 15:04:05 MST", time.RFC1123Z} {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		if zone, offset := t.Zone(); offset == 0 && (zone == "UTC" || zone == "GMT" || zone == "") {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a date in UTC such as \"Sat, 12 Sep 2026 07:55:41 UTC\"", s)
}

func parseIndexList(lines []string) (map[string]IndexFile, error) {
	if len(lines) == 0 {
		return nil, fmt.Errorf("the list of indexes is missing")
	}
	all := make(map[string]IndexFile, len(lines))
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) != 3 || !isDigest(digestPrefix+f[0]) {
			return nil, fmt.Errorf("%q is not \"digest size path\"", line)
		}
		size, err := parseSize(f[1])
		if err != nil {
			return nil, err
		}
		if err := checkMirrorPath(f[2]); err != nil {
			return nil, err
		}
		entry := IndexFile{Path: f[2], Size: size, SHA256: images.Digest(digestPrefix + f[0])}
		if old, ok := all[entry.Path]; ok && old != entry {
			return nil, fmt.Errorf("%s is listed twice with different content", entry.Path)
		}
		all[entry.Path] = entry
	}
	return all, nil
}

// CheckFresh returns an error when the file's Valid-Until has passed at now. A file without one never expires; the archive
// chooses so for stable releases, which do not change for months.
func (r *Release) CheckFresh(now time.Time) error {
	if r.ValidUntil.IsZero() || now.Before(r.ValidUntil) {
		return nil
	}
	return fmt.Errorf("cannot use release file of %s: it was valid until %s, and now is %s; the mirror is stale or replays an old file",
		r.Name(), r.ValidUntil.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
}

// Name is the codename, or the suite name where there is none.
func (r *Release) Name() string {
	if r.Codename != "" {
		return r.Codename
	}
	return r.Suite
}

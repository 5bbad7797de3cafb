package archive

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"roost/builder/deb"
	"roost/builder/deb/debtest"
)

// site is a mirror with a signed suite and who trusts it.
type site struct {
	*server
	suite   debtest.Suite
	source  *Source
	request Request
	now     time.Time
}

func newSite(t *testing.T) *site {
	t.Helper()
	now := time.Date(2026, 9, 12, 8, 0, 0, 0, time.UTC)
	s := &site{now: now}
	key := debtest.NewKey(t, "archive", now.AddDate(-1, 0, 0), 2*365*24*time.Hour)
	s.suite = debtest.Suite{
		Codename: "trixie", Date: now, Keys: []*debtest.Key{key}, ByHash: true,
		Packages: []debtest.Package{
			{Control: "Package: hello\nVersion: 1:2.0-1\nArchitecture: amd64\nDepends: libhello (>= 1)\nEssential: yes"},
			{Control: "Package: libhello\nVersion: 1\nArchitecture: all\nMulti-Arch: foreign\nInstalled-Size: 7"},
		},
	}
	s.server = newServer(t, s.suite.Files(t))
	s.source = s.server.source(t)
	s.source.Now = func() time.Time { return s.now }
	keyring, err := deb.ReadKeyring(bytes.NewReader(key.Public(t)))
	if err != nil {
		t.Fatal(err)
	}
	s.request = Request{Suites: []string{"trixie"}, Components: []string{"main"}, Architecture: "amd64", Keyring: keyring}
	return s
}

func (s *site) snapshot(t *testing.T) (Suite, error) {
	t.Helper()
	all, err := s.source.Snapshot(t.Context(), s.request)
	if err != nil {
		return Suite{}, err
	}
	return all.Suites[0], nil
}

// byHash is the path of the index that a snapshot asks for first.
func (s *site) byHash() string {
	index := s.files["dists/trixie/main/binary-amd64/Packages.xz"]
	return fmt.Sprintf("dists/trixie/main/binary-amd64/by-hash/SHA256/%x", sha256.Sum256(index))
}

func TestSnapshot(t *testing.T) {
	s := newSite(t)
	got, err := s.snapshot(t)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"dists/trixie/InRelease", s.byHash()}; !reflect.DeepEqual(s.taken(), want) {
		t.Errorf("requests differ from %q", want)
	}
	if len(got.Packages) != 2 || got.FromCache || got.Name != "trixie" || len(got.Signers) != 1 || got.Signers[0].Name != "archive <archive@example.org>" {
		t.Fatalf("%+v", got)
	}
	hello := got.Packages[0]
	if hello.Name != "hello" || hello.Version != "1:2.0-1" || hello.Depends != "libhello (>= 1)" || !hello.Essential ||
		hello.Suite != "trixie" || hello.Origin != "Test" || hello.Filename != "pool/main/hello/hello_2.0-1_amd64.deb" {
		t.Errorf("%+v", hello)
	}
	if blob := blobContent(t, s.source.Cache, got.InRelease); !bytes.Equal(blob, s.files["dists/trixie/InRelease"]) {
		t.Error("the InRelease in the cache is another")
	}
	if err := s.source.Fetch(t.Context(), []Item{{"trixie", hello.Filename, hello.Size, hello.SHA256}}); err != nil {
		t.Error(err)
	}

	s.taken()
	again, err := s.snapshot(t)
	if err != nil {
		t.Fatal(err)
	}
	if requests := s.taken(); !reflect.DeepEqual(requests, []string{"dists/trixie/InRelease"}) {
		t.Errorf("the second time requests %q", requests)
	}
	if !reflect.DeepEqual(again, got) {
		t.Errorf("the second time %+v, want %+v", again, got)
	}
}

func TestSnapshotWithoutNetwork(t *testing.T) {
	s := newSite(t)
	fresh, err := s.snapshot(t)
	if err != nil {
		t.Fatal(err)
	}
	fresh.FromCache = true
	s.source.Transport = noNetwork{}
	for _, offline := range []bool{false, true} {
		s.source.Offline = offline
		if got, err := s.snapshot(t); err != nil || !reflect.DeepEqual(got, fresh) {
			t.Errorf("offline %t: %+v, %v", offline, got, err)
		}
	}
	s.now = s.now.AddDate(5, 0, 0)
	if _, err := s.snapshot(t); err == nil || !strings.Contains(err.Error(), "expired on 2027-09-12") {
		t.Errorf("a cached InRelease whose key has expired since: %v", err)
	}
	s.source.Cache = testCache(t)
	if _, err := s.snapshot(t); err == nil || !strings.Contains(err.Error(), "trixie: the cache has no state of it to work offline with") {
		t.Errorf("offline with an empty cache: %v", err)
	}
	s.source.Offline = false
	if _, err := s.snapshot(t); err == nil || !strings.Contains(err.Error(), "network is unreachable") {
		t.Errorf("no network and an empty cache: %v", err)
	}
}

// TestSnapshotOfflineAnyMirror works offline with what another mirror, and an older one, gave before.
func TestSnapshotOfflineAnyMirror(t *testing.T) {
	s := newSite(t)
	if _, err := s.snapshot(t); err != nil {
		t.Fatal(err)
	}
	s.suite.Packages = s.suite.Packages[:1]
	s.suite.Date = s.now.Add(time.Minute)
	s.now = s.now.Add(time.Hour)
	newer := newServer(t, s.suite.Files(t))
	s.source.Mirror = newer.mirror(t)
	if _, err := s.snapshot(t); err != nil {
		t.Fatal(err)
	}
	s.source.Mirror, s.source.Offline = Mirror{}, true
	got, err := s.snapshot(t)
	if err != nil || len(got.Packages) != 1 || !got.FromCache {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestSnapshotOfflineIndexGone prunes the parsed index, then the index itself.
func TestSnapshotOfflineIndexGone(t *testing.T) {
	s := newSite(t)
	fresh, err := s.snapshot(t)
	if err != nil {
		t.Fatal(err)
	}
	s.source.Offline = true
	if err := os.RemoveAll(filepath.Join(s.source.Cache.dir, SectionParsed)); err != nil {
		t.Fatal(err)
	}
	if got, err := s.snapshot(t); err != nil || !reflect.DeepEqual(got.Packages, fresh.Packages) {
		t.Errorf("without the parsed index: %+v, %v", got, err)
	}
	for _, section := range []string{SectionParsed, SectionBlobs} {
		if err := os.RemoveAll(filepath.Join(s.source.Cache.dir, section)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.snapshot(t); err == nil || !strings.Contains(err.Error(), "cannot fetch Packages.xz: it is not in the cache, and the work is to be done offline") {
		t.Errorf("without any index: %v", err)
	}
}

// TestSnapshotRefuses serves what a careless or hostile mirror could.
func TestSnapshotRefuses(t *testing.T) {
	const inRelease, index = "dists/trixie/InRelease", "dists/trixie/main/binary-amd64/Packages.xz"
	for _, c := range []struct {
		name   string
		change func(t *testing.T, s *site)
		want   string
	}{
		{"InRelease changed", func(t *testing.T, s *site) {
			s.files[inRelease] = bytes.Replace(s.files[inRelease], []byte("Origin: Test"), []byte("Origin: Best"), 1)
		}, "cannot take snapshot of trixie: cannot verify InRelease: signature by key"},
		{"InRelease of an unknown key", func(t *testing.T, s *site) {
			s.suite.Keys = []*debtest.Key{debtest.NewKey(t, "evil", s.now.AddDate(-1, 0, 0), 0)}
			maps.Copy(s.files, s.suite.Files(t))
		}, "is not in the keyring"},
		{"InRelease unsigned", func(t *testing.T, s *site) { s.files[inRelease] = s.suite.Release(map[string][]byte{"a": nil}) }, "does not begin with"},
		{"InRelease with a weak hash", func(t *testing.T, s *site) {
			s.files[inRelease] = debtest.Sign(t, s.suite.Release(map[string][]byte{"a": nil}), s.now, crypto.SHA1, s.suite.Keys...)
		}, "weak hash SHA-1"},
		{"InRelease too large", func(t *testing.T, s *site) { s.files[inRelease] = make([]byte, maxInRelease+1) }, "it is larger than"},
		{"InRelease of another suite", func(t *testing.T, s *site) {
			s.suite.Codename = "bookworm"
			s.files[inRelease] = s.suite.Files(t)["dists/bookworm/InRelease"]
		}, "the release file is that of bookworm"},
		{"key expired", func(t *testing.T, s *site) { s.now = s.now.AddDate(3, 0, 0) }, "(archive <archive@example.org>) expired on 2027-09-12 08:00:00 UTC"},
		{"Valid-Until passed", func(t *testing.T, s *site) {
			s.suite.ValidUntil = s.now.AddDate(0, 0, 7)
			maps.Copy(s.files, s.suite.Files(t))
			s.now = s.now.AddDate(0, 0, 8)
		}, "it was valid until 2026-09-19T08:00:00Z, and now is 2026-09-20T08:00:00Z"},
		{"no such suite", func(t *testing.T, s *site) { s.request.Suites = []string{"sid"} }, "404 Not Found"},
		{"no such component", func(t *testing.T, s *site) { s.request.Components = []string{"main", "extra"} }, `it has no component "extra" for amd64, only main`},
		{"no such architecture", func(t *testing.T, s *site) { s.request.Architecture = "riscv64" }, `it has no architecture "riscv64", only amd64`},
		{"index changed", func(t *testing.T, s *site) {
			changed := bytes.Clone(s.files[index])
			changed[len(changed)/2] ^= 1
			s.files[s.byHash()], s.files[index] = changed, changed
		}, "cannot fetch Packages.xz: "},
		{"index shorter", func(t *testing.T, s *site) { s.files[s.byHash()] = s.files[index][:100] }, "the file has 100 bytes, want"},
		{"index gone", func(t *testing.T, s *site) { delete(s.files, s.byHash()); delete(s.files, index) }, "404 Not Found"},
		{"index malformed", func(t *testing.T, s *site) {
			bad := []byte("Package: ../evil\n")
			release := s.suite.Release(map[string][]byte{"main/binary-amd64/Packages": bad})
			s.files[inRelease] = debtest.Sign(t, release, s.now, crypto.SHA256, s.suite.Keys...)
			s.files[fmt.Sprintf("dists/trixie/main/binary-amd64/by-hash/SHA256/%x", sha256.Sum256(bad))] = bad
		}, "main/binary-amd64/Packages: cannot parse package index"},
		{"no keyring", func(t *testing.T, s *site) { s.request.Keyring = nil }, "no keyring to verify it with"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			c.change(t, s)
			got, err := s.snapshot(t)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, error %v, want %q", got, err, c.want)
			}
			for _, file := range listing(t, s.source.Cache) {
				if strings.HasPrefix(file, SectionParsed) {
					t.Errorf("%s was kept", file)
				}
			}
		})
	}
}

func TestSnapshotPlainNames(t *testing.T) {
	for name, change := range map[string]func(*site){
		"by-hash is not offered":   func(s *site) { s.suite.ByHash = false; s.set(s.suite.Files(t)) },
		"by-hash is not there yet": func(s *site) { delete(s.files, s.byHash()) },
	} {
		s := newSite(t)
		change(s)
		if got, err := s.snapshot(t); err != nil || len(got.Packages) != 2 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if requests := s.taken(); requests[len(requests)-1] != "dists/trixie/main/binary-amd64/Packages.xz" {
			t.Errorf("%s: requests %q", name, requests)
		}
	}
}

// TestSnapshotDuringMirrorUpdate has the mirror move on between InRelease and index.
func TestSnapshotDuringMirrorUpdate(t *testing.T) {
	s := newSite(t)
	stale := s.files["dists/trixie/InRelease"]
	s.suite.Packages = s.suite.Packages[:1]
	s.suite.Date = s.now.Add(time.Minute)
	s.now = s.now.Add(time.Hour)
	s.set(s.suite.Files(t))
	s.fail("dists/trixie/InRelease", send(stale, false))
	got, err := s.snapshot(t)
	if err != nil || len(got.Packages) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestSnapshotNeverGoesBack has a mirror replay an older state, validly signed.
func TestSnapshotNeverGoesBack(t *testing.T) {
	s := newSite(t)
	old := maps.Clone(s.files)
	s.suite.Packages = s.suite.Packages[:1]
	s.suite.Date = s.now.Add(time.Minute)
	s.now = s.now.Add(time.Hour)
	s.set(s.suite.Files(t))
	if _, err := s.snapshot(t); err != nil {
		t.Fatal(err)
	}
	s.set(old)
	got, err := s.snapshot(t)
	if err != nil || len(got.Packages) != 1 || !got.FromCache {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSnapshotSeveralSuites(t *testing.T) {
	s := newSite(t)
	updates := s.suite
	updates.Codename, updates.Packages = "trixie-security", s.suite.Packages[:1]
	for name, content := range updates.Files(t) {
		s.files["security/"+name] = content
	}
	s.request.Suites = []string{"trixie-security", "trixie"}
	all, err := s.source.Snapshot(t.Context(), s.request)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, suite := range all.Suites {
		for _, p := range suite.Packages {
			names = append(names, p.Suite+"/"+p.Name)
		}
	}
	if want := []string{"trixie-security/hello", "trixie/hello", "trixie/libhello"}; !slices.Equal(names, want) {
		t.Errorf("packages %q, want %q", names, want)
	}
}

func TestSnapshotRepairsParsedIndex(t *testing.T) {
	s := newSite(t)
	fresh, err := s.snapshot(t)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(s.source.Cache.dir, SectionParsed, "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	sound, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{"empty": nil, "cut": sound[:len(sound)/2], "flipped": append([]byte{sound[0] ^ 1}, sound[1:]...)} {
		if err := os.WriteFile(files[0], damaged, 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := s.snapshot(t)
		if err != nil || !reflect.DeepEqual(got, fresh) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if repaired, _ := os.ReadFile(files[0]); !bytes.Equal(repaired, sound) {
			t.Errorf("%s: the parsed index was not repaired", name)
		}
	}
}

// TestShippedKeys holds the keys that ship with the recipes to those that Debian published for trixie.
func TestShippedKeys(t *testing.T) {
	var got []string
	for _, signer := range trixieKeys(t).Signers() {
		got = append(got, signer.Fingerprint)
	}
	want := []string{"04B54C3CDCA79751B16BC6B5225629DF75B188BD", "5E04A1E3223A19A20706E20F9904613D4CCE68C6", "41587F7DB8C774BCCF131416762F67A0B2C39DE4"}
	if !slices.Equal(got, want) {
		t.Errorf("the keyring holds %q, want %q", got, want)
	}
}

func samplePackages() []deb.Package {
	return []deb.Package{
		{Name: "hello", Version: "1", Architecture: "amd64", Essential: true, Size: 1 << 40, InstalledSize: 3, Depends: "a, b", Filename: "pool/x", SHA256: "sha256:00"},
		{},
		{MultiArch: "same", Priority: "p", Section: "s", Source: "q", PreDepends: "1", Recommends: "2", Provides: "3", Conflicts: "4", Breaks: "5", Replaces: "6"},
	}
}

func TestParsedRoundTrip(t *testing.T) {
	want := samplePackages()
	got, err := decodePackages(encodePackages(want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	// Every field of deb.Package must survive, those that are added later too, except what the snapshot sets.
	var p deb.Package
	v := reflect.ValueOf(&p).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if name == "Suite" || name == "Origin" {
			continue
		}
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString(name)
		case reflect.Int64:
			f.SetInt(int64(i + 1))
		case reflect.Bool:
			f.SetBool(true)
		default:
			t.Fatalf("field %s has the unexpected kind %s", name, f.Kind())
		}
	}
	if got, err := decodePackages(encodePackages([]deb.Package{p})); err != nil || !reflect.DeepEqual(got, []deb.Package{p}) {
		t.Errorf("%+v, %v, want %+v", got, err, p)
	}
}

func FuzzDecodePackages(f *testing.F) {
	good := encodePackages(samplePackages())
	f.Add(good[:len(good)-4])
	f.Add([]byte(parsedMagic))
	f.Fuzz(func(t *testing.T, body []byte) {
		data := appendChecksum(bytes.Clone(body)) // else nothing gets past it
		list, err := decodePackages(data)
		if err != nil {
			return
		}
		if again, err := decodePackages(encodePackages(list)); err != nil || !reflect.DeepEqual(again, list) {
			t.Fatalf("%+v is read again as %+v, %v", list, again, err)
		}
	})
}

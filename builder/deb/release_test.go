package deb

import (
	"bytes"
	"crypto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roost/builder/deb/debtest"
)

// signing is an archive with its keys at one moment.
type signing struct {
	now                      time.Time
	main, second, old, other *debtest.Key
	keyring                  *Keyring
	text                     []byte
}

func newSigning(t *testing.T) signing {
	t.Helper()
	now := time.Date(2026, 9, 12, 8, 0, 0, 0, time.UTC)
	s := signing{now: now}
	s.main = debtest.NewKey(t, "main", now.AddDate(-1, 0, 0), 0)
	s.second = debtest.NewKey(t, "second", now.AddDate(-1, 0, 0), 3*365*24*time.Hour)
	s.old = debtest.NewKey(t, "old", now.AddDate(-2, 0, 0), 24*time.Hour)
	s.other = debtest.NewKey(t, "other", now.AddDate(-1, 0, 0), 0)
	var err error
	s.keyring, err = ReadKeyring(bytes.NewReader(s.main.Public(t)), bytes.NewReader(append(s.second.Public(t), s.old.Public(t)...)))
	if err != nil {
		t.Fatal(err)
	}
	s.text = debtest.Suite{Codename: "trixie", Date: now}.Release(map[string][]byte{"main/binary-amd64/Packages.xz": []byte("x"), "b/c": nil})
	return s
}

func TestOpenInRelease(t *testing.T) {
	s := newSigning(t)
	sign := func(keys ...*debtest.Key) []byte { return debtest.Sign(t, s.text, s.now, crypto.SHA256, keys...) }
	good := sign(s.main)
	for _, c := range []struct {
		name string
		text []byte
		now  time.Time
		want string // part of the error; "" when it verifies
		by   int    // number of good signatures
	}{
		{name: "one key", text: good, by: 1},
		{name: "two keys", text: sign(s.main, s.second), by: 2},
		{name: "SHA-512", text: debtest.Sign(t, s.text, s.now, crypto.SHA512, s.main), by: 1},
		{name: "unknown key first", text: sign(s.other, s.main), by: 1},
		{name: "expired key beside a good one", text: sign(s.old, s.second), by: 1},
		{name: "unknown key only", text: sign(s.other), want: "is not in the keyring"},
		{name: "expired key only", text: debtest.Sign(t, s.text, s.now, crypto.SHA256, s.old), want: "(old <old@example.org>) expired on 2024-09-13 08:00:00 UTC"},
		{name: "key expired meanwhile", text: sign(s.second), now: s.now.AddDate(5, 0, 0), want: "(second <second@example.org>) expired on 2028-"},
		{name: "made in the future", text: good, now: s.now.AddDate(0, -1, 0), want: "made in the future"},
		{name: "SHA-1", text: debtest.Sign(t, s.text, s.now, crypto.SHA1, s.main), want: "weak hash SHA-1"},
		{name: "changed text", text: bytes.Replace(good, []byte("Test"), []byte("Best"), 1), want: "(main <main@example.org>)"},
		{name: "changed text, second signature unknown", text: bytes.Replace(sign(s.main, s.other), []byte("Test"), []byte("Best"), 1), want: "(main <main@example.org>)"},
		{name: "text before", text: append([]byte("Origin: Evil\n"), good...), want: "does not begin with"},
		{name: "text after", text: append(bytes.Clone(good), "Origin: Evil\n"...), want: "text after the signature"},
		{name: "not signed", text: s.text, want: "does not begin with"},
		{name: "cut short", text: good[:len(good)-40], want: "malformed or cut short"},
		{name: "empty", want: "does not begin with"},
		{name: "no signature packet", text: stripSignature(good), want: "malformed or cut short"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.now.IsZero() {
				c.now = s.now
			}
			release, signers, err := s.keyring.OpenInRelease(c.text, c.now)
			if c.want == "" && err != nil {
				t.Fatal(err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if len(signers) != c.by {
				t.Errorf("signed by %v, want %d", signers, c.by)
			}
			if err == nil && release.Codename != "trixie" {
				t.Errorf("codename %q", release.Codename)
			}
			if err != nil && release != nil {
				t.Error("a refused file is returned")
			}
		})
	}
}

// stripSignature keeps the armour and takes out what is in it.
func stripSignature(text []byte) []byte {
	head, _, _ := bytes.Cut(text, []byte("-----BEGIN PGP SIGNATURE-----\n"))
	return append(bytes.Clone(head), "-----BEGIN PGP SIGNATURE-----\n-----END PGP SIGNATURE-----\n"...)
}

func TestOpenInReleaseRevokedKey(t *testing.T) {
	s := newSigning(t)
	s.main.Revoke(t, s.now.Add(-time.Hour))
	keyring, err := ReadKeyring(bytes.NewReader(s.main.Public(t)))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = keyring.OpenInRelease(debtest.Sign(t, s.text, s.now, crypto.SHA256, s.main), s.now)
	if err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("error %v", err)
	}
}

func TestOpenInReleaseValidUntil(t *testing.T) {
	s := newSigning(t)
	until := s.now.AddDate(0, 0, 7)
	text := debtest.Suite{Codename: "trixie-updates", Date: s.now, ValidUntil: until}.Release(map[string][]byte{"a": nil})
	signed := debtest.Sign(t, text, s.now, crypto.SHA256, s.main)
	if _, _, err := s.keyring.OpenInRelease(signed, until.Add(-time.Second)); err != nil {
		t.Error(err)
	}
	release, _, err := s.keyring.OpenInRelease(signed, until)
	if err == nil || !strings.Contains(err.Error(), "trixie-updates: it was valid until 2026-09-19T08:00:00Z") || release != nil {
		t.Errorf("%v, error %v", release, err)
	}
}

func TestParseReleaseErrors(t *testing.T) {
	s := newSigning(t)
	text := string(s.text)
	digest := strings.Repeat("0", 64)
	for _, c := range []struct{ old, new, want string }{
		{"Suite: trixie\nCodename: trixie\n", "", "names neither"},
		{"Date: Sat, 12 Sep 2026 08:00:00 UTC", "Date: Sat, 12 Sep 2026 08:00:00 CEST", "is not a date in UTC"},
		{"Date: Sat, 12 Sep 2026 08:00:00 UTC\n", "", "Date"},
		{"Origin: Test", "Valid-Until: soon", "Valid-Until"},
		{"SHA256:\n", "SHA1:\n", "the list of indexes is missing"},
		{"SHA256:\n", "SHA256:\n " + digest + " 1 ../../x\n", "is not a plain path"},
		{"SHA256:\n", "SHA256:\n " + digest + " -1 x\n", "is not a size"},
		{"SHA256:\n", "SHA256:\n 00 1 x\n", "is not \"digest size path\""},
		{"SHA256:\n", "SHA256:\n " + digest + " 1 b/c\n", "listed twice"},
	} {
		changed := strings.Replace(text, c.old, c.new, 1)
		if changed == text {
			t.Fatalf("%q is not in the text", c.old)
		}
		if _, err := ParseRelease([]byte(changed)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want %q", c.new, err, c.want)
		}
	}
	r, err := ParseRelease(s.text)
	if err != nil {
		t.Fatal(err)
	}
	if index := r.Indexes["main/binary-amd64/Packages.xz"]; index.Size != 1 || index.SHA256.Hex() != "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" {
		t.Errorf("index %+v", index)
	}
	if !r.Date.Equal(s.now) || len(r.Indexes) != 2 {
		t.Errorf("%+v", r)
	}
}

func TestReadKeyring(t *testing.T) {
	if _, err := ReadKeyring(); err == nil {
		t.Error("an empty keyring was read")
	}
	if _, err := ReadKeyring(strings.NewReader("no key at all")); err == nil {
		t.Error("text was read as a keyring")
	}
	if _, err := ReadKeyring(strings.NewReader("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxxxx\n")); err == nil {
		t.Error("a broken block was read as a keyring")
	}
}

func FuzzInRelease(f *testing.F) {
	now := time.Date(2026, 9, 12, 8, 0, 0, 0, time.UTC)
	key := debtest.NewKey(f, "main", now.AddDate(-1, 0, 0), 0)
	keyring, err := ReadKeyring(bytes.NewReader(key.Public(f)))
	if err != nil {
		f.Fatal(err)
	}
	text := debtest.Suite{Codename: "trixie", Date: now}.Release(map[string][]byte{"a": nil})
	good := debtest.Sign(f, text, now, crypto.SHA256, key)
	f.Add(good)
	f.Add(text)
	f.Add(good[:len(good)/2])
	want, _, err := keyring.OpenInRelease(good, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = ParseRelease(data)
		got, _, err := keyring.OpenInRelease(data, now)
		if err == nil && (got.Codename != want.Codename || !got.Date.Equal(want.Date) || len(got.Indexes) != len(want.Indexes)) {
			t.Fatalf("the key signed %+v, and this verifies as %+v:\n%s", want, got, data)
		}
	})
}

// TestSignAgainstGpgv has the reference verifier accept what debtest signs and this package accepts.
func TestSignAgainstGpgv(t *testing.T) {
	if _, err := exec.LookPath("gpgv"); err != nil {
		t.Skip("gpgv is not installed: nothing to compare with")
	}
	now := time.Now()
	key := debtest.NewKey(t, "main", now.Add(-time.Hour), 0)
	text := debtest.Suite{Codename: "trixie", Date: now}.Release(map[string][]byte{"a": nil})
	good := debtest.Sign(t, text, now, crypto.SHA256, key)
	keyring, err := ReadKeyring(bytes.NewReader(key.Public(t)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys.gpg")
	if err := os.WriteFile(keys, key.Public(t), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, signed := range map[string][]byte{
		"good": good, "changed": bytes.Replace(good, []byte("Test"), []byte("Best"), 1), "cut": good[:len(good)-60],
		"SHA-1": debtest.Sign(t, text, now, crypto.SHA1, key),
	} {
		file := filepath.Join(dir, "InRelease")
		if err := os.WriteFile(file, signed, 0o644); err != nil {
			t.Fatal(err)
		}
		out, theirs := exec.Command("gpgv", "--weak-digest", "SHA1", "--keyring", keys, "--output", "/dev/null", file).CombinedOutput()
		_, _, ours := keyring.OpenInRelease(signed, now)
		if (theirs == nil) != (ours == nil) || (ours == nil) != (name == "good") {
			t.Errorf("%s: we say %v, gpgv says %v\n%s", name, ours, theirs, out)
		}
	}
}

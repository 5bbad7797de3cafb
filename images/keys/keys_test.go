package keys_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"roost/images/keys"
)

// newSet makes a key set; RSA generation is slow enough that tests share one where they only read it.
func newSet(t *testing.T) (string, *keys.Set) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := keys.Init(dir, "Test"); err != nil {
		t.Fatal(err)
	}
	set, err := keys.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, set
}

func TestInitModes(t *testing.T) {
	dir, _ := newSet(t)
	modes := map[string]os.FileMode{".": 0o700, "PK.key": 0o600, "KEK.key": 0o600, "db.key": 0o600, "release.key": 0o600,
		"PK.crt": 0o644, "KEK.crt": 0o644, "db.crt": 0o644, "release.pub": 0o644, "owner.guid": 0o644}
	for name, want := range modes {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
	}
}

func TestInitRefusesToOverwrite(t *testing.T) {
	dir, _ := newSet(t)
	before, _ := os.ReadFile(filepath.Join(dir, "db.key"))
	if err := keys.Init(dir, "Test"); !errors.Is(err, keys.ErrExists) {
		t.Fatalf("second Init returned %v, want ErrExists", err)
	}
	after, _ := os.ReadFile(filepath.Join(dir, "db.key"))
	if !bytes.Equal(before, after) {
		t.Error("second Init changed a key")
	}
}

func TestSigners(t *testing.T) {
	_, set := newSet(t)
	digest := sha256.Sum256([]byte("payload"))

	signer, cert := set.SecureBootDB()
	sig, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := rsa.VerifyPKCS1v15(cert.PublicKey.(*rsa.PublicKey), crypto.SHA256, digest[:], sig); err != nil {
		t.Errorf("db signature does not verify with its certificate: %v", err)
	}

	sig, err = set.Release().Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	text, err := set.ReleasePublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("release signature does not verify with the exported public key")
	}
}

func TestOpenRefusesBrokenSets(t *testing.T) {
	original, _ := newSet(t)
	other, _ := newSet(t)
	read := func(dir, name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tests := []struct {
		name, file string
		data       []byte // nil removes the file
		mode       os.FileMode
		want       string
	}{
		{"missing key", "KEK.key", nil, 0, "KEK.key"},
		{"others can read", "db.key", read(original, "db.key"), 0o640, "chmod 600"},
		{"foreign certificate", "db.crt", read(other, "db.crt"), 0o644, "belongs to another key"},
		{"garbage key", "PK.key", []byte("garbage"), 0o600, "PEM block"},
		{"trailing bytes", "PK.crt", append(read(original, "PK.crt"), "more"...), 0o644, "nothing after it"},
		{"RSA release key", "release.key", read(original, "db.key"), 0o600, "not an ECDSA P-256 key"},
		{"bad owner", "owner.guid", []byte("me"), 0o644, "not a GUID"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(original)); err != nil {
				t.Fatal(err)
			}
			for _, private := range []string{"PK.key", "KEK.key", "db.key", "release.key"} { // CopyFS loses modes
				if err := os.Chmod(filepath.Join(dir, private), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, tt.file)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if tt.data != nil {
				if err := os.WriteFile(path, tt.data, tt.mode); err != nil {
					t.Fatal(err)
				}
			}
			_, err := keys.Open(dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open returned %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestSignatureListMatchesEfitools compares with the tool the field uses.
func TestSignatureListMatchesEfitools(t *testing.T) {
	dir, set := newSet(t)
	out := filepath.Join(t.TempDir(), "db.esl")
	run(t, "cert-to-efi-sig-list", "-g", set.Owner(), filepath.Join(dir, "db.crt"), out)
	want, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	got, err := set.SignatureList(keys.DB)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("signature list differs from cert-to-efi-sig-list's:\n%x\n%x", got, want)
	}
	if _, err := set.SignatureList("dbx"); err == nil {
		t.Error("SignatureList accepted dbx")
	}
}

// TestUpdateVerifies checks the PKCS #7 inside each .auth file with OpenSSL, over the bytes UEFI says are signed.
func TestUpdateVerifies(t *testing.T) {
	_, set := newSet(t)
	guids := map[string][]byte{ // vendor GUIDs as stored
		keys.PK:  {0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c},
		keys.KEK: {0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c},
		keys.DB:  {0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f},
	}
	for use, signer := range map[string]string{keys.PK: keys.PK, keys.KEK: keys.PK, keys.DB: keys.KEK} {
		t.Run(use, func(t *testing.T) {
			update, err := set.Update(use)
			if err != nil {
				t.Fatal(err)
			}
			list, _ := set.SignatureList(use)
			if !bytes.HasSuffix(update, list) {
				t.Fatal("update does not end with the signature list")
			}
			var signed []byte
			for _, c := range use {
				signed = append(signed, byte(c), 0)
			}
			signed = append(signed, guids[use]...)
			signed = append(signed, 0x27, 0, 0, 0) // NV | BS | RT | time-based authentication
			signed = append(signed, update[:16]...)
			signed = append(signed, list...)

			dir := t.TempDir()
			write := func(name string, b []byte) string {
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			// SignedData without its ContentInfo, as UEFI wants it; OpenSSL wants it wrapped.
			signature := update[40 : len(update)-len(list)]
			wrapped := wrapSignedData(signature)
			cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: set.Certificate(signer).Raw})
			run(t, "openssl", "smime", "-verify", "-inform", "DER", "-in", write("sig", wrapped), "-content", write("content", signed), "-binary",
				"-certfile", write("cert", cert), "-CAfile", write("cert", cert), "-purpose", "any", "-out", filepath.Join(dir, "out"))
		})
	}
}

func wrapSignedData(b []byte) []byte {
	wrap := func(tag byte, parts ...[]byte) []byte {
		content := bytes.Join(parts, nil)
		n := len(content)
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content...)
	}
	oid := []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02}
	return wrap(0x30, oid, wrap(0xa0, b))
}

func TestExportIsPublic(t *testing.T) {
	_, set := newSet(t)
	dir := filepath.Join(t.TempDir(), "public")
	for range 2 { // a second export replaces the first
		if err := set.Export(dir); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 14 {
		t.Errorf("export wrote %d files, want 14", len(entries))
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("PRIVATE")) {
			t.Errorf("%s holds a private key", e.Name())
		}
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

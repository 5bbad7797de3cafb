package authenticode_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"debug/pe"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	peer "github.com/foxboron/go-uefi/authenticode"

	"roost/images/keys"
	"roost/images/uki"
	"roost/images/uki/authenticode"
)

const directory = "/usr/lib/systemd/boot/efi/"

// programs returns what gets signed in real life: the boot loader, and a UKI.
func programs(t testing.TB) map[string][]byte {
	t.Helper()
	loader, err := os.ReadFile(directory + "systemd-bootx64.efi")
	if err != nil {
		t.Fatal(err)
	}
	stub, err := os.ReadFile(directory + "linuxx64.efi.stub")
	if err != nil {
		t.Fatal(err)
	}
	image, err := uki.Assemble(uki.Parts{Stub: stub, CommandLine: "roothash=" + strings.Repeat("a", 64), Kernel: make([]byte, 54321), Initrd: []byte("initrd")})
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"loader": loader, "UKI": image}
}

func newKey(t testing.TB) (crypto.Signer, *x509.Certificate) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := keys.Init(dir, "Test"); err != nil {
		t.Fatal(err)
	}
	set, err := keys.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return set.SecureBootDB()
}

func TestSignedFileVerifies(t *testing.T) {
	signer, cert := newKey(t)
	_, otherCert := newKey(t)
	for name, program := range programs(t) {
		signed, err := authenticode.Sign(program, signer, cert)
		if err != nil {
			t.Fatal(err)
		}
		if err := authenticode.Verify(signed, cert); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := authenticode.Verify(signed, otherCert); !errors.Is(err, authenticode.ErrSignature) {
			t.Errorf("%s under another key: %v, want ErrSignature", name, err)
		}
		if err := authenticode.Verify(program, cert); !errors.Is(err, authenticode.ErrSignature) {
			t.Errorf("%s unsigned: %v, want ErrSignature", name, err)
		}
		sbverify(t, signed, cert, true)
		sbverify(t, signed, otherCert, false)

		parsed, err := peer.Parse(bytes.NewReader(signed))
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := parsed.Verify(cert); !ok || err != nil {
			t.Errorf("%s: go-uefi does not verify the signature: %v", name, err)
		}

		again, err := authenticode.Sign(signed, signer, cert)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, signed) {
			t.Errorf("%s: signing again gives other bytes", name)
		}
		before, err := authenticode.Digest(program)
		if err != nil {
			t.Fatal(err)
		}
		if after, err := authenticode.Digest(signed); err != nil || after != before {
			t.Errorf("%s: digest %s before signing, %s after, %v", name, before, after, err)
		}
	}
}

// TestSbsign checks that we verify what the field's own tool signed.
func TestSbsign(t *testing.T) {
	dir := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	key, crt := filepath.Join(dir, "key"), filepath.Join(dir, "crt")
	run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-keyout", key, "-out", crt)
	text, err := os.ReadFile(crt)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range programs(t) {
		in, out := filepath.Join(dir, name), filepath.Join(dir, name+".signed")
		if err := os.WriteFile(in, program, 0o600); err != nil {
			t.Fatal(err)
		}
		run("sbsign", "--key", key, "--cert", crt, "--output", out, in)
		signed, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := authenticode.Verify(signed, cert); err != nil {
			t.Errorf("%s signed by sbsign: %v", name, err)
		}
	}
}

func TestEveryFlipIsFound(t *testing.T) {
	signer, cert := newKey(t)
	signed, err := authenticode.Sign(programs(t)["UKI"], signer, cert)
	if err != nil {
		t.Fatal(err)
	}
	places, err := uki.Layout(signed)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 1))
	flips := []int{places.Directory, places.Directory + 4, places.End - 1, places.End, places.End + 8}
	for range 300 {
		flips = append(flips, random.IntN(places.End))
	}
	for _, at := range flips {
		if at >= places.Checksum && at < places.Checksum+4 {
			continue // not covered by any Authenticode signature
		}
		bit := byte(1) << random.IntN(8)
		signed[at] ^= bit
		if authenticode.Verify(signed, cert) == nil {
			t.Errorf("a flipped bit at %d went unseen", at)
		}
		signed[at] ^= bit
	}
	if err := authenticode.Verify(append(signed, 0), cert); err == nil {
		t.Error("bytes after the signature were accepted")
	}
	if err := authenticode.Verify(signed[:len(signed)-8], cert); err == nil {
		t.Error("a cut signature was accepted")
	}
}

func TestSignRefusesForeignCertificate(t *testing.T) {
	signer, _ := newKey(t)
	_, cert := newKey(t)
	if _, err := authenticode.Sign(programs(t)["loader"], signer, cert); err == nil {
		t.Error("signed under a certificate of another key")
	}
}

func FuzzVerify(f *testing.F) {
	signer, cert := newKey(f)
	signed, err := authenticode.Sign(programs(f)["UKI"], signer, cert)
	if err != nil {
		f.Fatal(err)
	}
	places, err := uki.Layout(signed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed[places.Certificates:])
	f.Add(signed[places.Certificates : places.Certificates+40])
	original := bytes.Clone(signed[places.Certificates:])
	f.Fuzz(func(t *testing.T, table []byte) {
		table = append(table[:len(table):len(table)], make([]byte, 8-len(table)%8)...)
		image := append(bytes.Clone(signed[:places.End-1]), signed[places.End-1]^1) // another program
		image = append(image, table...)
		image[places.Directory+4], image[places.Directory+5], image[places.Directory+6] = byte(len(table)), byte(len(table)>>8), byte(len(table)>>16)
		if authenticode.Verify(image, cert) == nil {
			t.Errorf("a changed program verifies with signatures %x (the original is %x)", table, original)
		}
	})
}

func sbverify(t *testing.T, program []byte, cert *x509.Certificate, want bool) {
	t.Helper()
	dir := t.TempDir()
	file, crt := filepath.Join(dir, "program.efi"), filepath.Join(dir, "cert.pem")
	if err := errors.Join(os.WriteFile(file, program, 0o600),
		os.WriteFile(crt, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sbverify", "--cert", crt, file).CombinedOutput()
	if (err == nil) != want {
		t.Errorf("sbverify: %v, want success %v\n%s", err, want, out)
	}
	if f, err := pe.NewFile(bytes.NewReader(program)); err == nil && f.NumberOfSymbols == 0 && strings.Contains(string(out), "warning") { // a symbol table is data after the sections
		t.Errorf("sbverify warns: %s", out)
	}
}

package deb

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"roost/builder/deb/debtest"
)

const sampleIndex = `Package: hello
Version: 2.10-5
Architecture: amd64
Essential: yes
Priority: optional
Section: devel
Source: hello-src (2.10-4)
Maintainer: Somebody
Installed-Size: 280
Provides: greeter (= 1)
Depends: libc6 (>= 2.38),
 libx1
Description: long
 text that is not kept
Tag: a::b,
 c::d
Filename: pool/main/h/hello/hello_2.10-5_amd64.deb
Size: 53324
MD5sum: 0
SHA256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa


Package: libx1
Version: 1
Architecture: all
Multi-Arch: foreign
Filename: pool/x.deb
Size: 0
SHA256: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb`

func readIndex(r io.Reader) (all []Package, err error) {
	for p, err := range Packages(r) {
		if err != nil {
			return all, err
		}
		all = append(all, p)
	}
	return all, nil
}

func TestPackages(t *testing.T) {
	want := []Package{
		{
			Name: "hello", Version: "2.10-5", Architecture: "amd64", Essential: true, Priority: "optional", Section: "devel",
			Source: "hello-src (2.10-4)", Depends: "libc6 (>= 2.38),\n libx1", Provides: "greeter (= 1)",
			Filename: "pool/main/h/hello/hello_2.10-5_amd64.deb", Size: 53324, InstalledSize: 280,
			SHA256: "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		},
		{
			Name: "libx1", Version: "1", Architecture: "all", MultiArch: "foreign", Filename: "pool/x.deb",
			SHA256: "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
		},
	}
	for _, format := range []string{"", "gz", "xz", "zst"} {
		plain, err := Decompress(bytes.NewReader(debtest.Compress(t, format, []byte(sampleIndex))))
		if err != nil {
			t.Fatal(err)
		}
		got, err := readIndex(plain)
		if err != nil {
			t.Fatal(err)
		}
		if err := plain.Close(); err != nil {
			t.Error(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got  %+v\nwant %+v", format, got, want)
		}
	}
	for i, source := range []string{"hello-src 2.10-4", "libx1 1"} {
		if name, version := want[i].SourceNameVersion(); fmt.Sprint(name, " ", version) != source {
			t.Errorf("source of %s: %s %s", want[i].Name, name, version)
		}
	}
}

func TestPackagesErrors(t *testing.T) {
	change := func(old, new string) string { return strings.Replace(sampleIndex, old, new, 1) }
	for _, c := range []struct{ text, want string }{
		{change("Package: hello", "Package: ../hello"), `"../hello" is not a package name`},
		{change("Package: hello\n", ""), `"" is not a package name`},
		{change("Version: 2.10-5", "Version: a b"), "is not a version"},
		{change("Architecture: amd64\n", ""), "is not an architecture"},
		{change("Size: 53324", "Size: -1"), `"-1" is not a size`},
		{change("Size: 53324\n", ""), `"" is not a size`},
		{change("Size: 53324", "Size: +1"), `"+1" is not a size`},
		{change("Installed-Size: 280", "Installed-Size: x"), "Installed-Size"},
		{change("SHA256: aaa", "SHA256: AAA"), "SHA256 is missing or malformed"},
		{change("SHA256: aaa", "SHA256: "), "SHA256 is missing or malformed"},
		{change("pool/main/h", "../main/h"), "is not a plain path"},
		{change("pool/main/h", "/pool/main/h"), "is not a plain path"},
		{change("pool/main/h", "pool/../../h"), "is not a plain path"},
		{change("pool/main/h", "pool/h?x=y"), "is not a plain path"},
		{change("Source: ", "Version: "), "line 7: field Version appears twice"},
		{change("Maintainer: Somebody", "Maintainer"), "line 8: "},
		{"Package: " + strings.Repeat("x", maxLine+1), "longer than"},
		{"Package: x\nDepends: a\n" + strings.Repeat(" "+strings.Repeat("x", 1<<19)+"\n", 17), "paragraph is larger than"},
	} {
		if all, err := readIndex(strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q…: %d packages and error %v, want %q", c.text, len(all), err, c.want)
		}
	}
}

func TestDecompressDamaged(t *testing.T) {
	for _, format := range []string{"gz", "xz", "zst"} {
		whole := debtest.Compress(t, format, bytes.Repeat([]byte(sampleIndex), 50))
		for _, cut := range []int{7, len(whole) / 2, len(whole) - 1} {
			if _, err := decompressAll(whole[:cut]); err == nil {
				t.Errorf("%s cut to %d of %d bytes gave no error", format, cut, len(whole))
			}
		}
		if format == "zst" {
			continue // the writer's frames carry a checksum, but a flipped bit in a raw block may hit unused bits
		}
		flipped := bytes.Clone(whole)
		flipped[len(flipped)/2] ^= 4
		if _, err := decompressAll(flipped); err == nil {
			t.Errorf("%s with a flipped bit gave no error", format)
		}
	}
}

func decompressAll(data []byte) ([]byte, error) {
	r, err := Decompress(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// FuzzPackages compares the fast parser with the plain one on whatever both accept.
func FuzzPackages(f *testing.F) {
	f.Add([]byte(sampleIndex))
	f.Add([]byte("Package: ab\n\n\nPackage: cd\n x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		fast, err := readIndex(bytes.NewReader(text))
		if err != nil {
			return
		}
		plain, err := ParseParagraphs(text)
		if err != nil || len(plain) != len(fast) {
			return // stricter about names of fields that are not kept, and about comments
		}
		for i, p := range fast {
			for name, got := range map[string]string{"Package": p.Name, "Version": string(p.Version), "Depends": p.Depends, "Filename": p.Filename} {
				// The plain parser trims continuation lines and ignores the case of names.
				if want := plain[i].Get(name); strings.TrimSpace(got) != strings.TrimSpace(want) && !strings.ContainsAny(want+got, "\n") && got != "" {
					t.Fatalf("%s of package %d is %q, the plain parser reads %q", name, i, got, want)
				}
			}
		}
	})
}

// BenchmarkPackages reads an index of trixie's size: 68 000 paragraphs of 820 bytes.
func BenchmarkPackages(b *testing.B) {
	filler := "Description: something\nDescription-md5: " + strings.Repeat("0", 32) + "\nTag: " + strings.Repeat("role::program, ", 20) + "\n"
	one := strings.Split(sampleIndex, "\n\n\n")[0] + "\n" + filler + "\n"
	text := bytes.Repeat([]byte(one), 68_000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if all, err := readIndex(bytes.NewReader(text)); err != nil || len(all) != 68_000 {
			b.Fatal(len(all), err)
		}
	}
}

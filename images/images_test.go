package images_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"roost/images"
	"roost/images/imagestest"
)

// table holds pairs with the verdict that UAPI.10 gives them. want is the sign of Compare(a, b).
var table = []struct {
	a, b string
	want int
}{
	{"11", "11", 0}, {"systemd-123", "systemd-123", 0},
	{"bar-123", "foo-123", -1}, {"123a", "123", 1}, {"123.a", "123", 1}, {"123.a", "123.b", -1},
	{"123a", "123.a", 1}, {"11a", "11B", 1}, {"a", "A", 1},
	{"123~rc1", "123", -1}, {"123~rc1", "123~rc2", -1}, {"123~~", "123~", 1}, {"123~rc1-1", "123~rc1", 1},
	{"123-3", "123-3.1", -1}, {"123-a", "123a", -1}, {"123-a.1", "123a.1", -1}, {"123.1-1", "123.1-2", -1},
	{"123^1", "123", 1}, {"123^1", "123-1", 1}, {"123^1", "123.1", -1}, {"123^20200101-1", "123^20200102-1", -1},
	{"123^post1", "123.1", -1}, {"123.0.1", "123.0", 1}, {"123.45", "123.67", -1}, {"123.9", "123.10", -1},
	{"000123", "123", 0}, {"1.0001", "1.1", 0}, {"9", "10", -1}, {"99999999999999999999", "100000000000000000000", -1},
	{"0", "a", 1}, {"0a", "a", 1}, {"a0", "a", 1}, {"1.", "1", 1}, {"1-", "1", 1}, {"1^", "1", 1}, {"1~", "1", -1},
	{"2026.1.1", "2026.1.2", -1}, {"2026.01.1", "2026.1.1", 0}, {"1..2", "1.2", -1}, {"1-2", "1.2", -1},
}

func TestCompareTable(t *testing.T) {
	for _, c := range table {
		if got := images.Version(c.a).Compare(images.Version(c.b)); got != c.want {
			t.Errorf("compare %q %q: got %d, want %d", c.a, c.b, got, c.want)
		}
		if got := images.Version(c.b).Compare(images.Version(c.a)); got != -c.want {
			t.Errorf("compare %q %q: got %d, want %d", c.b, c.a, got, -c.want)
		}
	}
}

// TestCompareAgainstSystemd asks the program that shares its code with systemd-boot, on the table and on random versions.
func TestCompareAgainstSystemd(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	pairs := [][2]string{}
	for _, c := range table {
		pairs = append(pairs, [2]string{c.a, c.b})
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		a := randomVersion(random)
		pairs = append(pairs, [2]string{a, mutate(random, a)})
	}
	for _, p := range pairs {
		if want, got := systemdCompare(t, p[0], p[1]), images.Version(p[0]).Compare(images.Version(p[1])); got != want {
			t.Errorf("compare %q %q: got %d, systemd says %d", p[0], p[1], got, want)
		}
	}
}

const versionAlphabet = "0019ab.B-~^"

func randomVersion(r *rand.Rand) string {
	b := []byte{"019aZ"[r.IntN(5)]}
	for range r.IntN(8) {
		b = append(b, versionAlphabet[r.IntN(len(versionAlphabet))])
	}
	return string(b)
}

func mutate(r *rand.Rand, s string) string {
	i := 1 + r.IntN(len(s))
	return s[:i] + string(versionAlphabet[r.IntN(len(versionAlphabet))]) + s[i:]
}

// systemdCompare runs systemd-analyze compare-versions, whose exit status is 0 for equal, 11 for a newer, 12 for b newer.
func systemdCompare(t *testing.T, a, b string) int {
	t.Helper()
	err := exec.Command("systemd-analyze", "compare-versions", a, b).Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() == 11:
		return 1
	case errors.As(err, &exit) && exit.ExitCode() == 12:
		return -1
	}
	t.Fatalf("cannot compare %q %q with systemd: %v", a, b, err)
	return 0
}

func FuzzCompare(f *testing.F) {
	for _, c := range table {
		f.Add(c.a, c.b, "1.2~3")
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		x, y, z := images.Version(a), images.Version(b), images.Version(c)
		if x.Compare(y) != -y.Compare(x) {
			t.Errorf("%q %q: not antisymmetric", a, b)
		}
		if x.Compare(x) != 0 {
			t.Errorf("%q: not equal to itself", a)
		}
		_, errA := images.ParseVersion(a)
		_, errB := images.ParseVersion(b)
		_, errC := images.ParseVersion(c)
		if errA == nil && errB == nil && errC == nil && x.Compare(y) <= 0 && y.Compare(z) <= 0 && x.Compare(z) > 0 {
			t.Errorf("%q %q %q: not transitive", a, b, c)
		}
	})
}

func TestParseVersion(t *testing.T) {
	for s, ok := range map[string]bool{
		"1": true, "2026.11.22": true, "1.0~rc1-2^git": true, strings.Repeat("9", 64): true,
		"": false, "1_2": false, "1+2": false, "1 2": false, "ü": false, "1/2": false, strings.Repeat("9", 65): false,
	} {
		if v, err := images.ParseVersion(s); (err == nil) != ok || (ok && string(v) != s) {
			t.Errorf("version %q: got %q, %v", s, v, err)
		}
	}
}

func TestParseName(t *testing.T) {
	for s, ok := range map[string]bool{
		"edge": true, "edge-2": true, "a": true, "0": true, strings.Repeat("a", 48): true,
		"": false, "-a": false, "a-": false, "a--b": false, "A": false, "a_b": false, "a.b": false, "a/b": false, strings.Repeat("a", 49): false,
	} {
		if _, err := images.ParseName(s); (err == nil) != ok {
			t.Errorf("name %q: %v", s, err)
		}
	}
}

func TestParseDigest(t *testing.T) {
	digits := strings.Repeat("0a", 32)
	for s, ok := range map[string]bool{
		"sha256:" + digits: true, digits: false, "sha512:" + digits: false, "sha256:" + strings.ToUpper(digits): false,
		"sha256:" + digits[2:]: false, "sha256:" + digits + "00": false, "sha256:../" + digits[3:]: false, "": false,
	} {
		if d, err := images.ParseDigest(s); (err == nil) != ok || (ok && "sha256:"+d.Hex() != s) {
			t.Errorf("digest %q: got %q, %v", s, d, err)
		}
	}
	if got := images.DigestOf(nil); got != "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Errorf("digest of nothing: %s", got)
	}
}

func TestEncodeDecode(t *testing.T) {
	r := imagestest.Release("edge", "1.2")
	r.CommandLine += " option=<a&b>"
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte("<a&b>")) || !bytes.HasPrefix(data, []byte(`{"schema":1,"name":"edge","version":"1.2",`)) {
		t.Errorf("not canonical: %s", data)
	}
	back, err := images.DecodeRelease(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := back.Encode()
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("second encoding differs (%v):\n%s\n%s", err, data, again)
	}
}

func TestDecodeForward(t *testing.T) {
	data, err := imagestest.Release("edge", "1").Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"schema":1`, `"schema":1,"future":{"x":[1,2]}`, ""},
		{`"schema":1`, `"schema":2`, "schema 2"},
		{`"schema":1,`, ``, "schema 0"},
		{`"schema":1`, `"schema":1,"schema":1`, "duplicate"},
		{`"schema":1`, `"schema":1,"Name":"other"`, "duplicate"},
		{`"schema":1`, `"schema":1,"x":[{"y":1,"Y":2}]`, "duplicate"},
		{`"schema":1`, `"schema":1,"x":` + strings.Repeat("[", 20) + strings.Repeat("]", 20), "nested"},
		{"}\n", "} {}", "nothing after"},
		{`{"schema"`, `[{"schema"`, "object"},
		{`"schema":1`, `"schema":"1"`, "cannot unmarshal"},
		{"}\n", "}" + strings.Repeat(" ", images.MaxDocument), "limit"},
	} {
		changed := bytes.Replace(data, []byte(c.old), []byte(c.new), 1)
		_, err := images.DecodeRelease(changed)
		if (c.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s for %s: got %v, want %q", c.new[:min(len(c.new), 60)], c.old, err, c.want)
		}
	}
}

func TestValidate(t *testing.T) {
	if err := imagestest.Release("edge", "1").Validate(); err != nil {
		t.Fatalf("valid release: %v", err)
	}
	for want, spoil := range map[string]func(r *images.Release){
		"schema":                           func(r *images.Release) { r.Schema = 2 },
		"name":                             func(r *images.Release) { r.Name = "Edge" },
		"version":                          func(r *images.Release) { r.Version = "1_2" },
		"lock":                             func(r *images.Release) { r.Lock = "" },
		"architecture":                     func(r *images.Release) { r.Architecture = "x86_64" },
		"created: want whole seconds":      func(r *images.Release) { r.Created = r.Created.Add(time.Millisecond) },
		"created: want UTC":                func(r *images.Release) { r.Created = r.Created.In(time.FixedZone("X", 3600)) },
		"kernel":                           func(r *images.Release) { r.Kernel = "6 12" },
		"rootHash":                         func(r *images.Release) { r.RootHash = "00" },
		"commandLine: want one":            func(r *images.Release) { r.CommandLine += " roothash=" + r.RootHash },
		"commandLine: want printable":      func(r *images.Release) { r.CommandLine += "\nx" },
		"commandLine: 2":                   func(r *images.Release) { r.CommandLine += strings.Repeat("x", 2048) },
		"uki.efi":                          func(r *images.Release) { r.UKI.Digest = "sha256:x" },
		"loader.efi":                       func(r *images.Release) { r.Loader.Size = 0 },
		"needs: want sizes":                func(r *images.Release) { r.Needs.Memory = -1 },
		"needs: root image of":             func(r *images.Release) { r.Root.Size++ },
		"does not fit a slot":              func(r *images.Release) { r.Needs.Slot = 4096 },
		"does not fit a partition":         func(r *images.Release) { r.Needs.Verity = 4096 },
		"do not fit an ESP":                func(r *images.Release) { r.Needs.ESP = 50000 },
		"do not fit a disk":                func(r *images.Release) { r.Needs.Disk = r.Needs.Slot },
		"tries":                            func(r *images.Release) { r.Update.Tries = 0 },
		"seconds for the gates":            func(r *images.Release) { r.Update.GateSeconds = 0 },
		"rollback floor":                   func(r *images.Release) { r.Update.RollbackFloor = "2" },
		"gates: two gates":                 func(r *images.Release) { r.Gates = append(r.Gates, r.Gates[0]) },
		"gate x: want one of":              func(r *images.Release) { r.Gates = []images.Gate{{Name: "x", Kind: "hope"}} },
		"gate x: kind units":               func(r *images.Release) { r.Gates = []images.Gate{{Name: "x", Kind: "units", Unit: "a.service"}} },
		"gate x: kind program":             func(r *images.Release) { r.Gates = []images.Gate{{Name: "x", Kind: "program"}} },
		"gate x: exec: want an absolute":   func(r *images.Release) { r.Gates = []images.Gate{{Name: "x", Kind: "program", Exec: []string{"sh"}}} },
		"gate x: want a systemd unit name": func(r *images.Release) { r.Gates = []images.Gate{{Name: "x", Kind: "unit", Unit: "a b.service"}} },
		"units: want sorted":               func(r *images.Release) { r.Units = []string{"b.service", "a.service"} },
		"units: want a systemd unit name":  func(r *images.Release) { r.Units = []string{"noSuffix"} },
	} {
		r := imagestest.Release("edge", "1")
		spoil(r)
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
		if _, err := r.Encode(); err == nil {
			t.Errorf("release with bad %s was encoded", want)
		}
	}
}

func FuzzDecodeRelease(f *testing.F) {
	data, err := imagestest.Release("edge", "1").Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"schema":1}`))
	f.Add([]byte(`{"schema":1,"x":[[{"a":{}}]]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := images.DecodeRelease(data)
		if err != nil {
			return
		}
		canonical, err := r.Encode()
		if err != nil {
			t.Fatalf("decoded but not encoded: %v", err)
		}
		back, err := images.DecodeRelease(canonical)
		if err != nil {
			t.Fatalf("own encoding refused: %v", err)
		}
		if again, err := back.Encode(); err != nil || !bytes.Equal(canonical, again) {
			t.Errorf("encoding is not canonical: %s and %s (%v)", canonical, again, err)
		}
	})
}

func TestTemplate(t *testing.T) {
	values := map[string]string{"hostname": "edge-1", "address": "10.0.0.1", "id": "6c6f-1"}
	for _, test := range []struct{ text, want, fault string }{
		{text: "", want: ""},
		{text: "no values }} { {", want: "no values }} { {"},
		{text: "{{hostname}}:{{address}}\n{{hostname}}", want: "edge-1:10.0.0.1\nedge-1"},
		{text: "iqn:{{id}}", want: "iqn:6c6f-1"},
		{text: "{{host}}", fault: "no value"},
		{text: "{{hostname", fault: "without"},
		{text: "{{{hostname}}", fault: "no value"},
	} {
		template, err := images.ParseTemplate(test.text)
		if test.fault != "" {
			if err == nil || !strings.Contains(err.Error(), test.fault) {
				t.Errorf("%q: %v, want %s", test.text, err, test.fault)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%q: %v", test.text, err)
		}
		if got, err := template.Expand(values); err != nil || got != test.want {
			t.Errorf("%q became %q, %v", test.text, got, err)
		}
	}
	template, err := images.ParseTemplate("name={{hostname}}")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "a\nb", "a b", "a\"", "a'", "a=b", "a$b", "a#", "ü", "a\x00"} {
		if got, err := template.Expand(map[string]string{"hostname": bad}); err == nil {
			t.Errorf("value %q became %q", bad, got)
		}
	}
}

// FuzzTemplate: whatever a template is, its texts stay and its values come in whole.
func FuzzTemplate(f *testing.F) {
	f.Add("a {{hostname}} b {{address}}", "h")
	f.Add("{{{{hostname}}}}", "x")
	f.Fuzz(func(t *testing.T, text, value string) {
		template, err := images.ParseTemplate(text)
		if err != nil {
			return
		}
		got, err := template.Expand(map[string]string{"hostname": value, "address": value, "id": value})
		if err != nil {
			return
		}
		want := strings.NewReplacer("{{hostname}}", value, "{{address}}", value, "{{id}}", value).Replace(text)
		if !strings.Contains(value, "{") && got != want {
			t.Errorf("%q with %q became %q, want %q", text, value, got, want)
		}
	})
}

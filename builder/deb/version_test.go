package deb

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

func TestVersionCompare(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"1.0", "1.0", 0},
		{"1.0", "1.00", 0},
		{"1.0-0", "1.0", 0},
		{"0:1.0", "1.0", 0},
		{"1:0.1", "2.0", 1},
		{"1.0~rc1", "1.0", -1},
		{"1.0~rc1", "1.0~rc1~", 1},
		{"1.0~~", "1.0~", -1},
		{"1.0+b1", "1.0", 1},
		{"1.0-1+b1", "1.0-1", 1},
		{"1.0-1", "1.0-1~deb13u1", 1},
		{"1.0a", "1.0+", -1},
		{"1.0.", "1.0a", 1},
		{"1.2.10", "1.2.9", 1},
		{"1-1-1", "1-1", 1},
		{"2:9.1", "2:9.1-", 0},
		{"18446744073709551616", "18446744073709551615", 1},
		{"", "~", 1},
		{"", "0", 0},
	} {
		if got := Version(c.a).Compare(Version(c.b)); got != c.want {
			t.Errorf("%q against %q: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := Version(c.b).Compare(Version(c.a)); got != -c.want {
			t.Errorf("%q against %q: %d, want %d", c.b, c.a, got, -c.want)
		}
	}
}

func TestParseVersionErrors(t *testing.T) {
	for _, s := range []string{"", ":1", "a:1", "1:", "-1", "1-", "x1", "1_0", "1:2:3-é", "1-1:2", "2147483648:1", " 1", "1 "} {
		if v, err := ParseVersion(s); err == nil {
			t.Errorf("%q parsed as %q", s, v)
		}
	}
	v, err := ParseVersion("2:1.0-rc-3+deb13u1")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(v.Epoch(), "|", v.Upstream(), "|", v.Revision(), "|", v.WithoutEpoch()); got != "2|1.0-rc|3+deb13u1|1.0-rc-3+deb13u1" {
		t.Error(got)
	}
}

// TestVersionCompareAgainstDpkg asks the reference implementation about random pairs, most of them close to each other.
// The shell loop answers them all in one process start per pair, which dominates the time.
func TestVersionCompareAgainstDpkg(t *testing.T) {
	dpkg, err := exec.LookPath("dpkg")
	if err != nil {
		t.Skip("dpkg is not installed: nothing to compare with")
	}
	pairs := 600
	if testing.Short() {
		pairs = 60
	}
	random := rand.New(rand.NewPCG(13, 7))
	var script strings.Builder
	var all [][2]Version
	for range pairs {
		a := randomVersion(random)
		b := mutateVersion(random, a)
		all = append(all, [2]Version{a, b})
		fmt.Fprintf(&script, "if %[1]s --compare-versions '%[2]s' lt '%[3]s'; then echo -1; elif %[1]s --compare-versions '%[2]s' eq '%[3]s'; then echo 0; else echo 1; fi\n", dpkg, a, b)
	}
	out, err := exec.Command("sh", "-c", script.String()).Output()
	if err != nil {
		t.Fatal(err)
	}
	answers := strings.Fields(string(out))
	if len(answers) != len(all) {
		t.Fatalf("dpkg gave %d answers to %d questions", len(answers), len(all))
	}
	seen := map[string]int{}
	for i, pair := range all {
		seen[answers[i]]++
		if got := fmt.Sprint(pair[0].Compare(pair[1])); got != answers[i] {
			t.Errorf("%q against %q: %s, dpkg says %s", pair[0], pair[1], got, answers[i])
		}
	}
	if len(seen) != 3 {
		t.Errorf("the pairs cover only the answers %v", seen)
	}
}

func randomVersion(r *rand.Rand) Version {
	for {
		var b strings.Builder
		if r.IntN(4) == 0 {
			fmt.Fprintf(&b, "%d:", r.IntN(3))
		}
		b.WriteByte("0129"[r.IntN(4)])
		for range r.IntN(8) {
			b.WriteByte("0129azAZ.+~-"[r.IntN(12)])
		}
		if v, err := ParseVersion(b.String()); err == nil {
			return v
		}
	}
}

// mutateVersion changes a few characters of v, so that comparisons are decided late in the string.
func mutateVersion(r *rand.Rand, v Version) Version {
	for {
		b := []byte(v)
		for range r.IntN(3) {
			i, c := r.IntN(len(b)), "01290azAZ.+~-:"[r.IntN(14)]
			switch r.IntN(3) {
			case 0:
				b[i] = c
			case 1:
				b = append(b[:i], append([]byte{c}, b[i:]...)...)
			case 2:
				b = append(b, c)
			}
		}
		if w, err := ParseVersion(string(b)); err == nil {
			return w
		}
	}
}

func FuzzVersion(f *testing.F) {
	for _, s := range []string{"1.0", "2:1.0~rc1-1+b2", "", ":", "~", "0-", "9:~~", "1:a:b-c-d"} {
		f.Add(s, "1.0-1")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		v, w := Version(a), Version(b)
		if c := v.Compare(w); c != -w.Compare(v) || v.Compare(v) != 0 || c < -1 || c > 1 {
			t.Fatalf("%q and %q are not ordered: %d and %d", a, b, c, w.Compare(v))
		}
		if v, err := ParseVersion(a); err == nil {
			again := v.Upstream()
			if e := v.Epoch(); e != "" {
				again = e + ":" + again
			}
			if r := v.Revision(); r != "" {
				again += "-" + r
			}
			if again != a {
				t.Fatalf("%q splits and joins to %q", a, again)
			}
		}
	})
}

package deb

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseRelations(t *testing.T) {
	text := "libc6 (>= 2.41), debconf (>= 0.5) | debconf-2.0,\n python3:any(<<3.14) , xz [amd64 linux-any] <!nocheck> <cross  stage1>,perl:amd64 (= 1:5~a-1),"
	got, err := ParseRelations(text)
	if err != nil {
		t.Fatal(err)
	}
	want := Relations{
		{{Name: "libc6", Op: OpGreaterEqual, Version: "2.41"}},
		{{Name: "debconf", Op: OpGreaterEqual, Version: "0.5"}, {Name: "debconf-2.0"}},
		{{Name: "python3", Qualifier: "any", Op: OpLess, Version: "3.14"}},
		{{Name: "xz", Architectures: []string{"amd64", "linux-any"}, Profiles: []string{"!nocheck", "cross stage1"}}},
		{{Name: "perl", Qualifier: "amd64", Op: OpEqual, Version: "1:5~a-1"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
	if s := got.String(); s != "libc6 (>= 2.41), debconf (>= 0.5) | debconf-2.0, python3:any (<< 3.14), xz [amd64 linux-any] <!nocheck> <cross stage1>, perl:amd64 (= 1:5~a-1)" {
		t.Error(s)
	}
}

func TestParseRelationsErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"a, b", `"a" is not a package name`},
		{"-ab", "is not a package name"},
		{"ab | ", "is not a package name"},
		{"ab:", "is not an architecture qualifier"},
		{"ab:x_y", "is not an architecture qualifier"},
		{"ab (>= 1", "is not closed"},
		{"ab (=> 1)", `unknown operator "=>"`},
		{"ab (>=)", `"" is not a version`},
		{"ab (>= 1 2)", `"1 2" is not a version`},
		{"ab (>= 1) (<< 2)", "unexpected"},
		{"ab cd", "unexpected"},
		{"ab []", "the list of architectures is empty"},
		{"ab [amd64 !i386]", "all or none"},
		{"ab <>", "unexpected"},
	} {
		if got, err := ParseRelations(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v and error %v, want %q", c.text, got, err, c.want)
		}
	}
	if _, err := ParseList("ab, cd | ef"); err == nil || !strings.Contains(err.Error(), "alternatives are not allowed") {
		t.Errorf("alternatives in a list: %v", err)
	}
	if list, err := ParseList("ab (= 1), cd"); err != nil || len(list) != 2 || list[0].Version != "1" {
		t.Errorf("list: %v, %v", list, err)
	}
}

func TestRelationHolds(t *testing.T) {
	for _, c := range []struct {
		relation   string
		yes, no    []Version
		name, miss string // provides entries that satisfy it, and that do not
	}{
		{"ab", []Version{"0", "9:9"}, nil, "ab", "ac"},
		{"ab (<< 2)", []Version{"1", "2~"}, []Version{"2", "2.0"}, "ab (= 1)", "ab"},
		{"ab (<= 2)", []Version{"2", "2-0"}, []Version{"2-1"}, "ab (= 2)", "ab (= 3)"},
		{"ab (= 2)", []Version{"2", "02"}, []Version{"2.0", "1"}, "ab (= 2)", "ab (= 2.1)"},
		{"ab (>= 2)", []Version{"2", "1:0"}, []Version{"2~rc"}, "ab (= 2)", "ab"},
		{"ab (>> 2)", []Version{"2.0"}, []Version{"2"}, "ab (= 3)", "ab (= 2)"},
		{"ab (> 2)", []Version{"2"}, []Version{"1"}, "ab (= 2)", "ab (= 1)"},
		{"ab (2)", []Version{"2"}, []Version{"1"}, "ab (= 2)", "ab (= 1)"},
	} {
		r, err := parseRelation(c.relation)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range c.yes {
			if !r.Holds(v) {
				t.Errorf("%s does not hold for %s", c.relation, v)
			}
		}
		for _, v := range c.no {
			if r.Holds(v) {
				t.Errorf("%s holds for %s", c.relation, v)
			}
		}
		provided, _ := parseRelation(c.name)
		missing, _ := parseRelation(c.miss)
		if !r.HeldBy(provided) || r.HeldBy(missing) {
			t.Errorf("%s: held by %s: %t, held by %s: %t", c.relation, provided, r.HeldBy(provided), missing, r.HeldBy(missing))
		}
	}
}

func TestRelationAppliesTo(t *testing.T) {
	for _, c := range []struct {
		relation string
		want     string // architectures among the four that it applies to
	}{
		{"ab", "amd64 i386 hurd-amd64 all"},
		{"ab [amd64]", "amd64"},
		{"ab [!amd64]", "i386 hurd-amd64 all"},
		{"ab [!amd64 !i386]", "hurd-amd64 all"},
		{"ab [linux-any]", "amd64 i386 all"},
		{"ab [any]", "amd64 i386 hurd-amd64 all"},
		{"ab [any-i386]", "i386"},
	} {
		r, err := parseRelation(c.relation)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, arch := range []string{"amd64", "i386", "hurd-amd64", "all"} {
			if r.AppliesTo(arch) {
				got = append(got, arch)
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s applies to %q, want %q", c.relation, s, c.want)
		}
	}
}

func FuzzRelations(f *testing.F) {
	f.Add("libc6 (>= 2.41), debconf (>= 0.5) | debconf-2.0, python3:any (<< 3.14)")
	f.Add("xz [amd64 i386] <!nocheck>, yy[!a]<b><c>")
	f.Add("a (,), (>= ")
	f.Fuzz(func(t *testing.T, text string) {
		rs, err := ParseRelations(text)
		if err != nil {
			return
		}
		again, err := ParseRelations(rs.String())
		if err != nil || !reflect.DeepEqual(rs, again) {
			t.Fatalf("%q was read as %#v, written as %q and read as %#v, %v", text, rs, rs.String(), again, err)
		}
	})
}

package archive

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"
)

func describeMirror(m Mirror) string {
	join := func(list []*url.URL) string {
		var all []string
		for _, u := range list {
			all = append(all, u.String())
		}
		return strings.Join(all, " ")
	}
	return fmt.Sprintf("main %s; security %s", join(m.Main), join(m.Security))
}

func TestParseMirror(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"http://m.test/debian", "main http://m.test/debian; security http://m.test/debian-security"},
		{"http://m.test/debian/", "main http://m.test/debian; security http://m.test/debian-security"},
		{"https://m.test/archive/debian/20260101T000000Z", "main https://m.test/archive/debian/20260101T000000Z; security https://m.test/archive/debian-security/20260101T000000Z"},
		{"http://a.test/debian, http://b.test/pub/debian", "main http://a.test/debian http://b.test/pub/debian; security http://a.test/debian-security http://b.test/pub/debian-security"},
		{"http://a.test/debian http://b.test/debian-security", "main http://a.test/debian; security http://b.test/debian-security"},
		{"http://a.test/d security=http://b.test/s", "main http://a.test/d; security http://b.test/s"},
		{"http://a.test/mirror", "main http://a.test/mirror; security http://a.test/mirror"},
		{"file:///srv/debian", "main file:///srv/debian; security file:///srv/debian-security"},
	} {
		m, err := ParseMirror(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
		} else if got := describeMirror(m); got != c.want {
			t.Errorf("%s: %s, want %s", c.text, got, c.want)
		}
	}
	for _, text := range []string{"", "  ", "debian", "ftp://a.test/debian", "http:///debian", "http://a.test/debian?x", "http://a.test/debian#x", "http://u:secret@[", "ftp://u:secret@a.test/", "http://u:secret@a.test/debian?x", "security=http://a.test/s"} {
		if m, err := ParseMirror(text); err == nil {
			t.Errorf("%q: %s", text, describeMirror(m))
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error shows a password: %v", text, err)
		}
	}
}

func TestFindMirror(t *testing.T) {
	sources := func(files ...string) fstest.MapFS {
		root := fstest.MapFS{}
		for i := 0; i < len(files); i += 2 {
			root["etc/apt/"+files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
		}
		return root
	}
	for _, c := range []struct {
		name, flag, env string
		root            fstest.MapFS
		want            string // or part of the error
	}{
		{"flag wins", "http://flag.test/debian", "http://env.test/debian", sources("sources.list", "deb http://apt.test/debian trixie main"),
			"main http://flag.test/debian; security http://flag.test/debian-security"},
		{"environment", "", "http://env.test/debian", sources("sources.list", "deb http://apt.test/debian trixie main"),
			"main http://env.test/debian; security http://env.test/debian-security"},
		{"bad environment", "", "nonsense", nil, "ROOST_MIRROR: cannot use mirror"},
		{"one-line", "", "", sources("sources.list", "# comment\ndeb-src http://src.test/debian trixie main\n"+
			"deb [arch=amd64 signed-by=/x.gpg] http://apt.test/debian bookworm main # why\ndeb http://apt.test/debian bookworm-updates main\n"+
			"deb http://sec.test/debian-security bookworm-security main\n"),
			"main http://apt.test/debian; security http://sec.test/debian-security"},
		{"deb822", "", "", sources("sources.list.d/debian.sources", "# c\nTypes: deb deb-src\nURIs: http://apt.test/debian\n http://two.test/debian/\nSuites: trixie trixie-updates\nComponents: main\n\n"+
			"Types: deb\nURIs: http://apt.test/debian-security\nSuites: trixie-security\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"),
			"main http://apt.test/debian http://two.test/debian; security http://apt.test/debian-security"},
		{"by key", "", "", sources("sources.list.d/local.sources", "Types: deb\nURIs: http://cache.test/d\nSuites: trixie\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"),
			"main http://cache.test/d; security http://cache.test/d"},
		{"others are skipped", "", "", sources("sources.list.d/a.list", "deb http://vendor.test/apt stable main\ndeb http://broken", "sources.list.d/b.sources", "no field",
			"sources.list.d/c.sources", "Types: deb\nEnabled: no\nURIs: http://off.test/debian\nSuites: trixie\n",
			"sources.list.d/d.sources", "Types: deb-src\nURIs: http://src.test/debian\nSuites: trixie\n",
			"sources.list.d/e.list", "deb http://archive.test/ubuntu noble main", "sources.list.d/f.list.save", "deb http://old.test/debian trixie main",
			"sources.list.d/g.list", "deb mirror+file:/etc/m /debian trixie\ndeb cdrom:[x] trixie main\ndeb http://good.test/debian sid main"),
			"main http://good.test/debian; security http://good.test/debian-security"},
		{"none", "", "", sources("sources.list.d/e.list", "deb http://archive.test/ubuntu noble main"), "this host's apt sources name none; name one with --mirror or ROOST_MIRROR"},
		{"no apt", "", "", fstest.MapFS{}, "name one with --mirror"},
	} {
		getenv := func(name string) string {
			if name == "ROOST_MIRROR" {
				return c.env
			}
			return ""
		}
		m, err := FindMirror(c.flag, getenv, c.root)
		got := describeMirror(m)
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
	}
}

func FuzzAptSources(f *testing.F) {
	f.Add("deb [arch=amd64] http://apt.test/debian trixie main")
	f.Add("Types: deb\nURIs: http://apt.test/debian\nSuites: trixie\n")
	f.Add("deb [")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := aptMirror(fstest.MapFS{
			"etc/apt/sources.list":                  {Data: []byte(text)},
			"etc/apt/sources.list.d/debian.sources": {Data: []byte(text)},
		})
		if err == nil && (len(m.Main) == 0 || len(m.Security) == 0) {
			t.Fatalf("%q gives the incomplete mirror %s", text, describeMirror(m))
		}
	})
}

package openstack

import (
	"slices"
	"testing"
	"testing/fstest"
)

// TestHeads reads migrations in the forms that OpenStack's projects write them in.
func TestHeads(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  []string // nil: an error
	}{
		"one line":           {map[string]string{"a.py": "revision = 'a'\ndown_revision = None\n", "b.py": "revision = \"b\"\ndown_revision = 'a'\n"}, []string{"b"}},
		"branches":           {map[string]string{"x/a.py": "revision = 'a'\ndown_revision = None", "y/b.py": "revision = 'b'\ndown_revision = 'a'", "y/c.py": "revision = 'c'\ndown_revision = 'a'"}, []string{"b", "c"}},
		"several followed":   {map[string]string{"a.py": "revision = 'a'", "b.py": "revision = 'b'", "c.py": "revision = 'c'\ndown_revision = (\n    'a',\n    'b',\n)"}, []string{"c"}},
		"one that depends":   {map[string]string{"a.py": "revision = 'a'", "b.py": "revision = 'b'\ndown_revision = None\ndepends_on = 'a'"}, []string{"b"}},
		"with types":         {map[string]string{"a.py": "revision: str = 'a'", "b.py": "revision: str = 'b'\ndown_revision: str | None = 'a'"}, []string{"b"}},
		"what is none":       {map[string]string{"a.py": "revision = 'a'", "__init__.py": "", "README": "revision = 'z'", "b.pyc": "revision = 'y'"}, []string{"a"}},
		"inside of a string": {map[string]string{"a.py": "revision = 'a'\ndef upgrade():\n    revision = 'b'\n"}, []string{"a"}},
		"none at all":        {map[string]string{"__init__.py": "pass"}, nil},
	} {
		dir := fstest.MapFS{}
		for path, text := range test.files {
			dir[path] = &fstest.MapFile{Data: []byte(text)}
		}
		got, err := heads(dir)
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, test.want)
		}
	}
}

func FuzzParseMigration(f *testing.F) {
	f.Add("revision = 'a'\ndown_revision = ('b',\n 'c')\n")
	f.Add("down_revision: str = [\"b\"]")
	f.Fuzz(func(t *testing.T, text string) {
		again, follows := parseMigration(text)
		if revision, f := parseMigration(text); revision != again || !slices.Equal(f, follows) {
			t.Error("read twice, it says two things")
		}
	})
}

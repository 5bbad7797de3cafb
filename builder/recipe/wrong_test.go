package recipe

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected messages in testdata/wrong")

// TestWrong holds the exact message for every kind of mistake. Each archive is a directory of recipes with recipe.yaml on
// top; the section "message" is what its writer reads.
func TestWrong(t *testing.T) {
	files, err := filepath.Glob("testdata/wrong/*.txtar")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %d archives: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			fsys := fstest.MapFS{}
			var message *txtar.File
			for i := range archive.Files {
				if f := &archive.Files[i]; f.Name == "message" {
					message = f
				} else {
					fsys[f.Name] = &fstest.MapFile{Data: f.Data}
				}
			}
			if message == nil {
				t.Fatal("the archive has no section message")
			}
			_, err = Loader{FS: fsys}.Load("recipe.yaml")
			if err == nil {
				t.Fatal("the recipe was accepted")
			}
			var faults Faults
			if !errors.As(err, &faults) {
				t.Fatalf("not faults: %v", err)
			}
			for _, f := range faults {
				if f.At.Line < 1 || f.At.Column < 1 || f.At.File == "" || f.Problem == "" {
					t.Errorf("fault without place or problem: %+v", f)
				}
			}
			got := err.Error() + "\n"
			if *rewrite {
				message.Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(message.Data); got != want {
				t.Errorf("message:\n%swant:\n%s", got, want)
			}
		})
	}
}

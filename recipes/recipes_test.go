package recipes_test

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	"roost/builder/lock"
	"roost/builder/recipe"
	"roost/recipes"
)

// TestShipped parses every shipped recipe and checks that its lock answers it.
func TestShipped(t *testing.T) {
	names, err := fs.Glob(recipes.FS(), "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, name := range names {
		if name == "ids.yaml" {
			continue
		}
		seen++
		r, err := recipe.Loader{Shipped: recipes.FS()}.Load(recipe.Shipped + name)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if k := r.Kernel; k.Flavour == "realtime" && !slices.Contains(k.Arguments, "efi=runtime") {
			t.Errorf("%s: its kernel cannot set boot entries: it has no argument efi=runtime", name)
		}
		data, err := fs.ReadFile(recipes.FS(), strings.TrimSuffix(name, ".yaml")+".lock")
		if err != nil {
			t.Errorf("%s has no lock: %v", name, err)
			continue
		}
		l, err := lock.Decode(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := lock.Stale(r, l); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if seen == 0 {
		t.Error("no recipe is shipped")
	}
}

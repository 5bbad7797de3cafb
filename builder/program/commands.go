package program

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"roost/builder/recipe"
)

// writeSources writes the main package: the recipe's text, or one that calls the commands that the recipe names, which are
// copied beside it as packages with a function Main.
func (b *bench) writeSources(p recipe.Program) error {
	if p.Main != "" {
		return b.write("main.go", p.Main)
	}
	if len(p.Commands) == 0 {
		return nil
	}
	for _, c := range p.Commands {
		if err := b.copyCommand(c); err != nil {
			return fmt.Errorf("command %s: %w", c, err)
		}
	}
	return b.write("main.go", dispatcher(p.Commands))
}

// dispatcher is the text of a main package that becomes the command by whose name it is called, or that its first argument
// names.
func dispatcher(commands []string) string {
	names := make([]string, 0, len(commands))
	for _, c := range commands {
		names = append(names, commandName(c))
	}
	slices.Sort(names)
	var s strings.Builder
	s.WriteString("package main\n\nimport (\n\t\"os\"\n\t\"path/filepath\"\n\n")
	for i, name := range names {
		fmt.Fprintf(&s, "\tc%d %q\n", i, moduleName+"/commands/"+name)
	}
	s.WriteString(")\n\nfunc command(name string) func() {\n\tswitch name {\n")
	for i, name := range names {
		fmt.Fprintf(&s, "\tcase %q:\n\t\treturn c%d.Main\n", name, i)
	}
	fmt.Fprintf(&s, `	}
	return nil
}

func main() {
	run := command(filepath.Base(os.Args[0]))
	if run == nil && len(os.Args) > 1 {
		if run = command(os.Args[1]); run != nil {
			os.Args = os.Args[1:]
		}
	}
	if run == nil {
		os.Stderr.WriteString(%q)
		os.Exit(2)
	}
	run()
}
`, "call this program by one of its names, or with one as first argument: "+strings.Join(names, ", ")+"\n")
	return s.String()
}

// copyCommand copies a main package out of its module and makes it importable.
func (b *bench) copyCommand(pkg string) error {
	module := ""
	for path := range b.dirs {
		if inModule(pkg, path) && len(path) > len(module) {
			module = path
		}
	}
	if module == "" {
		return errors.New("none of the program's modules has it")
	}
	dir := filepath.Join(b.dirs[module], filepath.FromSlash(strings.TrimPrefix(pkg, module)))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("its module has no such directory: %w", err)
	}
	found := false
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		changed, hasMain, err := asPackage(text)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
		if changed == nil {
			continue
		}
		found = found || hasMain
		if err := b.write("commands/"+commandName(pkg)+"/"+e.Name(), string(changed)); err != nil {
			return err
		}
	}
	if !found {
		return errors.New("it is no command: it has no function main")
	}
	return nil
}

// asPackage turns a file of package main into one of package command, with main as Main. Files of other packages, which
// a build leaves out, give nil.
func asPackage(text []byte) (changed []byte, hasMain bool, err error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "", text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, false, fmt.Errorf("cannot read it as Go: %w", err)
	}
	if f.Name.Name != "main" {
		return nil, false, nil
	}
	for _, group := range f.Comments {
		for _, c := range group.List {
			if strings.HasPrefix(c.Text, "//go:embed ") {
				return nil, false, errors.New("it embeds files, which cannot be copied; build it as a program of its own, with package")
			}
		}
	}
	type edit struct {
		at   int
		text string
	}
	edits := []edit{{set.Position(f.Name.Pos()).Offset, "command"}}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "main" {
			edits = append(edits, edit{set.Position(fn.Name.Pos()).Offset, "Main"})
		}
	}
	for _, e := range slices.Backward(edits) {
		text = slices.Concat(text[:e.at], []byte(e.text), text[e.at+len("main"):])
	}
	return text, len(edits) > 1, nil
}

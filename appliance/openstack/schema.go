package openstack

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// heads returns the newest revisions of a directory of migrations (alembic: each file names its revision and what that follows
// or depends on; a head is what none follows). There is one, or one of each branch.
func heads(dir fs.FS) ([]string, error) {
	revisions, followed := []string{}, map[string]bool{}
	err := fs.WalkDir(dir, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Ext(name) != ".py" {
			return err
		}
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return err
		}
		revision, follows := parseMigration(string(text))
		if revision != "" {
			revisions = append(revisions, revision)
		}
		for _, f := range follows {
			followed[f] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read migrations: %w", err)
	}
	revisions = slices.DeleteFunc(revisions, func(r string) bool { return followed[r] })
	slices.Sort(revisions)
	if len(revisions) == 0 {
		return nil, errors.New("cannot read migrations: there is none")
	}
	return slices.Compact(revisions), nil
}

// parseMigration reads the revision of a migration, empty where the file is none, and those that it follows. The assignments
// are of literals, which may go over several lines in brackets.
func parseMigration(text string) (revision string, follows []string) {
	assignment := regexp.MustCompile(`(?m)^(revision|down_revision|depends_on)\s*(?::[^=\n]*)?=\s*(\([^)]*\)|\[[^\]]*\]|[^\n]*)`)
	literal := regexp.MustCompile(`'([^'\n]*)'|"([^"\n]*)"`)
	for _, found := range assignment.FindAllStringSubmatch(text, -1) {
		for _, word := range literal.FindAllStringSubmatch(found[2], -1) {
			value := strings.TrimSpace(word[1] + word[2])
			if found[1] == "revision" {
				revision = value
			} else {
				follows = append(follows, value)
			}
		}
	}
	return revision, follows
}

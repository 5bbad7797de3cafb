// Package recipes holds the recipes that come with the roost command, as data: recipes and their locks, the parts they are
// layered from, the archive's public keys, and the table of user and group ids that every image shares.
package recipes

import (
	"embed"
	"io/fs"
)

//go:embed *.yaml *.lock parts keys
var files embed.FS

// FS returns the shipped files. Recipes name them with the prefix "roost:".
func FS() fs.FS { return files }

package openstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// asked gives a fact or an act the database.
func (b *bringUp) asked(f func(context.Context, Database) error) func(context.Context) error {
	return func(ctx context.Context) error {
		open := b.controller.Open
		if open == nil {
			open = openDatabase
		}
		db, err := open(b.at(database))
		if err != nil {
			return err
		}
		defer db.Close()
		return f(ctx, db)
	}
}

// hasSchema asks whether a schema's tables are those of the image's programs.
func (b *bringUp) hasSchema(s schema) func(context.Context) error {
	return b.asked(func(ctx context.Context, db Database) error {
		want, err := b.headsOf(s.migrations)
		if err != nil {
			return err
		}
		return hasRevision(ctx, db, s.name, want)
	})
}

func (b *bringUp) headsOf(dir string) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if list, ok := b.controller.heads[dir]; ok {
		return list, nil
	}
	list, err := heads(os.DirFS(b.at(filepath.Join(modules, dir))))
	if err != nil {
		return nil, err
	}
	if b.controller.heads == nil {
		b.controller.heads = map[string][]string{}
	}
	b.controller.heads[dir] = list
	return list, nil
}

// hasCells asks for nova's two cells: that of machines that were placed nowhere, and that of all others.
func (b *bringUp) hasCells(ctx context.Context) error {
	return b.asked(func(ctx context.Context, db Database) error {
		names, err := db.Query(ctx, "SELECT name FROM nova_api.cell_mappings")
		if err != nil {
			return err
		}
		for _, name := range []string{"cell0", "cell1"} {
			if !slices.Contains(names, name) {
				return fmt.Errorf("nova has no %s yet", name)
			}
		}
		return nil
	})(ctx)
}

// hasAdministrator asks keystone's tables for a user admin who has a role. Whether the password is the site's shows at the
// first token.
func (b *bringUp) hasAdministrator(ctx context.Context) error {
	return b.asked(func(ctx context.Context, db Database) error {
		names, err := db.Query(ctx, "SELECT l.name FROM keystone.local_user l JOIN keystone.assignment a ON a.actor_id = l.user_id JOIN keystone.endpoint e WHERE l.name = 'admin'")
		if err == nil && len(names) == 0 {
			err = errors.New("keystone has no administrator yet")
		}
		return err
	})(ctx)
}

// everything is a plan with all that a plan may have.
func everything() plan { return plan{ceph: &storage{}} }

package openstack

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/go-sql-driver/mysql"
)

// Database is the control plane's database as its administrator sees it.
type Database interface {
	Query(ctx context.Context, query string) ([]string, error) // the first column
	Exec(ctx context.Context, query string) error
	Close() error
}

// openDatabase reaches the database over its socket, where it knows root by the user id.
func openDatabase(socket string) (Database, error) {
	config := mysql.NewConfig()
	config.User, config.Net, config.Addr = "root", "unix", socket
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the database: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(1)
	return (*served)(db), nil
}

// served is a database that a server serves.
type served sql.DB

func (s *served) Close() error { return (*sql.DB)(s).Close() }

func (s *served) Exec(ctx context.Context, query string) error {
	if _, err := (*sql.DB)(s).ExecContext(ctx, query); err != nil {
		return fmt.Errorf("cannot change the database: %w", err)
	}
	return nil
}

func (s *served) Query(ctx context.Context, query string) (list []string, err error) {
	rows, err := (*sql.DB)(s).QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the database: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, fmt.Errorf("cannot ask the database: %w", err)
		}
		list = append(list, text)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot ask the database: %w", err)
	}
	return list, nil
}

// hasDatabases asks for every schema and for the user whose it is.
func hasDatabases(ctx context.Context, db Database) error {
	have, err := db.Query(ctx, "SELECT CONCAT(db, ' ', user) FROM mysql.db")
	if err != nil {
		return err
	}
	there, err := db.Query(ctx, "SELECT schema_name FROM information_schema.schemata")
	if err != nil {
		return err
	}
	for _, x := range allProjects() {
		for _, s := range x.schemas {
			if !slices.Contains(there, s.name) {
				return fmt.Errorf("no database %s yet", s.name)
			}
			if !slices.Contains(have, s.name+" "+x.user) {
				return fmt.Errorf("database %s is not %s's yet", s.name, x.user)
			}
		}
	}
	return nil
}

// makeDatabases makes every schema for its user, who is known by the user id of the process that calls.
func makeDatabases(ctx context.Context, db Database) error {
	for _, x := range allProjects() {
		for _, s := range x.schemas {
			for _, statement := range []string{
				fmt.Sprintf("CREATE DATABASE IF NOT EXISTS `%s`", s.name),
				fmt.Sprintf("CREATE USER IF NOT EXISTS '%s'@'localhost' IDENTIFIED VIA unix_socket", x.user),
				fmt.Sprintf("GRANT ALL PRIVILEGES ON `%s`.* TO '%s'@'localhost'", s.name, x.user),
			} {
				if err := db.Exec(ctx, statement); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// hasRevision compares the revisions of a schema's tables with those that the image has migrations to.
func hasRevision(ctx context.Context, db Database, name string, want []string) error {
	have, err := db.Query(ctx, fmt.Sprintf("SELECT version_num FROM `%s`.alembic_version", name))
	if err != nil {
		return err
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		return fmt.Errorf("tables of %s are at %v, the image's programs want %v", name, have, want)
	}
	return nil
}

package openstack

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"roost/appliance/api"
)

// plan is all that this host's files are made of.
type plan struct {
	wish    api.OpenStack // with defaults
	node    string        // name of this host
	address string        // of this host, where others reach it
	secrets map[string]string
	ceph    *storage // of the site; nil: images are files, and there are no volumes
}

// Places on the machine, below its root.
const (
	unitDir    = "run/systemd/system"
	runDir     = "run/roost/openstack"     // settings; gone with the boot
	keyDir     = "var/lib/roost/openstack" // secrets, key and certificates of this host
	neutronIni = runDir + "/neutron-uwsgi.ini"
	caFile     = runDir + "/ca.crt" // the site's root certificate
	frontAt    = runDir + "/front.json"
	bootEnv    = runDir + "/bootstrap.env"
	database   = "run/mysqld/mysqld.sock"
	cacheAt    = "run/memcached/memcached.sock"
	modules    = "usr/lib/python3/dist-packages"
)

// schema is a database and where the revisions of its tables are.
type schema struct {
	name       string
	migrations string // directory of the image with alembic's revisions; empty: another schema's sync makes it
}

// project is one project of OpenStack that has an API.
type project struct {
	name    string
	kind    string // in the catalogue; empty: it is not there
	title   string // likewise
	user    string // the service runs as, and is in the database
	port    int    // where the front listens for it
	path    string // of its endpoint
	script  string // WSGI program, below /usr/bin unless it is absolute
	args    []string
	env     string // tells it where its settings are, NAME=VALUE
	health  string // path that answers without a token
	schemas []schema
}

// The projects, in the order in which they are most missed.
func allProjects() []project {
	return []project{
		{name: "keystone", env: "OS_KEYSTONE_CONFIG_FILES=%d/keystone.conf", kind: "identity", title: "keystone", user: "keystone", port: 5000, path: "/v3", script: "keystone-wsgi-public", health: "/v3",
			schemas: []schema{{"keystone", "keystone/common/sql/migrations/versions"}}},
		{name: "placement", env: "OS_PLACEMENT_CONFIG_DIR=%d", kind: "placement", title: "placement", user: "placement", port: 8778, script: "placement-api", health: "/",
			schemas: []schema{{"placement", "placement/db/sqlalchemy/alembic/versions"}}},
		{name: "glance", env: "OS_GLANCE_CONFIG_DIR=%d", kind: "image", title: "glance", user: "glance", port: 9292, script: "glance-wsgi-api", health: "/healthcheck",
			schemas: []schema{{"glance", "glance/db/sqlalchemy/alembic_migrations/versions"}}},
		{name: "neutron", env: "OS_NEUTRON_CONFIG_FILES=%d/neutron.conf", kind: "network", title: "neutron", user: "neutron", port: 9696, script: "neutron-api", health: "/healthcheck",
			args:    []string{"--ini", "/" + neutronIni},
			schemas: []schema{{"neutron", "neutron/db/migration/alembic_migrations/versions"}}},
		{name: "nova", env: "OS_NOVA_CONFIG_FILES=/etc/nova/api-paste.ini;%d/nova.conf", kind: "compute", title: "nova", user: "nova", port: 8774, path: "/v2.1", script: "nova-api-wsgi", health: "/",
			schemas: []schema{{"nova_api", "nova/db/api/migrations/versions"}, {"nova", "nova/db/main/migrations/versions"}, {"nova_cell0", "nova/db/main/migrations/versions"}}},
		{name: "cinder", kind: "volumev3", title: "cinderv3", user: "cinder", port: 8776, path: "/v3/%(project_id)s", script: "cinder-wsgi", args: []string{"--pyargv", "--config-file=%d/cinder.conf"}, health: "/",
			schemas: []schema{{"cinder", "cinder/db/migrations/versions"}}},
		{name: "nova-metadata", env: "OS_NOVA_CONFIG_FILES=/etc/nova/api-paste.ini;%d/nova.conf", user: "nova", port: 8775, script: "nova-metadata-wsgi", health: "/"},
		{name: "horizon", user: "horizon", port: 443, script: "/usr/share/openstack-dashboard/wsgi.py", health: "/static/dashboard/manifest.json",
			args: []string{"--static-map", "/static=/usr/share/openstack-dashboard/static"}},
	}
}

// socketOf is where a project's API listens.
func socketOf(name string) string { return "run/openstack-" + name + "/api.sock" }

// unitOf is the name of a project's unit.
func unitOf(name string) string { return "openstack-" + name + ".service" }

func (p plan) url(port int, path string) string {
	host := p.address
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("https://%s:%d%s", host, port, path)
}

func (p plan) keystone() string { return p.url(5000, "/v3") }

// unit is a systemd service of ours.
type unit struct {
	name, description string
	user              string // and group
	once              bool   // runs to its end
	open              bool   // it shares the host's mounts and devices; what it may do, its capabilities say
	groups            []string
	wants             []string   // units that are to be started before it
	conditions        []string   // lines of [Unit]
	before            [][]string // commands before the program
	exec              []string   // program and arguments
	lines             []string   // of [Service]
	writes            []string   // directories it may write to
	keys              []string   // files that systemd hands to it, which nobody else may read
	uses              []string   // files it reads itself
}

// inputs are the files that a service reads when it starts; one that is newer than the running service asks for a restart.
func (u unit) inputs() []string {
	return append(append([]string{unitDir + "/" + u.name}, u.keys...), u.uses...)
}

// confinement is what a service gets that needs no rights. Python's interface to C wants pages that are both written and run.
func confinement() []string {
	return []string{
		"NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "PrivateDevices=yes", "ProtectKernelTunables=yes", "ProtectKernelModules=yes",
		"ProtectKernelLogs=yes", "ProtectControlGroups=yes", "ProtectClock=yes", "ProtectHostname=yes", "RestrictSUIDSGID=yes", "RestrictRealtime=yes", "RestrictNamespaces=yes",
		"LockPersonality=yes", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK", "SystemCallArchitectures=native", "UMask=0027",
	}
}

// text is the unit's file (systemd.unit(5)).
func (u unit) text() string {
	lines := append([]string{"[Unit]", "Description=" + u.description, "StartLimitIntervalSec=0"}, u.conditions...)
	for _, w := range u.wants {
		lines = append(lines, "Wants="+w, "After="+w)
	}
	lines = append(lines, "[Service]")
	if u.user != "root" { // whom systemd would leave fewer capabilities than the unit names
		lines = append(lines, "User="+u.user, "Group="+u.user)
	}
	if u.once {
		lines = append(lines, "Type=oneshot", "TimeoutStartSec=10min")
	} else {
		lines = append(lines, "Restart=always", "RestartSec=1")
	}
	if len(u.groups) > 0 {
		lines = append(lines, "SupplementaryGroups="+strings.Join(u.groups, " "))
	}
	for _, key := range u.keys {
		lines = append(lines, "LoadCredential="+path.Base(key)+":/"+key)
	}
	for _, c := range u.before {
		start := "ExecStartPre="
		if u.once {
			start = "ExecStart="
		}
		lines = append(lines, start+strings.Join(c, " \\\n  "))
	}
	lines = append(lines, "ExecStart="+strings.Join(u.exec, " \\\n  "))
	if u.open {
		lines = append(lines, "NoNewPrivileges=yes", "LockPersonality=yes", "SystemCallArchitectures=native", "UMask=0027")
	} else {
		lines = append(lines, confinement()...)
	}
	if !slices.ContainsFunc(u.lines, func(l string) bool { return strings.HasPrefix(l, "CapabilityBoundingSet=") }) {
		lines = append(lines, "CapabilityBoundingSet=")
	}
	for _, w := range u.writes {
		lines = append(lines, "ReadWritePaths="+w)
	}
	return strings.Join(append(lines, u.lines...), "\n") + "\n"
}

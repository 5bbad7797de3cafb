package openstack

import (
	"fmt"
	"path"
	"strings"
)

// Units of the control plane that are no project's API.
const (
	unitMakeDatabase = "openstack-make-database.service"
	unitDatabase     = "openstack-database.service"
	unitQueue        = "openstack-queue.service"
	unitCache        = "openstack-cache.service"
	unitFront        = "openstack-front.service"
	unitNorth        = "openstack-ovn-nb.service"
	unitSouth        = "openstack-ovn-sb.service"
	unitNorthd       = "openstack-ovn-northd.service"
	unitConductor    = "openstack-nova-conductor.service"
	unitScheduler    = "openstack-nova-scheduler.service"
	unitMaintenance  = "openstack-neutron-maintenance.service"
	unitVolumes      = "openstack-cinder-scheduler.service"
	unitVolume       = "openstack-cinder-volume.service"
	unitBootstrap    = "openstack-keystone-bootstrap.service"
	unitCells        = "openstack-nova-cells.service"
)

// syncOf is the unit that brings a schema to the image's revision.
func syncOf(s schema) string {
	return "openstack-sync-" + strings.ReplaceAll(s.name, "_", "-") + ".service"
}

// Ports of the screens of virtual machines: of the front, and behind it.
const (
	portConsole      = 6080
	portConsoleLocal = 6079
)

const (
	databaseDir = "/var/lib/mysql/data"
	databaseNew = "/var/lib/mysql/new" // until it is whole
	databaseSet = runDir + "/mariadb.cnf"
	frontUser   = "www-data"
	cacheGroup  = "memcache"
)

// units returns the services of a controller.
func (p plan) units() []unit {
	list := append(p.stores(), p.front())
	for _, x := range allProjects() {
		u := p.api(x)
		if x.name == "glance" {
			u = p.useCeph(u, x.user)
		}
		list = append(list, u)
	}
	list = append(list, p.workers()...)
	return append(list, p.errands()...)
}

// stores are where the control plane's state is.
func (p plan) stores() []unit {
	rabbit := []string{
		"Type=notify", "NotifyAccess=all", "TimeoutStartSec=5min", "LimitNOFILE=65536", "WorkingDirectory=/var/lib/rabbitmq", "RuntimeDirectory=openstack-queue",
		// All that it holds are questions and answers between services that run; its users are in its settings. What a start broken off
		// leaves would keep it from starting, and this goes with the unit.
		"RuntimeDirectoryMode=0700", "Environment=RABBITMQ_MNESIA_BASE=/run/openstack-queue/state",
		"Environment=HOME=/run/openstack-queue", "Environment=RABBITMQ_CONFIG_FILE=%d/rabbitmq.conf",
		"Environment=RABBITMQ_NODENAME=rabbit@localhost", "Environment=ERL_EPMD_ADDRESS=127.0.0.1", "Environment=RABBITMQ_LOGS=-",
		// It is one node, for this host alone; schedulers that spin while they wait would take a core from others.
		`Environment="RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"`,
		"SuccessExitStatus=143",
	}
	return []unit{
		{name: unitDatabase, description: "Database of OpenStack", user: "mysql", exec: []string{"/usr/sbin/mariadbd", "--defaults-file=/" + databaseSet},
			wants: []string{unitMakeDatabase}, lines: []string{"Type=notify", "TimeoutStartSec=15min", "TimeoutStopSec=15min", "RuntimeDirectory=mysqld", "LimitNOFILE=32768"},
			writes: []string{"/var/lib/mysql"}, uses: []string{databaseSet}},
		{name: unitQueue, description: "Message queue of OpenStack", user: "rabbitmq", exec: []string{"/usr/lib/rabbitmq/bin/rabbitmq-server"},
			before: [][]string{{"/usr/bin/install", "-m", "0400", "%d/erlang.cookie", "/run/openstack-queue/.erlang.cookie"}},
			lines:  rabbit, writes: []string{"/var/lib/rabbitmq"}, keys: []string{runDir + "/rabbitmq.conf", runDir + "/definitions.json", runDir + "/erlang.cookie"}},
		{name: unitCache, description: "Cache of OpenStack", user: "memcache", exec: []string{"/usr/bin/memcached", "-s", "/" + cacheAt, "-a", "0660", "-m", "64"},
			lines: []string{"Type=exec", "RuntimeDirectory=memcached", "MemoryDenyWriteExecute=yes"}},
		ovsdb(unitNorth, "nb"), ovsdb(unitSouth, "sb"),
		{name: unitNorthd, description: "OVN, from wishes to flows", user: "neutron",
			exec:  []string{"/usr/bin/ovn-northd", "--ovnnb-db=unix:/" + ovnSocket("nb"), "--ovnsb-db=unix:/" + ovnSocket("sb"), "--unixctl=/run/openstack-ovn-northd/ctl"},
			lines: []string{"Type=exec", "RuntimeDirectory=openstack-ovn-northd"}},
	}
}

func ovnSocket(which string) string { return "run/openstack-ovn-" + which + "/db.sock" }

// ovsdb serves one of OVN's databases. It is brought to the image's schema at every start, which does nothing where it has it.
func ovsdb(name, which string) unit {
	file, schema := "/var/lib/ovn/"+which+".db", "/usr/share/ovn/ovn-"+which+".ovsschema"
	return unit{
		name: name, description: "OVN, database " + which, user: "neutron", writes: []string{"/var/lib/ovn"},
		before: [][]string{{"-/usr/bin/ovsdb-tool", "create", file, schema}, {"/usr/bin/ovsdb-tool", "convert", file, schema}},
		exec: []string{"/usr/sbin/ovsdb-server", "--remote=punix:/" + ovnSocket(which), "--unixctl=/" + path.Dir(ovnSocket(which)) + "/ctl",
			"--pidfile=/" + path.Dir(ovnSocket(which)) + "/pid", file},
		lines: []string{"Type=exec", "RuntimeDirectory=" + path.Base(path.Dir(ovnSocket(which))), "StateDirectory=ovn", "UMask=0007"}, // its group may write to the socket
	}
}

// front is what others reach.
func (p plan) front() unit {
	return unit{
		name: unitFront, description: "TLS in front of OpenStack", user: frontUser, exec: []string{"/usr/bin/roostd", "front", "/" + frontAt},
		keys: []string{keyDir + "/server.crt", keyDir + "/server.key"}, uses: []string{frontAt},
		lines: []string{"Type=notify", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE", "AmbientCapabilities=CAP_NET_BIND_SERVICE", "MemoryDenyWriteExecute=yes",
			"Environment=GOGC=50"},
	}
}

// api serves a project's API to the front, on a socket that only it reaches.
func (p plan) api(x project) unit {
	script := x.script
	if !strings.HasPrefix(script, "/") {
		script = "/usr/bin/" + script
	}
	dir, threads := path.Dir(socketOf(x.name)), "4"
	if x.user == "nova" {
		threads = "1" // it has threads of its own (eventlet), which hang when one of Python's wakes another's
	}
	u := unit{
		name: unitOf(x.name), description: "OpenStack " + x.name, user: x.user, groups: []string{frontUser, cacheGroup}, writes: stateOf(x.user), keys: keysOf(x.user), uses: []string{caFile},
		exec: append([]string{
			"/usr/bin/uwsgi_python3", "--http-socket", "/" + socketOf(x.name), "--chmod-socket=660", "--chown-socket", x.user + ":" + frontUser,
			"--processes", "1", "--threads", threads, "--enable-threads", "--need-app", "--buffer-size", "65535",
			"--disable-logging", "--log-5xx", "--wsgi-file", script,
		}, x.args...),
		lines: []string{"Type=exec", "RuntimeDirectory=" + path.Base(dir), "WorkingDirectory=" + homeOf(x.user), "KillSignal=SIGINT", "LimitNOFILE=65536", "Environment=MALLOC_ARENA_MAX=1",
			"Environment=OS_OSLO_MESSAGING_RABBIT__PROCESSNAME=" + x.name},
	}
	if x.env != "" {
		u.lines = append(u.lines, "Environment="+x.env)
	}
	if x.name == "keystone" {
		u.before, u.lines = installFernet(), append(u.lines, "RuntimeDirectoryPreserve=yes")
	}
	return u
}

// installFernet copies keystone's keys to the directories where it wants them.
func installFernet() [][]string {
	list := [][]string{{"/usr/bin/install", "-d", "-m", "0700", "/run/openstack-keystone/fernet-keys", "/run/openstack-keystone/credential-keys"}}
	for _, key := range fernetFiles() {
		list = append(list, []string{"/usr/bin/install", "-m", "0400", "%d/" + path.Base(keyFile(key)), "/run/openstack-keystone/" + key})
	}
	return list
}

// keyFile is where a key of keystone's lies until systemd hands it over.
func keyFile(key string) string { return runDir + "/" + strings.ReplaceAll(key, "/", "-") }

// keysOf are the settings of the services that run as a user.
func keysOf(user string) (list []string) {
	switch user {
	case "horizon":
		return []string{runDir + "/horizon.key"}
	case "glance":
		return []string{runDir + "/glance-api.conf"}
	case "keystone":
		for _, key := range fernetFiles() {
			list = append(list, keyFile(key))
		}
	}
	return append(list, runDir+"/"+user+".conf")
}

func homeOf(user string) string {
	if user == "horizon" {
		return "/var/lib/openstack-dashboard"
	}
	return "/var/lib/" + user
}

func stateOf(user string) []string { return []string{homeOf(user)} }

// worker is a daemon beside the APIs.
func worker(name, user, program string) unit {
	return unit{
		name: name, description: "OpenStack " + strings.TrimSuffix(strings.TrimPrefix(name, "openstack-"), ".service"), user: user, groups: []string{cacheGroup},
		exec: []string{"/usr/bin/" + program, "--config-file=%d/" + user + ".conf"}, writes: stateOf(user), keys: keysOf(user), uses: []string{caFile},
		lines: []string{"Type=exec", "WorkingDirectory=" + homeOf(user), "LimitNOFILE=65536", "Environment=MALLOC_ARENA_MAX=1"},
	}
}

func (p plan) workers() []unit {
	list := []unit{
		worker(unitConductor, "nova", "nova-conductor"),
		worker(unitScheduler, "nova", "nova-scheduler"),
		worker(unitMaintenance, "neutron", "neutron-ovn-maintenance-worker"),
		worker(unitVolumes, "cinder", "cinder-scheduler"),
	}
	if p.ceph != nil {
		list = append(list, p.volumeUnit())
	}
	return list
}

// errands are programs that run to their end.
func (p plan) errands() []unit {
	errand := func(name, user string, exec ...string) unit {
		return unit{name: name, description: "OpenStack, once: " + strings.TrimSuffix(strings.TrimPrefix(name, "openstack-"), ".service"), user: user, once: true,
			exec: exec, writes: stateOf(user), keys: keysOf(user), uses: []string{caFile}, lines: []string{"WorkingDirectory=" + homeOf(user)}}
	}
	manage := func(program, settings string, args ...string) []string {
		return append([]string{"/usr/bin/" + program, "--config-file=%d/" + settings}, args...)
	}
	// What is made is moved to its place when it is whole and on the disk.
	database := errand(unitMakeDatabase, "mysql", "/usr/bin/sync", "-f", "/var/lib/mysql")
	database.conditions, database.keys = []string{"ConditionPathExists=!" + databaseDir}, nil
	database.before = [][]string{
		{"/usr/bin/rm", "-rf", databaseNew},
		{"/usr/bin/mariadb-install-db", "--defaults-file=/" + databaseSet, "--datadir=" + databaseNew, "--auth-root-authentication-method=socket",
			"--auth-root-socket-user=root", "--skip-test-db"},
		{"/usr/bin/sync", "-f", "/var/lib/mysql"},
		{"/usr/bin/mv", "-T", databaseNew, databaseDir},
	}
	bootstrap := errand(unitBootstrap, "keystone", manage("keystone-manage", "keystone.conf", "bootstrap", "--bootstrap-username", "admin",
		"--bootstrap-project-name", "admin", "--bootstrap-role-name", "admin", "--bootstrap-service-name", "keystone", "--bootstrap-region-id", p.wish.Region,
		"--bootstrap-public-url", p.keystone(), "--bootstrap-internal-url", p.keystone())...)
	bootstrap.before = installFernet()
	bootstrap.lines = append(bootstrap.lines, "EnvironmentFile=/"+bootEnv, "RuntimeDirectory=openstack-keystone", "RuntimeDirectoryPreserve=yes")
	cells := errand(unitCells, "nova", manage("nova-manage", "nova.conf", "cell_v2", "create_cell", "--name", "cell1", "--database_connection", cell("nova"),
		"--transport-url", "{scheme}://{username}:{password}@{hostname}:{port}/{path}")...)
	cells.before = [][]string{manage("nova-manage", "nova.conf", "cell_v2", "map_cell0", "--database_connection", cell("nova_cell0"))}
	return []unit{
		database, bootstrap, cells,
		errand("openstack-sync-keystone.service", "keystone", manage("keystone-manage", "keystone.conf", "db_sync")...),
		errand("openstack-sync-placement.service", "placement", manage("placement-manage", "placement.conf", "db", "sync")...),
		errand("openstack-sync-glance.service", "glance", manage("glance-manage", "glance-api.conf", "db_sync")...),
		errand("openstack-sync-neutron.service", "neutron", manage("neutron-db-manage", "neutron.conf", "upgrade", "heads")...),
		errand("openstack-sync-nova-api.service", "nova", manage("nova-manage", "nova.conf", "api_db", "sync")...),
		errand("openstack-sync-nova.service", "nova", manage("nova-manage", "nova.conf", "db", "sync")...), // and that of cell 0
		errand("openstack-sync-cinder.service", "cinder", manage("cinder-manage", "cinder.conf", "db", "sync")...),
	}
}

// cell is a database as nova's table of cells has it: without what is in its settings anyway.
func cell(name string) string {
	return fmt.Sprintf("{scheme}://{username}@{hostname}/%s?{query}", name)
}

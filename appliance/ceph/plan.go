package ceph

import (
	"fmt"
	"net/netip"
	"strings"

	"roost/appliance/api"
)

// Places on the machine, below its root.
const (
	runDir  = "run/roost/ceph"     // keys that services are handed; gone with the boot
	unitDir = "run/systemd/system" // likewise
	confDir = "etc/ceph"           // likewise: /etc is volatile
	keyDir  = "var/lib/roost/ceph" // keys and notes of this host
	dataDir = "/var/lib/ceph"      // Ceph's own
)

// plan is all that this host's files are made of.
type plan struct {
	wish    api.Ceph // with defaults
	node    string
	monitor netip.Addr // of the site
	address netip.Addr // of this host, for clients
	inner   netip.Addr // of this host, for other OSDs
	control bool       // runs the monitor and the manager
	memory  int64      // of this host, bytes
}

// file is one that a plan means.
type file struct {
	path string
	mode uint32
	text string
}

// files returns the settings and units of this host, less those of its OSDs. keys are the site's answer: users to keys.
func (p plan) files(keys map[string]string) []file {
	files := []file{
		{confDir + "/ceph.conf", 0o644, p.settings(keys[secretFSID])},
		keyFile(confDir, userBootstrap, keys),
	}
	if !p.control {
		return files
	}
	files = append(files,
		keyFile(confDir, userAdmin, keys),
		file{runDir + "/monitor.keyring", 0o600, p.users(keys)},
		file{runDir + "/manager.keyring", 0o600, keyring(manager(p.node), keys[manager(p.node)], nil)})
	units := []unit{p.makeMonitor(keys[secretFSID]), p.runMonitor(), p.runManager()}
	if p.wish.Files {
		files = append(files, file{runDir + "/metadata.keyring", 0o600, keyring(metadata(p.node), keys[metadata(p.node)], nil)})
		units = append(units, p.runMetadata())
	}
	if p.wish.Objects {
		files = append(files, file{runDir + "/gateway.keyring", 0o600, keyring(gateway(p.node), keys[gateway(p.node)], nil)})
		units = append(units, p.runGateway())
	}
	for _, u := range units {
		files = append(files, u.file())
	}
	return files
}

func keyFile(dir, user string, keys map[string]string) file {
	return file{dir + "/ceph." + user + ".keyring", 0o600, keyring(user, keys[user], nil)}
}

// users is the keyring with which the monitor is made: everybody whom it shall know from the start.
func (p plan) users(keys map[string]string) (text string) {
	for _, user := range []string{userMonitor, userAdmin, userBootstrap, userReader, manager(p.node)} {
		text += keyring(user, keys[user], rights(user, nil))
	}
	return text + p.clients(keys)
}

// clients is the keyring of those whom pools are for.
func (p plan) clients(keys map[string]string) (text string) {
	for _, user := range poolUsers() {
		text += keyring(user, keys[user], rights(user, p.wish.Pools))
	}
	return text
}

// settings is ceph.conf. Everything else is as Ceph comes.
func (p plan) settings(fsid string) string {
	redundant := p.wish.Copies > 1
	lines := []string{
		"[global]",
		"fsid = " + fsid,
		"mon_host = " + monitor(p.monitor),
		"public_addr = " + p.address.String(),
		"cluster_addr = " + p.inner.String(),
		fmt.Sprintf("ms_bind_ipv4 = %v", p.address.Is4()),
		fmt.Sprintf("ms_bind_ipv6 = %v", p.address.Is6()),
		"auth_allow_insecure_global_id_reclaim = false",
		fmt.Sprintf("osd_pool_default_size = %d", p.wish.Copies),
		fmt.Sprintf("osd_pool_default_min_size = %d", least(p.wish.Copies)),
		// A site of three disks with all uses of Ceph has a dozen pools, and a disk takes 250 placement groups (mon_max_pg_per_osd).
		// The manager gives a pool more as it fills.
		"osd_pool_default_pg_num = 8",
		"# Copies are on different disks; a site of one host has no more to offer.",
		"osd_crush_chooseleaf_type = 0",
	}
	if !redundant {
		lines = append(lines, "# The site document asks for one copy, so that there is no other is no news.",
			"mon_allow_pool_size_one = true", "mon_warn_on_pool_no_redundancy = false")
	}
	return strings.Join(append(lines,
		"# The journal has the errors; files would be kept, and grow, beside it.",
		"log_to_file = false", "mon_cluster_log_to_file = false",
		"[mon]",
		"mgr_initial_modules = prometheus",
		"# The state partition is shared and large: shares of it that are right for a disk of the monitor's own are not.",
		"mon_data_avail_warn = 5", "mon_data_avail_crit = 2",
		fmt.Sprintf("mon_memory_target = %d", 512<<20),
		fmt.Sprintf("rocksdb_cache_size = %d", 64<<20),
		"[mgr]",
		"# Each module that could be used costs memory; these cannot be, or report to others than Prometheus.",
		"mgr_disabled_modules = alerts,influx,insights,localpool,osd_support,restful,selftest,telegraf,test_orchestrator,zabbix",
		"[osd]",
		fmt.Sprintf("osd_memory_target = %d", osdMemory(p.memory)),
		"osd_numa_auto_affinity = false",
	), "\n") + "\n"
}

// pools are those that the cluster is to have.
func (p plan) pools() (list []wishedPool) {
	for _, name := range p.wish.Pools {
		list = append(list, wishedPool{name: name, application: "rbd"})
	}
	if p.wish.Files {
		list = append(list, filePools()...)
	}
	if p.wish.Objects {
		list = append(list, objectPools()...)
	}
	return list
}

// least is of how many copies a write needs before it is answered: half of them, rounded up, as Ceph has it.
func least(copies int) int { return copies - copies/2 }

// osdMemory is what an OSD may use of a host's memory, for the most part as a cache: less than Ceph's own 4 GiB, which is for
// hosts that do nothing else.
func osdMemory(total int64) int64 {
	const gib = 1 << 30
	switch {
	case total >= 64*gib:
		return 2 * gib
	case total >= 24*gib:
		return 3 * gib / 2
	}
	return gib
}

// unit is a systemd service of ours (systemd.unit(5)).
type unit struct {
	name, description string
	head              []string    // lines of [Unit]
	keys              [][2]string // files that systemd hands to the service: name, path below the root
	lines             []string    // lines of [Service]
}

func (u unit) file() file {
	text := "[Unit]\nDescription=" + u.description + "\n"
	for _, line := range u.head {
		text += line + "\n"
	}
	text += "[Service]\n"
	for _, key := range u.keys {
		text += "LoadCredential=" + key[0] + ":/" + key[1] + "\n"
	}
	return file{unitDir + "/" + u.name, 0o644, text + strings.Join(u.lines, "\n") + "\n"}
}

// inputs are the files with which the service runs; a newer one asks for a restart.
func (u unit) inputs() []string {
	list := []string{u.file().path, confDir + "/ceph.conf"}
	for _, key := range u.keys {
		list = append(list, key[1])
	}
	return list
}

// confined is what services get that need nothing but Ceph's own directories.
func confined() []string {
	return []string{
		"User=ceph", "Group=ceph", "NoNewPrivileges=yes", "ProtectSystem=strict", "ReadWritePaths=/var/lib/ceph /run/ceph", "ProtectHome=yes", "PrivateTmp=yes",
		"ProtectKernelTunables=yes", "ProtectKernelModules=yes", "ProtectControlGroups=yes", "ProtectHostname=yes", "RestrictSUIDSGID=yes", "RestrictRealtime=yes",
		"RestrictNamespaces=yes", "LockPersonality=yes", "SystemCallArchitectures=native",
	}
}

func once() []string { return append([]string{"Type=oneshot", "TimeoutStartSec=5min"}, confined()...) }

func always() []string {
	return append([]string{"Type=exec", "Restart=always", "RestartSec=2", "LimitNOFILE=1048576", "TasksMax=infinity"}, confined()...)
}

func (p plan) makeMonitor(fsid string) unit {
	const scratch = dataDir + "/mon/new"
	final := dataDir + "/mon/ceph-" + p.node
	return unit{
		name: "ceph-mon-make.service", description: "Make the Ceph monitor",
		head: []string{"ConditionPathExists=!" + final},
		keys: [][2]string{{"users", runDir + "/monitor.keyring"}},
		lines: append(once(),
			"ExecStart=/usr/bin/rm -rf "+scratch,
			"ExecStart=/usr/bin/mkdir -m 0700 "+scratch,
			"ExecStart=/usr/bin/monmaptool --create --clobber --fsid "+fsid+" --addv "+p.node+" "+monitor(p.monitor)+" /tmp/monmap",
			"ExecStart=/usr/bin/ceph-mon --mkfs --id "+p.node+" --mon-data "+scratch+" --monmap /tmp/monmap --keyring %d/users",
			"# Whole or not at all.",
			"ExecStart=/usr/bin/sync --file-system "+scratch,
			"ExecStart=/usr/bin/mv --no-target-directory "+scratch+" "+final,
		),
	}
}

func (p plan) runMonitor() unit {
	return unit{
		name: "ceph-mon@" + p.node + ".service", description: "Ceph monitor " + p.node,
		head:  []string{"Requires=ceph-mon-make.service", "After=ceph-mon-make.service network.target", "StartLimitIntervalSec=0"},
		lines: append(always(), "PrivateDevices=yes", "OOMScoreAdjust=-500", "ExecStart=/usr/bin/ceph-mon --foreground --id "+p.node),
	}
}

func (p plan) runManager() unit {
	return unit{
		name: "ceph-mgr@" + p.node + ".service", description: "Ceph manager " + p.node,
		head: []string{"After=network.target", "StartLimitIntervalSec=0"},
		keys: [][2]string{{"keyring", runDir + "/manager.keyring"}},
		lines: append(always(), "PrivateDevices=yes",
			"ExecStartPre=/usr/bin/mkdir -p "+dataDir+"/mgr/ceph-"+p.node,
			"ExecStart=/usr/bin/ceph-mgr --foreground --id "+p.node+" --keyring %d/keyring"),
	}
}

// place is an OSD's directory, which holds nothing but what the disk's label says.
func (o *osd) place() string { return fmt.Sprintf("%s/osd/ceph-%d", dataDir, o.ID) }

// block is the device that holds the OSD: the disk, or what it holds when opened.
func (o *osd) block() string {
	if o.Encrypted {
		return "/dev/mapper/" + o.mapping()
	}
	return o.Path
}

func (o *osd) mapping() string { return "ceph-" + o.UUID }

func (o *osd) keyringFile() string { return fmt.Sprintf("%s/osd.%d.keyring", runDir, o.ID) }
func (o *osd) diskKeyFile() string { return fmt.Sprintf("%s/%s.key", runDir, o.UUID) }

func (o *osd) keys() [][2]string {
	keys := [][2]string{{"keyring", o.keyringFile()}}
	if o.Encrypted {
		keys = append(keys, [2]string{"disk", o.diskKeyFile()})
	}
	return keys
}

// open lists what makes the device usable to Ceph's user. root keeps it, so the daemon can still look at it.
func (o *osd) open(run string) (lines []string) {
	if o.Encrypted {
		lines = append(lines, run+"=+-/usr/sbin/cryptsetup open --type luks2 --key-file %d/disk "+o.Path+" "+o.mapping())
	}
	return append(lines,
		run+"=+/usr/bin/chgrp ceph "+o.block(),
		run+"=+/usr/bin/chmod 0660 "+o.block())
}

// makeOSD makes the disk an OSD. The disk holds nothing of worth, or the OSD half-made.
func (o *osd) makeOSD() unit {
	lines := append(once(), "RemainAfterExit=yes")
	if o.Encrypted {
		lines = append(lines,
			"ExecStart=+-/usr/sbin/cryptsetup close "+o.mapping(),
			"# The key is random: no work is needed to keep it from being guessed.",
			"ExecStart=+/usr/sbin/cryptsetup luksFormat --batch-mode --type luks2 --uuid "+o.UUID+" --label ceph-osd --pbkdf pbkdf2 --pbkdf-force-iterations 1000"+
				" --key-file %d/disk "+o.Path)
	}
	lines = append(append(lines, o.open("ExecStart")...),
		"ExecStart=/usr/bin/rm -rf "+o.place(),
		"ExecStart=/usr/bin/mkdir -m 0700 "+o.place(),
		"ExecStart=/usr/bin/ln -s "+o.block()+" "+o.place()+"/block",
		fmt.Sprintf("ExecStart=/usr/bin/ceph-osd --mkfs --id %d --osd-uuid %s --osd-objectstore bluestore --keyring %%d/keyring", o.ID, o.UUID))
	return unit{name: fmt.Sprintf("ceph-osd-make@%d.service", o.ID), description: fmt.Sprintf("Make Ceph OSD %d", o.ID), keys: o.keys(), lines: lines}
}

func (o *osd) runOSD() unit {
	lines := append(always(), "OOMScoreAdjust=-300")
	lines = append(append(lines, o.open("ExecStartPre")...),
		"ExecStartPre=/usr/bin/mkdir -p -m 0700 "+o.place(),
		"ExecStartPre=/usr/bin/ceph-bluestore-tool prime-osd-dir --no-mon-config --dev "+o.block()+" --path "+o.place(),
		"ExecStartPre=/usr/bin/ln -sfn "+o.block()+" "+o.place()+"/block",
		fmt.Sprintf("ExecStart=/usr/bin/ceph-osd --foreground --id %d --keyring %%d/keyring", o.ID))
	if o.Encrypted {
		lines = append(lines, "ExecStopPost=+-/usr/sbin/cryptsetup close "+o.mapping())
	}
	return unit{name: fmt.Sprintf("ceph-osd@%d.service", o.ID), description: fmt.Sprintf("Ceph OSD %d", o.ID),
		head: []string{"After=network.target", "StartLimitIntervalSec=0"}, keys: o.keys(), lines: lines}
}

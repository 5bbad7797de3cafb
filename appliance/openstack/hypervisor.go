package openstack

import (
	"fmt"
	"strconv"
	"strings"
)

// hypervisor is all that the files of a host that runs virtual machines are made of.
type hypervisor struct {
	*plan
	control   bool // the control plane is on this host, which leaves less memory for machines
	kvm       bool // the processor runs machines by itself
	switching bool // the kernel switches packets for Open vSwitch; else its daemon does
}

// Units of a host that runs virtual machines.
const (
	unitSwitchDatabase = "openstack-ovs-database.service"
	unitSwitch         = "openstack-ovs-switch.service"
	unitChassis        = "openstack-ovn-controller.service"
	unitMetadata       = "openstack-ovn-metadata.service"
	unitGuestLog       = "openstack-virtlogd.service"
	unitLibvirt        = "openstack-libvirt.service"
	unitGuests         = "openstack-guests.service"
	unitCompute        = "openstack-nova-compute.service"
	unitConsole        = "openstack-nova-novncproxy.service"
)

const (
	switchDir    = "run/openvswitch" // where every program looks for Open vSwitch
	switchSocket = switchDir + "/db.sock"
	libvirtSet   = runDir + "/libvirtd.conf"
	emulatorSet  = "etc/libvirt/qemu.conf"
	instancesDir = "/var/lib/nova/instances"
)

// switchUser is whose Open vSwitch is; its group may use it.
const switchUser = "openvswitch"

// units returns the services of such a host.
func (p hypervisor) units() []unit {
	compute := unit{
		name: unitCompute, description: "OpenStack nova-compute", user: "nova", groups: []string{"libvirt", switchUser}, wants: []string{unitGuests},
		exec: []string{"/usr/bin/nova-compute", "--config-file=%d/nova-compute.conf"}, keys: []string{runDir + "/nova-compute.conf"}, uses: []string{caFile},
		writes: []string{"/var/lib/nova"},
		// QEMU's user comes to the disks through directories that it makes. Its rights it hands to helpers of its own, in the place of
		// sudo.
		lines: append([]string{"Type=exec", "UMask=0022", "WorkingDirectory=/var/lib/nova", "LimitNOFILE=65536", "Environment=MALLOC_ARENA_MAX=1"},
			rights(true, "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_NET_ADMIN", "CAP_SYS_ADMIN")...),
	}
	// The proxy of screens is a part of the control plane which a site without virtual machines can do without.
	return append(append(p.network(), p.machines()...), compute, worker(unitConsole, "nova", "nova-novncproxy"))
}

// rights are the lines that leave a service some capabilities; a user who is not root has them only when they are handed on.
func rights(hand bool, names ...string) []string {
	list := []string{"CapabilityBoundingSet=" + strings.Join(names, " ")}
	if hand {
		list = append(list, "AmbientCapabilities="+strings.Join(names, " "))
	}
	return list
}

// network is Open vSwitch with OVN's part of a host. The switch's database holds nothing that is not written anew at each start
// of the host, so it goes with the boot.
func (p hypervisor) network() []unit {
	const file = "/" + switchDir + "/conf.db"
	home := []string{"Type=exec", "UMask=0007", "RuntimeDirectory=openvswitch", "RuntimeDirectoryPreserve=yes", "Environment=OVS_RUNDIR=/" + switchDir}
	agent := []string{"Type=exec", "WorkingDirectory=/var/lib/neutron", "Group=neutron", "UMask=0007", "Environment=MALLOC_ARENA_MAX=1"}
	return []unit{
		{name: unitSwitchDatabase, description: "Open vSwitch, database", user: switchUser,
			before: [][]string{{"-/usr/bin/ovsdb-tool", "create", file, "/usr/share/openvswitch/vswitch.ovsschema"}},
			exec:   []string{"/usr/sbin/ovsdb-server", "--remote=punix:/" + switchSocket, "--pidfile", "--unixctl=/" + switchDir + "/ovsdb-server.ctl", "-vsyslog:off", file},
			lines: append(home, "MemoryDenyWriteExecute=yes",
				"ExecStartPost=/usr/bin/ovs-vsctl --no-wait --timeout=20 init -- set Open_vSwitch . "+strings.Join(p.switchSettings(), " "))},
		{name: unitSwitch, description: "Open vSwitch", user: switchUser, wants: []string{unitSwitchDatabase},
			exec: []string{"/usr/sbin/ovs-vswitchd", "unix:/" + switchSocket, "--pidfile", "-vsyslog:off"},
			lines: append(append(home, rights(true, "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BROADCAST", "CAP_SYS_NICE", "CAP_IPC_LOCK")...), "MemoryDenyWriteExecute=yes",
				"PrivateDevices=no", "DeviceAllow=/dev/net/tun rw", "RestrictAddressFamilies=AF_PACKET")},
		{name: unitChassis, description: "OVN, flows of this host", user: switchUser, groups: []string{"neutron"}, wants: []string{unitSwitch},
			exec:  []string{"/usr/bin/ovn-controller", "unix:/" + switchSocket, "--unixctl=/run/openstack-ovn-controller/ctl", "-vsyslog:off"},
			lines: []string{"Type=exec", "RuntimeDirectory=openstack-ovn-controller", "Environment=OVS_RUNDIR=/" + switchDir, "MemoryDenyWriteExecute=yes"}},
		// What it starts for each network, and machines speak to, gives up all rights.
		{name: unitMetadata, description: "OVN, metadata of machines", user: "root", open: true, wants: []string{unitSwitchDatabase}, keys: []string{runDir + "/neutron-metadata.conf"}, uses: []string{caFile},
			exec: []string{"/usr/bin/neutron-ovn-metadata-agent", "--config-file=%d/neutron-metadata.conf"},
			lines: append(agent, rights(false, "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_KILL", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE",
				"CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE")...)},
	}
}

// switchSettings are what OVN reads in the switch's database.
func (p hypervisor) switchSettings() (list []string) {
	datapath := "netdev"
	if p.switching {
		datapath = "system"
	}
	for _, pair := range [][2]string{
		{"system-id", p.node}, {"hostname", p.node}, {"ovn-remote", "unix:/" + ovnSocket("sb")}, {"ovn-encap-type", "geneve"}, {"ovn-encap-ip", p.address},
		{"ovn-bridge", "br-int"}, {"ovn-bridge-datapath-type", datapath}, {"ovn-cms-options", "enable-chassis-as-gw"},
	} {
		list = append(list, `external_ids:`+pair[0]+`=\"`+pair[1]+`\"`)
	}
	return list
}

// machines is libvirt with what keeps the logs of machines short, and asks machines to stop when the host does: after
// nova-compute stopped, which would take it for their owners' wish.
func (p hypervisor) machines() []unit {
	home := []string{"RuntimeDirectory=libvirt", "RuntimeDirectoryPreserve=yes"}
	return []unit{
		{name: unitGuestLog, description: "Logs of virtual machines", user: "root", exec: []string{"/usr/sbin/virtlogd"}, writes: []string{instancesDir},
			lines: append(home, "Type=notify", "UMask=0077", "LimitNOFILE=65536", "LogsDirectory=libvirt", "PrivateNetwork=yes", "MemoryDenyWriteExecute=yes", "CapabilityBoundingSet=CAP_DAC_OVERRIDE")},
		{name: unitLibvirt, description: "Virtual machines", user: "root", open: true, wants: []string{unitGuestLog, unitSwitch}, exec: []string{"/usr/sbin/libvirtd", "--config", "/" + libvirtSet},
			uses: []string{libvirtSet, emulatorSet},
			// Machines outlive it.
			lines: append(append(home, "Type=notify", "UMask=0022", "KillMode=process", "Delegate=yes", "TasksMax=32768", "LimitNOFILE=65536", "LimitMEMLOCK=64M"),
				rights(false, "CAP_AUDIT_WRITE", "CAP_BPF", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_IPC_LOCK", "CAP_KILL", "CAP_MKNOD",
					"CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_NICE",
					"CAP_SYS_PTRACE", "CAP_SYS_RESOURCE")...)},
		{name: unitGuests, description: "Virtual machines stop before the host does", user: "root", open: true, once: true, wants: []string{unitLibvirt, "virt-guest-shutdown.target"},
			exec: []string{"/usr/lib/libvirt/libvirt-guests.sh", "start"},
			lines: []string{"RemainAfterExit=yes", "ExecStop=/usr/lib/libvirt/libvirt-guests.sh stop", "TimeoutStopSec=100s", "CapabilityBoundingSet=CAP_DAC_OVERRIDE",
				"Environment=ON_BOOT=ignore ON_SHUTDOWN=shutdown PARALLEL_SHUTDOWN=8 SHUTDOWN_TIMEOUT=60"}},
	}
}

// files returns the settings and units of such a host, but for the root certificate.
func (p hypervisor) files() []file {
	list := []file{
		p.compute(), p.metadata(),
		{path: libvirtSet, mode: 0o644, text: lines(`unix_sock_group = "libvirt"`, `unix_sock_ro_perms = "0770"`, `unix_sock_rw_perms = "0770"`, `auth_unix_ro = "none"`,
			`auth_unix_rw = "none"`)},
		// Machines are confined by their user, by seccomp and by devices of their own.
		{path: emulatorSet, mode: 0o644, text: lines(`user = "libvirt-qemu"`, `group = "kvm"`, `security_driver = "none"`, `vnc_listen = "127.0.0.1"`, `max_core = 0`)},
	}
	for _, u := range p.units() {
		list = append(list, file{path: unitDir + "/" + u.name, mode: 0o644, text: u.text()})
	}
	return list
}

func lines(list ...string) string { return strings.Join(list, "\n") + "\n" }

// compute is nova-compute's settings.
func (p hypervisor) compute() file {
	kind, reserved := "qemu", 512
	if p.kvm {
		kind = "kvm"
	}
	if p.control {
		reserved = 3072 // MiB: the control plane, and what else the site has here
	}
	helper := []string{"helper_command", "/usr/bin/privsep-helper"}
	return settings("nova-compute.conf",
		section{"DEFAULT", []string{"transport_url", p.queue(), "my_ip", p.address, "host", p.node, "state_path", "/var/lib/nova", "instances_path", instancesDir,
			"compute_driver", "libvirt.LibvirtDriver", "resume_guests_state_on_host_boot", "true", "periodic_fuzzy_delay", "0", "reserved_host_memory_mb", strconv.Itoa(reserved)}},
		section{"libvirt", []string{"virt_type", kind}},
		// Debian's QEMU has no spice, and screens are seen through the site's console proxy only.
		section{"vnc", []string{"enabled", "true", "server_listen", "127.0.0.1", "server_proxyclient_address", "127.0.0.1", "novncproxy_base_url", p.url(portConsole, "/vnc_lite.html")}},
		section{"spice", []string{"enabled", "false"}},
		section{"os_vif_ovs", []string{"ovsdb_connection", "unix:/" + switchSocket}},
		section{"vif_plug_ovs_privileged", helper}, section{"vif_plug_linux_bridge_privileged", helper}, section{"nova_sys_admin", helper}, section{"privsep_osbrick", helper},
		section{"glance", []string{"region_name", p.wish.Region, "cafile", "/" + caFile}},
		p.access("service_user", "nova", "send_service_user_token", "true"), p.access("placement", "nova"), p.access("neutron", "nova"),
		p.access("cinder", "nova", "catalog_info", "volumev3::internalURL", "os_region_name", p.wish.Region),
		section{"oslo_concurrency", []string{"lock_path", "/var/lib/nova/tmp"}}, section{"oslo_messaging_notifications", []string{"driver", "noop"}})
}

// metadata is the settings of the agent that hands machines' questions about themselves to nova.
func (p hypervisor) metadata() file {
	return settings("neutron-metadata.conf",
		section{"DEFAULT", []string{"state_path", "/var/lib/neutron", "host", p.node, "nova_metadata_protocol", "https", "nova_metadata_host", p.address,
			"nova_metadata_port", fmt.Sprint(8775), "auth_ca_cert", "/" + caFile, "metadata_proxy_shared_secret", p.secrets[secretMetadata],
			"metadata_proxy_user", "neutron", "metadata_proxy_group", "neutron"}},
		section{"agent", []string{"root_helper", "/usr/bin/env"}}, // it is root, and has the rights that it needs
		section{"ovn", []string{"ovn_sb_connection", "unix:/" + ovnSocket("sb")}}, section{"ovs", []string{"ovsdb_connection", "unix:/" + switchSocket}},
		section{"oslo_concurrency", []string{"lock_path", "/var/lib/neutron/tmp"}})
}

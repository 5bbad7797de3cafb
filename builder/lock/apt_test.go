package lock

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"roost/builder/deb"
	"roost/builder/recipe"
	"roost/images"
)

// aptRoot is a private apt: own sources, lists and status, trixie's indexes from the host's mirror.
type aptRoot struct {
	dir   string
	index *Index
}

var trixie = []recipe.Suite{
	{Name: "trixie", Archive: "debian", Components: []string{"main"}, Priority: 500},
	{Name: "trixie-updates", Archive: "debian", Components: []string{"main"}, Priority: 500},
	{Name: "trixie-security", Archive: "debian-security", Components: []string{"main"}, Priority: 500},
}

func newAptRoot(t *testing.T) *aptRoot {
	t.Helper()
	if os.Getenv("ROOST_TEST_NET") == "" {
		t.Skip("compares with apt-get on Debian's indexes; set ROOST_TEST_NET=1")
	}
	a := &aptRoot{dir: t.TempDir()}
	for _, d := range []string{"etc/preferences.d", "etc/apt.conf.d", "state/lists/partial", "cache/archives/partial", "log"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var sources strings.Builder
	mirror := hostMirror(t)
	key, err := filepath.Abs("../../recipes/keys/debian-trixie.asc")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range trixie {
		base := mirror
		if s.Archive == "debian-security" {
			base = strings.TrimSuffix(mirror, "debian") + "debian-security"
		}
		fmt.Fprintf(&sources, "deb [signed-by=%s] %s %s main\n", key, base, s.Name)
	}
	a.write(t, "etc/sources.list", sources.String())
	a.write(t, "status", "")
	a.write(t, "apt.conf", fmt.Sprintf(`Dir %q; Dir::Etc "etc"; Dir::Etc::parts "apt.conf.d"; Dir::Etc::sourcelist "sources.list"; Dir::Etc::sourceparts "-";
Dir::State "state"; Dir::State::status "%s/status"; Dir::Cache "cache"; Dir::Log "log";
APT::Architecture "amd64"; APT::Architectures { "amd64"; }; APT::Solver "internal"; APT::Install-Recommends "false"; APT::Sandbox::User "root";
Acquire::Languages "none"; Acquire::GzipIndexes "false"; Debug::NoLocking "true";
`, a.dir+"/", a.dir))
	if out, err := a.run("update"); err != nil {
		t.Fatalf("apt-get update: %v\n%s", err, out)
	}
	a.load(t)
	return a
}

// hostMirror returns the base URL that the host takes Debian from.
func hostMirror(t *testing.T) string {
	if m := os.Getenv("ROOST_MIRROR"); m != "" {
		return strings.TrimSuffix(m, "/")
	}
	files, _ := filepath.Glob("/etc/apt/sources.list*")
	more, _ := filepath.Glob("/etc/apt/sources.list.d/*")
	for _, file := range append(files, more...) {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // sources.list.d itself
		}
		for line := range strings.Lines(string(data)) {
			line, _, _ = strings.Cut(line, "#")
			for _, word := range strings.Fields(line) {
				if u, err := url.Parse(word); err == nil && strings.HasSuffix(strings.TrimSuffix(u.Path, "/"), "/debian") && u.Host != "" {
					return strings.TrimSuffix(word, "/")
				}
			}
		}
	}
	t.Fatal("found no Debian mirror in the host's apt sources; set ROOST_MIRROR")
	return ""
}

func (a *aptRoot) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (a *aptRoot) run(args ...string) (string, error) {
	cmd := exec.Command("apt-get", args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// load reads the very indexes that apt uses.
func (a *aptRoot) load(t *testing.T) {
	t.Helper()
	a.index = &Index{}
	for _, s := range trixie {
		archive := "debian"
		if s.Archive != "debian" {
			archive = s.Archive
		}
		suite := IndexSuite{Name: s.Name, Date: time.Unix(1, 0), InRelease: images.DigestOf([]byte(s.Name))}
		files, _ := filepath.Glob(filepath.Join(a.dir, "state/lists/*_"+archive+"_dists_"+s.Name+"_main_binary-amd64_Packages"))
		if len(files) != 1 {
			t.Fatalf("suite %s: apt has lists %v", s.Name, files)
		}
		data, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		for p, err := range deb.Packages(bytes.NewReader(data)) {
			if err != nil {
				t.Fatal(err)
			}
			p.Suite = s.Name
			suite.Packages = append(suite.Packages, p)
		}
		a.index.Suites = append(a.index.Suites, suite)
	}
}

var instLine = regexp.MustCompile(`(?m)^Inst (\S+) (?:\[\S+\] )?\((\S+) `)

// install returns what apt would install, as name=version, or its refusal.
func (a *aptRoot) install(packages []string) ([]string, error) {
	out, err := a.run(append([]string{"-s", "-y", "--no-install-recommends", "install", "--"}, packages...)...)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	var list []string
	for _, m := range instLine.FindAllStringSubmatch(out, -1) {
		list = append(list, m[1]+"="+m[2])
	}
	slices.Sort(list)
	return list, nil
}

func wishFor(minimum string, packages []string) *recipe.Recipe {
	r := &recipe.Recipe{Name: "test", Version: "1", Architecture: "amd64", Base: recipe.Base{Distribution: "debian", Minimum: minimum, Suites: trixie}, Layers: []string{"top"}}
	for i, p := range packages {
		r.Packages = append(r.Packages, recipe.Package{Name: p, At: recipe.Position{File: "top", Line: i + 1, Column: 3}})
	}
	return r
}

func names(l *Lock) []string {
	var list []string
	for p := range l.Packages() {
		list = append(list, p.Name+"="+string(p.Version))
	}
	slices.Sort(list)
	return list
}

// TestApt compares Resolve with apt-get on real sets (OpenStack, Ceph, Kubernetes' neighbours, servers, desktops), on
// single packages and on random sets, each on an empty machine with Debian's base asked for. Only with ROOST_TEST_SOAK=1
// it takes all 437 sets.
func TestApt(t *testing.T) {
	a := newAptRoot(t)
	u, err := newUniverse(wishFor("required", nil), a.index, nil)
	if err != nil {
		t.Fatal(err)
	}
	var required []string
	for name := range u.versions {
		if p := u.candidate(name); p != nil && u.inBase(p) {
			required = append(required, name)
		}
	}
	slices.Sort(required)
	sets := slices.Concat(knownSets(), randomSets(a.index, 220, 1), randomSets(a.index, 60, 3), randomSets(a.index, 30, 12))
	if os.Getenv("ROOST_TEST_SOAK") == "" { // apt-get takes about a second of processor time a set
		sets = slices.Concat(knownSets()[:60], randomSets(a.index, 20, 2))
	}
	var same, refused, different, slowest atomic.Int64
	group := errgroup.Group{}
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, set := range sets {
		group.Go(func() error {
			start := time.Now()
			l, err := Resolve(context.Background(), wishFor("required", set), a.index, nil)
			if took := int64(time.Since(start)); took > slowest.Load() {
				slowest.Store(took)
			}
			want, aptErr := a.install(append(slices.Clone(required), set...))
			switch {
			case err != nil && aptErr != nil:
				refused.Add(1)
			case err != nil || aptErr != nil:
				different.Add(1)
				t.Errorf("%v: resolver: %v, apt: %v", set, err, aptErr)
			case !slices.Equal(names(l), want):
				different.Add(1)
				t.Errorf("%v: %s", set, difference(names(l), want))
			default:
				same.Add(1)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d sets: %d equal, %d refused by both, %d different; slowest resolution %v",
		len(sets), same.Load(), refused.Load(), different.Load(), time.Duration(slowest.Load()))
}

func difference(got, want []string) string {
	var b strings.Builder
	for _, g := range got {
		if !slices.Contains(want, g) {
			b.WriteString(" ours:" + g)
		}
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			b.WriteString(" apt:" + w)
		}
	}
	return b.String()
}

func knownSets() [][]string {
	var sets [][]string
	for _, line := range []string{
		"systemd systemd-sysv openssh-server", "linux-image-amd64", "linux-image-rt-amd64 grub-efi-amd64", "nginx", "apache2 libapache2-mod-wsgi-py3",
		"keystone", "glance", "placement-api", "nova-api nova-conductor nova-scheduler nova-consoleproxy", "nova-compute", "nova-compute nova-compute-qemu",
		"neutron-server neutron-common", "neutron-openvswitch-agent neutron-l3-agent neutron-dhcp-agent neutron-metadata-agent",
		"cinder-api cinder-scheduler cinder-volume", "heat-api heat-engine", "horizon", "openstack-dashboard", "swift swift-proxy swift-object", "barbican-api",
		"designate", "octavia-api", "ironic-api ironic-conductor", "magnum-api", "manila-api", "trove-api", "aodh-api", "gnocchi-api", "ceilometer-agent-central",
		"keystone glance placement-api nova-api nova-conductor nova-scheduler neutron-server horizon rabbitmq-server mariadb-server memcached",
		"python3-openstackclient", "ceph", "ceph-mon ceph-mgr ceph-osd ceph-mds radosgw", "ceph-common", "ceph-osd", "ceph-mgr-dashboard", "cephadm", "rbd-mirror", "ceph-fuse nfs-ganesha-ceph",
		"containerd runc containernetworking-plugins conntrack ebtables ethtool socat iptables", "docker.io", "podman buildah skopeo", "cri-tools", "etcd-server etcd-client",
		"haproxy keepalived pacemaker corosync", "postgresql", "mariadb-server galera-4", "qemu-system-x86 libvirt-daemon-system", "openvswitch-switch ovn-host ovn-central",
		"frr", "bind9", "dnsmasq", "chrony", "ntpsec", "postfix", "exim4", "mailutils", "dovecot-imapd", "samba", "nfs-kernel-server", "prometheus prometheus-node-exporter",
		"grafana", "rsyslog", "auditd", "tuned", "lldpd ipmitool", "smartmontools nvme-cli lvm2 mdadm", "cryptsetup-initramfs", "initramfs-tools", "dracut", "mokutil sbsigntool",
		"gnome-shell", "task-gnome-desktop", "task-xfce-desktop", "kde-plasma-desktop", "libreoffice", "firefox-esr", "default-jdk", "build-essential", "golang", "rustc cargo", "ruby-full", "nodejs npm",
		"python3-django", "texlive-latex-base", "emacs", "vim", "git", "wordpress", "phpmyadmin", "mediawiki", "gitlab-runner", "jenkins", "puppet", "ansible", "salt-master",
		"network-manager", "ifupdown", "systemd-resolved systemd-timesyncd", "dbus-broker", "busybox", "live-build", "debootstrap mmdebstrap", "snapd", "flatpak",
		"lxc lxd", "incus", "zfsutils-linux", "glusterfs-server", "drbd-utils", "tgt", "targetcli-fb", "open-iscsi multipath-tools", "radvd", "strongswan", "wireguard", "openvpn",
		"freeipa-client", "sssd", "krb5-kdc", "slapd", "389-ds", "gdm3 lightdm", "postfix exim4-daemon-light", "sysvinit-core", "systemd-sysv sysvinit-core", "mawk gawk original-awk", "libc6-dev gcc-14 clang",
	} {
		sets = append(sets, strings.Fields(line))
	}
	return sets
}

// randomSets draws count sets of size names; the same ones for the same index.
func randomSets(index *Index, count, size int) [][]string {
	random := rand.New(rand.NewPCG(uint64(count), uint64(size)))
	packages := index.Suites[0].Packages
	sets := make([][]string, count)
	for i := range sets {
		for range size {
			sets[i] = append(sets[i], packages[random.IntN(len(packages))].Name)
		}
		slices.Sort(sets[i])
		sets[i] = slices.Compact(sets[i])
	}
	return sets
}

package kubernetes

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
	"roost/images"
)

// Machine is what a bring-up asks of the host; linux.Machine is one.
type Machine interface {
	service.Machine
	Firewall
	Containers(ctx context.Context) ([]string, error)
	ImportContainer(ctx context.Context, archive string) error
}

// Store is the site's store on a controller, which has a door for Kubernetes.
type Store interface {
	Opened() error
	Open(context.Context) error
}

// Host is Kubernetes on this host.
type Host struct {
	Root        string // of the machine; / on one
	Machine     Machine
	Keys        service.Files // of the directory var/lib/roost/kubernetes
	Join        func(context.Context, api.Join) (*api.Material, error)
	Ceph        func(context.Context, api.Join) (*api.Material, error) // as Join, of the site's Ceph
	Enforcer    *Enforcer
	Store       Store  // on a controller; nil elsewhere
	Node        string // name of this host
	Control     bool   // it runs the control plane
	Controllers []string
	Image       []images.Component // what the running release has
	Now         func() time.Time
	Dial        func(ctx context.Context, network, address string) (net.Conn, error) // how the API server is reached; nil outside of tests
}

// Name is that of the component.
func (h *Host) Name() string { return name }

// Wanted reports whether the configuration wants Kubernetes here.
func (h *Host) Wanted(c *api.Config) bool { return c.Kubernetes != nil }

// Steps brings Kubernetes up, or away.
func (h *Host) Steps(c *api.Config) []service.Step {
	if c.Kubernetes == nil {
		return []service.Step{{Name: "leave", Holds: h.gone, Make: h.leave, Limit: 2 * time.Minute}}
	}
	p, err := h.plan(c)
	if err != nil {
		return []service.Step{service.Impossible("plan", err)}
	}
	b := &bringUp{Host: h, plan: p, dnsServers: c.DNS}
	steps := []service.Step{
		{Name: "keys", Holds: b.hasKeys, Make: b.makeKeys},
		{Name: "settings", Holds: b.hasSettings, Make: b.writeSettings},
		b.start("containerd.service"),
	}
	if p.control {
		store := service.Step{Name: "store", Holds: func(context.Context) error { return h.Store.Opened() }, Make: h.Store.Open}
		steps = append(steps, store, b.start("kube-apiserver.service"))
	}
	steps = append(steps,
		service.Step{Name: "images", Holds: b.hasImages, Make: b.importImages, Limit: time.Minute},
		service.Step{Name: "API", Holds: b.answers, Limit: 3 * time.Minute})
	if p.control {
		steps = append(steps, b.start("kube-controller-manager.service"), b.start("kube-scheduler.service"))
	}
	steps = append(steps, service.Step{Name: "processors", Holds: b.divided, Make: b.divide, Limit: time.Minute}, b.start("kubelet.service"), b.start("kube-proxy.service"))
	if p.control {
		steps = append(steps, service.Step{Name: "rights and names", Holds: b.hasAddons, Make: b.applyAddons})
	}
	steps = append(steps, b.volumeSteps()...)
	steps = append(steps,
		service.Step{Name: "network", Holds: b.hasNetwork, Limit: 2 * time.Minute},
		service.Step{Name: "policies", Holds: b.policed, Make: b.police, Limit: time.Minute},
		service.Step{Name: "node", Holds: b.nodeReady, Limit: 3 * time.Minute})
	if p.control {
		steps = append(steps, service.Step{Name: "name server", Holds: b.namesAnswer, Limit: 3 * time.Minute})
	}
	return steps
}

// plan is what the configuration means on this host.
func (h *Host) plan(c *api.Config) (plan, error) {
	p := plan{wish: c.Kubernetes.Defaults(), node: h.Node, control: h.Control && h.Store != nil, alone: len(h.Controllers) == 1,
		system: string(c.Processors.Platform), volumes: h.hasVolumes(c)}
	if len(h.Controllers) == 0 {
		return p, errors.New("no controller of the site is known")
	}
	var err error
	if p.server, err = serverAt(h.Controllers[0]); err != nil {
		return p, err
	}
	for _, i := range c.Interfaces {
		if len(i.Addresses) > 0 && p.address == "" {
			p.address, _, _ = strings.Cut(i.Addresses[0], "/")
		}
	}
	for _, a := range h.Machine.Addresses() {
		if address, err := netip.ParseAddr(a); err == nil && address.Is4() && p.address == "" {
			p.address = a
		}
	}
	if p.address == "" {
		return p, errors.New("this host has no address yet")
	}
	dns, err := nth(p.wish.Services, 10)
	if err != nil {
		return p, err
	}
	p.dns = dns.String()
	return p, nil
}

// container finds an image of the release by the last word of its name.
func (h *Host) container(word string) (string, error) {
	for _, c := range h.Image {
		for _, image := range c.Containers {
			base, _, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
			if base == word {
				return image, nil
			}
		}
	}
	return "", fmt.Errorf("the running release has no container image %s", word)
}

// bringUp are the facts and acts of one plan.
type bringUp struct {
	*Host
	plan
	dnsServers []string
}

func (b *bringUp) path(name string) string { return filepath.Join("/", b.Root, name) }

// certificates are the names of those that this host holds, and by which authority.
func (b *bringUp) certificates() map[string]string {
	list := map[string]string{}
	for name, c := range hostCertificates() {
		if !c.control || b.control {
			list[name] = c.ca
		}
	}
	return list
}

func (b *bringUp) read(name string) []byte {
	content, err := b.Keys.Read(name)
	if err != nil {
		return nil // what cannot be read is not there
	}
	return content
}

// hasKeys asks for every key and certificate.
func (b *bringUp) hasKeys(context.Context) error {
	certs := b.certificates()
	for _, name := range sortedKeys(certs) {
		key, cert, authority := b.read(name+".key"), b.read(name+".crt"), b.read(certs[name]+".crt")
		if key == nil || cert == nil || authority == nil {
			return fmt.Errorf("no certificate %s yet", name)
		}
		if err := usable(cert, key, authority, b.Now()); err != nil {
			return fmt.Errorf("certificate %s: %w", name, err)
		}
		if name != certServer && name != certNode {
			continue
		}
		if leaf, err := parseCertificate(cert); err != nil || leaf.VerifyHostname(b.address) != nil {
			return fmt.Errorf("certificate %s is not for address %s", name, b.address)
		}
	}
	if b.control && (b.read(accountKey) == nil || b.read(encryptionFile) == nil) {
		return errors.New("no common keys of the controllers yet")
	}
	return nil
}

// makeKeys makes the keys that lack and has the site sign all certificates anew.
func (b *bringUp) makeKeys(ctx context.Context) error {
	join := api.Join{Schema: 1, Requests: map[string]string{}}
	for name := range b.certificates() {
		key := b.read(name + ".key")
		if _, err := parseKey(key); err != nil {
			if key, err = newKey(); err != nil {
				return err
			}
			if err := b.Keys.Write(name+".key", key); err != nil {
				return err
			}
		}
		request, err := newRequest(key)
		if err != nil {
			return err
		}
		join.Requests[name] = request
	}
	material, err := b.Join(ctx, join)
	if err != nil {
		return err
	}
	write := map[string][]byte{}
	for authority, cert := range material.Authorities {
		write[authority+".crt"] = []byte(cert)
	}
	for name, cert := range material.Certificates {
		write[name+".crt"] = []byte(cert)
	}
	if b.control {
		write[accountKey] = material.Secrets[accountKey]
		if write[encryptionFile], err = encryption(material.Secrets[encryptionKey]); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(write) {
		if bytes.Equal(b.read(name), write[name]) {
			continue // a newer file would start services anew
		}
		if err := b.Keys.Write(name, write[name]); err != nil {
			return err
		}
	}
	return nil
}

func (b *bringUp) hasSettings(context.Context) error {
	for _, f := range b.files() {
		if err := service.Written(b.path(f.path), f.text, fs.FileMode(f.mode)); err != nil {
			return err
		}
	}
	return nil
}

// writeSettings writes what differs. /run goes with the boot, so nothing needs to be durable.
func (b *bringUp) writeSettings(context.Context) error {
	for _, f := range b.files() {
		if err := service.Write(b.path(f.path), f.text, fs.FileMode(f.mode)); err != nil {
			return err
		}
	}
	return nil
}

// start is the step that a service runs, with settings no older than those that are there.
func (b *bringUp) start(name string) service.Step {
	i := slices.IndexFunc(b.units(), func(u unit) bool { return u.name == name })
	u := b.units()[i]
	return service.Step{
		Name:  "start " + strings.TrimSuffix(name, ".service"),
		Holds: func(ctx context.Context) error { return b.runs(ctx, u) },
		Make:  func(ctx context.Context) error { return b.Machine.StartUnit(ctx, name) },
	}
}

func (b *bringUp) runs(ctx context.Context, u unit) error {
	return service.Runs(ctx, b.Machine, u.name, []string{"active", "activating", "reloading"}, b.Root, u.inputs())
}

// Which processors the kubelet gave to which pod is in its state, and it does not start with the state of another policy, of
// other processors of the platform, or of another machine. divisionFile is ours: what the state is of.
const (
	cpuState     = "var/lib/kubelet/cpu_manager_state"
	divisionFile = "processors"
)

// division is what a state of the kubelet is bound to; empty: that of no policy, which is bound to nothing.
func (b *bringUp) division() (string, error) {
	if b.system == "" {
		return "", nil
	}
	online, err := os.ReadFile(b.path("sys/devices/system/cpu/online"))
	if err != nil {
		return "", fmt.Errorf("cannot tell which processors there are: %w", err)
	}
	return b.system + " of " + strings.TrimSpace(string(online)), nil
}

func (b *bringUp) divided(context.Context) error {
	want, err := b.division()
	if err != nil {
		return err
	}
	if have := string(b.read(divisionFile)); have != want {
		return fmt.Errorf("the kubelet's processors are divided as %q, not as %q", have, want)
	}
	return nil
}

// divide drops the kubelet's state while it does not run; it shares the processors out anew.
func (b *bringUp) divide(ctx context.Context) error {
	want, err := b.division()
	if err != nil {
		return err
	}
	if err := b.Machine.StopUnit(ctx, "kubelet.service"); err != nil {
		return err
	}
	if err := os.Remove(b.path(cpuState)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot forget which pod has which processors: %w", err)
	}
	return b.Keys.Write(divisionFile, []byte(want))
}

// hasImages asks the runtime for the images that the release brings.
func (b *bringUp) hasImages(ctx context.Context) error {
	have, err := b.Machine.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range b.Image {
		for _, image := range c.Containers {
			if !slices.Contains(have, image) {
				return fmt.Errorf("the container runtime does not have %s", image)
			}
		}
	}
	return nil
}

func (b *bringUp) importImages(ctx context.Context) error {
	archives, err := filepath.Glob(b.path(images.ContainersPath + "/*"))
	if err != nil {
		return err
	}
	for _, archive := range archives {
		if err := b.Machine.ImportContainer(ctx, archive); err != nil {
			return err
		}
	}
	return nil
}

// api opens the API server as this host: a controller as the cluster's administrator, to apply manifests.
func (b *bringUp) api(cert string) (*remote, error) {
	return dial(b.server, b.read(clusterCA+".crt"), b.read(cert+".crt"), b.read(cert+".key"), b.Dial)
}

func (b *bringUp) ask(cert string, f func(*remote) error) error {
	r, err := b.api(cert)
	if err != nil {
		return err
	}
	defer r.close()
	return f(r)
}

func (b *bringUp) answers(ctx context.Context) error {
	return b.ask(certKubelet, func(r *remote) error { return r.ready(ctx) })
}

// mark is the annotation that says with which wish of ours an object was applied last.
const mark = "roost/applied"

// objects are the manifests of this cluster, each marked with the digest of itself.
func (b *bringUp) objects() ([]object, error) {
	image, err := b.container("coredns")
	if err != nil {
		return nil, err
	}
	list, err := addons(b.dns, b.wish.Domain, image, b.upstream(), b.volumes)
	if err != nil {
		return nil, err
	}
	for _, o := range list {
		text, err := json.Marshal(o)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(text)
		meta := o["metadata"].(object)
		notes, _ := meta["annotations"].(object)
		if notes == nil {
			notes = object{}
			meta["annotations"] = notes
		}
		notes[mark] = hex.EncodeToString(sum[:8])
	}
	return list, nil
}

// upstream are the name servers that the cluster asks for other names: those of the configuration, else the machine's own.
func (b *bringUp) upstream() []string {
	if len(b.dnsServers) > 0 {
		return b.dnsServers
	}
	text, err := os.ReadFile(b.path(resolved))
	if err != nil {
		return nil // a site without name servers has none to ask
	}
	return nameServers(string(text))
}

// nameServers reads resolv.conf(5).
func nameServers(text string) (list []string) {
	for _, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if address, err := netip.ParseAddr(fields[1]); err == nil && address.Zone() == "" {
			list = append(list, address.String())
		}
	}
	return list
}

func (b *bringUp) hasAddons(ctx context.Context) error {
	list, err := b.objects()
	if err != nil {
		return err
	}
	return b.ask(certRoost, func(r *remote) error {
		for _, o := range list {
			path, err := pathOf(o)
			if err != nil {
				return err
			}
			have := struct {
				Metadata struct {
					Annotations map[string]string `json:"annotations"`
				} `json:"metadata"`
			}{}
			if err := r.get(ctx, path, &have); err != nil {
				return err
			}
			if have.Metadata.Annotations[mark] != o["metadata"].(object)["annotations"].(object)[mark] {
				return fmt.Errorf("%s is of another release or configuration", path)
			}
		}
		return nil
	})
}

func (b *bringUp) applyAddons(ctx context.Context) error {
	list, err := b.objects()
	if err != nil {
		return err
	}
	return b.ask(certRoost, func(r *remote) error {
		for _, o := range list {
			if err := r.apply(ctx, o); err != nil {
				return err
			}
		}
		return nil
	})
}

// self is this host as the cluster sees it.
type self struct {
	Spec struct {
		PodCIDR string `json:"podCIDR"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type    string `json:"type"`
			Status  string `json:"status"`
			Message string `json:"message"`
		} `json:"conditions"`
	} `json:"status"`
}

func (b *bringUp) self(ctx context.Context) (*self, error) {
	out := &self{}
	err := b.ask(certKubelet, func(r *remote) error { return r.get(ctx, "/api/v1/nodes/"+b.node, out) })
	return out, err
}

// hasNetwork asks whether the pods' network of this node is the one that the cluster gave it, and sees to it where the
// cluster did so only now.
func (b *bringUp) hasNetwork(ctx context.Context) error {
	node, err := b.self(ctx)
	if err != nil {
		return err
	}
	if node.Spec.PodCIDR == "" {
		return errors.New("the cluster has given this node no range of addresses yet")
	}
	if _, err := netip.ParsePrefix(node.Spec.PodCIDR); err != nil {
		return fmt.Errorf("cannot use the node's range of addresses: %w", err)
	}
	return service.Write(b.path(netFile), b.network(node.Spec.PodCIDR), 0o644)
}

// policed asks whether network policies are in force.
func (b *bringUp) policed(ctx context.Context) error {
	return b.Enforcer.holds(ctx, b.policyKey())
}

func (b *bringUp) policyKey() string {
	sum := sha256.Sum256(b.read(certPolicy + ".crt"))
	return strings.Join([]string{b.server, b.node, b.wish.Pods, hex.EncodeToString(sum[:])}, " ")
}

func (b *bringUp) police(context.Context) error {
	r, err := b.api(certPolicy)
	if err != nil {
		return err
	}
	b.Enforcer.follow(&target{api: r, node: b.node, network: b.wish.Pods, key: b.policyKey()})
	return nil
}

func (b *bringUp) nodeReady(ctx context.Context) error {
	node, err := b.self(ctx)
	if err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == "Ready" {
			if c.Status == "True" {
				return nil
			}
			return fmt.Errorf("node %s is not ready: %s", b.node, c.Message)
		}
	}
	return fmt.Errorf("node %s has not said yet whether it is ready", b.node)
}

func (b *bringUp) namesAnswer(ctx context.Context) error {
	deployment := struct {
		Status struct {
			AvailableReplicas int `json:"availableReplicas"`
		} `json:"status"`
	}{}
	err := b.ask(certRoost, func(r *remote) error {
		return r.get(ctx, "/apis/apps/v1/namespaces/kube-system/deployments/coredns", &deployment)
	})
	if err != nil || deployment.Status.AvailableReplicas > 0 {
		return err
	}
	return errors.New("no name server of the cluster is ready")
}

// gone asks whether nothing of Kubernetes is left on the running machine.
func (h *Host) gone(context.Context) error {
	for _, dir := range []string{runDir, unitDir + "/kubelet.service", netFile} {
		if _, err := os.Stat(filepath.Join("/", h.Root, dir)); err == nil {
			return fmt.Errorf("/%s is still there", dir)
		}
	}
	return nil
}

// leave stops Kubernetes and removes its settings. Keys and state stay, for a host that comes back.
func (h *Host) leave(ctx context.Context) error {
	h.Enforcer.follow(nil)
	for _, u := range slices.Backward(plan{control: true, volumes: true}.units()) {
		if err := h.Machine.StopUnit(ctx, u.name); err != nil {
			return err
		}
		if err := os.RemoveAll(filepath.Join("/", h.Root, unitDir, u.name)); err != nil {
			return err
		}
	}
	if err := h.Machine.StopUnit(ctx, "kubepods.slice"); err != nil { // the pods, which outlive the kubelet
		return err
	}
	if err := h.Machine.Load(ctx, "table "+table+" {\n}\ndelete table "+table+"\n"); err != nil {
		return err
	}
	for _, dir := range []string{netFile, runDir} {
		if err := os.RemoveAll(filepath.Join("/", h.Root, dir)); err != nil {
			return err
		}
	}
	return nil
}

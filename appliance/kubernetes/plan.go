package kubernetes

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"roost/appliance/api"
)

// plan is all that this host's files are made of.
type plan struct {
	wish    api.Kubernetes // with defaults
	node    string         // name of this host
	address string         // of this host, where others reach it
	server  string         // URL of the API server that this host uses
	control bool           // runs the control plane
	alone   bool           // no other controller does
	dns     string         // address of the cluster's name server
	system  string         // processors of the platform; empty: pods have no processors of their own
	volumes bool           // pods have volumes on Ceph
}

// Places on the machine, below its root.
const (
	runDir    = "run/roost/kubernetes"     // settings; gone with the boot
	unitDir   = "run/systemd/system"       // units; likewise
	keyDir    = "var/lib/roost/kubernetes" // keys and certificates of this host
	netDir    = "etc/cni/net.d"            // where runtime and tools look for the pods' network
	netFile   = netDir + "/10-roost.conflist"
	resolved  = "run/systemd/resolve/resolv.conf" // the machine's own name servers
	runtimeAt = "unix:///run/containerd/containerd.sock"
)

// file is one that a plan means.
type file struct {
	path string
	mode uint32
	text string
}

// settings returns an object as a program reads it; JSON is YAML.
func settings(path string, object map[string]any) file {
	b, err := json.MarshalIndent(object, "", "  ")
	if err != nil {
		panic(err) // made of strings, numbers, lists and maps here
	}
	return file{runDir + "/" + path, 0o644, string(b) + "\n"}
}

type object = map[string]any

// files returns the settings and units of this host. Secrets are not among them: settings name files.
func (p plan) files() []file {
	files := []file{
		settings("kubelet.yaml", p.kubelet()),
		settings("kubelet.conf", p.access(keyAt(clusterCA+".crt"), keyAt(certKubelet))),
		settings("kube-proxy.yaml", p.proxy()),
		settings("kube-proxy.conf", p.access(keyAt(clusterCA+".crt"), keyAt(certProxy))),
	}
	if p.control {
		files = append(files,
			settings("controller-manager.conf", p.access(clusterCA+".crt", certController)),
			settings("scheduler.conf", p.access(clusterCA+".crt", certScheduler)))
	}
	if p.control && p.volumes {
		files = append(files, settings("volumes.conf", p.access(clusterCA+".crt", certVolumes)))
	}
	for _, u := range p.units() {
		if len(u.exec) == 0 {
			continue
		}
		files = append(files, file{unitDir + "/" + u.name, 0o644, u.text()})
	}
	return files
}

func keyAt(name string) string { return "/" + keyDir + "/" + name }

// access is a kubeconfig: the authority of the server, and the files of the certificate and key to show, named cert.crt and
// cert.key.
func (p plan) access(authority, cert string) object {
	return object{
		"apiVersion": "v1", "kind": "Config", "current-context": "roost",
		"clusters": []any{object{"name": "roost", "cluster": object{"server": p.server, "certificate-authority": authority}}},
		"users":    []any{object{"name": "roost", "user": object{"client-certificate": cert + ".crt", "client-key": cert + ".key"}}},
		"contexts": []any{object{"name": "roost", "context": object{"cluster": "roost", "user": "roost"}}},
	}
}

// kubelet is its configuration (kubelet.config.k8s.io/v1beta1).
func (p plan) kubelet() object {
	settings := object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication": object{"anonymous": object{"enabled": false}, "webhook": object{"enabled": true}, "x509": object{"clientCAFile": keyAt(clusterCA + ".crt")}},
		"authorization":  object{"mode": "Webhook"},
		"tlsCertFile":    keyAt(certNode + ".crt"), "tlsPrivateKeyFile": keyAt(certNode + ".key"),
		"containerRuntimeEndpoint": runtimeAt, "cgroupDriver": "systemd",
		"clusterDNS": []string{p.dns}, "clusterDomain": p.wish.Domain, "resolvConf": "/" + resolved,
		"volumePluginDir":           "/var/lib/kubelet/volume-plugins", // its own default is in the image
		"healthzBindAddress":        "127.0.0.1",
		"nodeStatusUpdateFrequency": "5s", "imageMinimumGCAge": "24h",
		"imageGCHighThresholdPercent": 100, // images come with the release and from nowhere else
		// Space in bytes: the default, shares of the disk, would leave most of a large one unused.
		"evictionHard": object{"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi", "nodefs.inodesFree": "5%"},
	}
	if p.system != "" {
		// A pod of whole processors (QoS class Guaranteed) has them for itself; all others share the rest.
		settings["cpuManagerPolicy"], settings["reservedSystemCPUs"] = "static", p.system
	}
	return settings
}

// proxy is the configuration of kube-proxy (kubeproxy.config.k8s.io/v1alpha1). The kernel sizes its connection table by
// memory; the proxy's own sizing by processors is switched off.
func (p plan) proxy() object {
	return object{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"mode": "nftables", "clusterCIDR": p.wish.Pods, "hostnameOverride": p.node,
		"clientConnection":   object{"kubeconfig": "/" + runDir + "/kube-proxy.conf"},
		"healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
		"conntrack": object{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}
}

// encryption is how the API server stores Kubernetes' secrets (apiserver.config.k8s.io/v1). It holds the key.
func encryption(key []byte) ([]byte, error) {
	return json.Marshal(object{
		"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
		"resources": []any{object{"resources": []string{"secrets"}, "providers": []any{
			object{"secretbox": object{"keys": []any{object{"name": "site", "secret": base64.StdEncoding.EncodeToString(key)}}}},
			object{"identity": object{}},
		}}},
	})
}

// network is the pods' network on this node: routed, with addresses of the node's own range (CNI 1.0.0: ptp, host-local,
// portmap).
func (p plan) network(pods string) string {
	f := settings("", object{
		"cniVersion": "1.0.0", "name": "roost",
		"plugins": []any{
			object{"type": "ptp", "ipam": object{"type": "host-local", "ranges": []any{[]any{object{"subnet": pods}}}, "routes": []any{object{"dst": "0.0.0.0/0"}}}},
			object{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	})
	return f.text
}

// unit is a systemd service of ours; without a program it is one of the image.
type unit struct {
	name, description string
	before            []string // lines of [Unit]
	lines             []string // lines of [Service]
	exec              []string // program and arguments
	keys              []string // files that systemd hands to a service which may read none
	uses              []string // files that it reads itself
}

// credential is where a file lies that systemd hands to a service.
func credential(name string) string {
	if strings.HasSuffix(name, ".conf") {
		return runDir + "/" + name
	}
	return keyDir + "/" + name
}

// inputs are the files that a service reads when it starts; one that is newer than the running service asks for a restart.
func (u unit) inputs() []string {
	if len(u.exec) == 0 {
		return nil // the image's own
	}
	list := append([]string{unitDir + "/" + u.name}, u.uses...)
	for _, key := range u.keys {
		list = append(list, credential(key))
	}
	return list
}

// text is the unit's file (systemd.unit(5)).
func (u unit) text() string {
	var b strings.Builder
	b.WriteString("[Unit]\n")
	if u.description != "" {
		b.WriteString("Description=" + u.description + "\n")
	}
	for _, line := range u.before {
		b.WriteString(line + "\n")
	}
	b.WriteString("[Service]\n")
	b.WriteString("ExecStart=" + strings.Join(u.exec, " \\\n  ") + "\n")
	for _, key := range u.keys {
		b.WriteString("LoadCredential=" + key + ":/" + credential(key) + "\n")
	}
	for _, line := range u.lines {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// confinement is what a service gets that needs no rights.
func confinement() []string {
	return []string{
		"DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "PrivateDevices=yes", "ProtectKernelTunables=yes",
		"ProtectKernelModules=yes", "ProtectControlGroups=yes", "RestrictSUIDSGID=yes", "RestrictRealtime=yes", "LockPersonality=yes", "MemoryDenyWriteExecute=yes",
		"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK", "CapabilityBoundingSet=", "SystemCallArchitectures=native",
	}
}

func always() []string { return []string{"Restart=always", "RestartSec=1", "LimitNOFILE=1048576"} }

// units returns the services of this host; stopped from the last to the first, each still has what it needs.
func (p plan) units() []unit {
	first := []unit{{name: "containerd.service"}} // of the image, with its configuration
	if p.control {
		first = append(first, p.apiserver(), p.controllers(), p.scheduler())
	}
	return append(append(first, p.volumeUnits()...), []unit{
		{name: "kubelet.service", description: "Kubernetes node agent",
			before: []string{"After=containerd.service", "Wants=containerd.service", "StartLimitIntervalSec=0"},
			exec: []string{"/usr/bin/kubelet", "--config=/" + runDir + "/kubelet.yaml", "--kubeconfig=/" + runDir + "/kubelet.conf",
				"--hostname-override=" + p.node, "--node-ip=" + p.address},
			lines: append(always(), "KillMode=process", "OOMScoreAdjust=-999"),
			uses:  []string{runDir + "/kubelet.yaml", runDir + "/kubelet.conf", keyDir + "/" + certNode + ".crt", keyDir + "/" + certKubelet + ".crt", keyDir + "/" + clusterCA + ".crt"}},
		{name: "kube-proxy.service", description: "Kubernetes service addresses", before: []string{"StartLimitIntervalSec=0"},
			exec:  []string{"/usr/bin/kube-proxy", "--config=/" + runDir + "/kube-proxy.yaml"},
			lines: always(),
			uses:  []string{runDir + "/kube-proxy.yaml", runDir + "/kube-proxy.conf", keyDir + "/" + certProxy + ".crt"}},
	}...)
}

func pair(name string) []string { return []string{name + ".crt", name + ".key"} }

func (p plan) apiserver() unit {
	keys := append([]string{clusterCA + ".crt", proxyCA + ".crt", nodeCA + ".crt", storeCA + ".crt", accountKey, encryptionFile}, pair(certServer)...)
	keys = append(append(append(keys, pair(certToKubelet)...), pair(certToStore)...), pair(certFront)...)
	return unit{
		name: "kube-apiserver.service", description: "Kubernetes API server", before: []string{"StartLimitIntervalSec=0"}, keys: keys,
		exec: []string{
			"/usr/bin/kube-apiserver", fmt.Sprintf("--secure-port=%d", apiPort), "--advertise-address=" + p.address,
			"--tls-cert-file=%d/" + certServer + ".crt", "--tls-private-key-file=%d/" + certServer + ".key", "--client-ca-file=%d/" + clusterCA + ".crt",
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--anonymous-auth=false", "--allow-privileged=true", "--profiling=false",
			fmt.Sprintf("--etcd-servers=https://127.0.0.1:%d", StorePort), "--etcd-prefix=" + strings.TrimSuffix(StorePrefix, "/"),
			"--etcd-cafile=%d/" + storeCA + ".crt", "--etcd-certfile=%d/" + certToStore + ".crt", "--etcd-keyfile=%d/" + certToStore + ".key",
			"--etcd-compaction-interval=0", // the site's store keeps its own history short
			"--encryption-provider-config=%d/" + encryptionFile,
			"--kubelet-certificate-authority=%d/" + nodeCA + ".crt", "--kubelet-client-certificate=%d/" + certToKubelet + ".crt",
			"--kubelet-client-key=%d/" + certToKubelet + ".key", "--kubelet-preferred-address-types=InternalIP",
			"--requestheader-client-ca-file=%d/" + proxyCA + ".crt", "--requestheader-allowed-names=front-proxy-client",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=%d/" + certFront + ".crt", "--proxy-client-key-file=%d/" + certFront + ".key",
			"--service-account-issuer=https://kubernetes.default.svc." + p.wish.Domain,
			"--service-account-key-file=%d/" + accountKey, "--service-account-signing-key-file=%d/" + accountKey,
			"--service-cluster-ip-range=" + p.wish.Services,
		},
		lines: append(append([]string{"Type=notify", "TimeoutStartSec=2min"}, always()...), confinement()...),
	}
}

func (p plan) controllers() unit {
	return unit{
		name: "kube-controller-manager.service", description: "Kubernetes controllers", before: []string{"StartLimitIntervalSec=0"},
		keys: append([]string{clusterCA + ".crt", accountKey, "controller-manager.conf"}, pair(certController)...),
		exec: []string{
			"/usr/bin/kube-controller-manager", "--kubeconfig=%d/controller-manager.conf", "--authentication-kubeconfig=%d/controller-manager.conf",
			"--authorization-kubeconfig=%d/controller-manager.conf", "--bind-address=127.0.0.1", "--profiling=false", "--use-service-account-credentials=true",
			"--root-ca-file=%d/" + clusterCA + ".crt", "--service-account-private-key-file=%d/" + accountKey,
			"--allocate-node-cidrs=true", "--cluster-cidr=" + p.wish.Pods, "--node-cidr-mask-size=24", "--service-cluster-ip-range=" + p.wish.Services,
			fmt.Sprintf("--leader-elect=%v", !p.alone),
		},
		lines: append(always(), confinement()...),
	}
}

func (p plan) scheduler() unit {
	return unit{
		name: "kube-scheduler.service", description: "Kubernetes scheduler", before: []string{"StartLimitIntervalSec=0"},
		keys: append([]string{clusterCA + ".crt", "scheduler.conf"}, pair(certScheduler)...),
		exec: []string{
			"/usr/bin/kube-scheduler", "--kubeconfig=%d/scheduler.conf", "--authentication-kubeconfig=%d/scheduler.conf",
			"--authorization-kubeconfig=%d/scheduler.conf", "--bind-address=127.0.0.1", "--profiling=false", fmt.Sprintf("--leader-elect=%v", !p.alone),
		},
		lines: append(always(), confinement()...),
	}
}

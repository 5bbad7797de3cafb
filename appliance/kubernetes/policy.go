package kubernetes

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The objects that policies speak of, as much of them as decides (core/v1, networking.k8s.io/v1).

type meta struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels"`
}

type pod struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		NodeName    string `json:"nodeName"`
		HostNetwork bool   `json:"hostNetwork"`
		Containers  []struct {
			Ports []struct {
				Name          string `json:"name"`
				ContainerPort int    `json:"containerPort"`
				Protocol      string `json:"protocol"`
			} `json:"ports"`
		} `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
		PodIP string `json:"podIP"`
	} `json:"status"`
}

type namespace struct {
	Metadata meta `json:"metadata"`
}

type policy struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		PodSelector selector `json:"podSelector"`
		PolicyTypes []string `json:"policyTypes"`
		Ingress     []rule   `json:"ingress"`
		Egress      []rule   `json:"egress"`
	} `json:"spec"`
}

// rule is one of ingress (From) or egress (To).
type rule struct {
	From  []peer       `json:"from"`
	To    []peer       `json:"to"`
	Ports []policyPort `json:"ports"`
}

type peer struct {
	PodSelector       *selector `json:"podSelector"`
	NamespaceSelector *selector `json:"namespaceSelector"`
	IPBlock           *struct {
		CIDR   string   `json:"cidr"`
		Except []string `json:"except"`
	} `json:"ipBlock"`
}

type policyPort struct {
	Protocol string `json:"protocol"`
	Port     any    `json:"port"` // a number, a name, or nothing
	EndPort  int    `json:"endPort"`
}

type selector struct {
	MatchLabels      map[string]string `json:"matchLabels"`
	MatchExpressions []struct {
		Key      string   `json:"key"`
		Operator string   `json:"operator"`
		Values   []string `json:"values"`
	} `json:"matchExpressions"`
}

// matches reports whether labels are selected. An operator that is not known selects nothing.
func (s *selector) matches(labels map[string]string) bool {
	for key, value := range s.MatchLabels {
		if have, ok := labels[key]; !ok || have != value {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		value, has := labels[e.Key]
		ok := false
		switch e.Operator {
		case "In":
			ok = has && slices.Contains(e.Values, value)
		case "NotIn":
			ok = !has || !slices.Contains(e.Values, value)
		case "Exists":
			ok = has
		case "DoesNotExist":
			ok = !has
		}
		if !ok {
			return false
		}
	}
	return true
}

// world is all that the rules of one node are made of.
type world struct {
	node       string
	pods       map[string]pod       // by namespace/name
	namespaces map[string]namespace // by name
	policies   map[string]policy    // by namespace/name
	network    string               // of all pods of the cluster
}

// table is the name of ours in nftables.
const table = "inet roost-kubernetes"

// direction is ingress or egress, seen from the pod that policies isolate.
type direction struct {
	name  string // of the policy type
	chain string // prefix of the pods' chains
	peer  string // match of the other side's address
}

func directions() []direction {
	return []direction{{"Ingress", "in_", "ip saddr"}, {"Egress", "out_", "ip daddr"}}
}

// ruleset returns the table of this node as a whole, for nft -f (nft(8)). It replaces the table in one transaction. The same
// world gives the same text.
//
// Only pods that a policy isolates have a chain: it returns what a policy allows and drops the rest; a packet passes when
// neither the sender's chain nor the receiver's drops it. What belongs to a connection that was allowed passes. Packets from
// and to the node itself do not come here, as the API wants it.
func (w world) ruleset() string {
	var chains, jumps strings.Builder
	pods := w.live()
	for _, d := range directions() {
		var elements []string
		for _, p := range pods {
			if p.Spec.NodeName != w.node {
				continue
			}
			lines, isolated := w.allowed(d, p, pods)
			if !isolated {
				continue
			}
			chain := d.chain + p.Status.PodIP
			elements = append(elements, p.Status.PodIP+" : jump "+chain)
			fmt.Fprintf(&chains, "\tchain %s {\n\t\t%s %s return\n", chain, d.peer, p.Status.PodIP) // a pod always reaches itself
			for _, line := range lines {
				chains.WriteString("\t\t" + line + " return\n")
			}
			chains.WriteString("\t\tdrop\n\t}\n")
		}
		if len(elements) > 0 {
			own := map[string]string{"Ingress": "ip daddr", "Egress": "ip saddr"}[d.name]
			fmt.Fprintf(&jumps, "\t\t%s vmap { %s }\n", own, strings.Join(elements, ", "))
		}
	}
	return "table " + table + " {\n}\ndelete table " + table + "\ntable " + table + " {\n" + chains.String() +
		"\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\t\tct state established,related accept\n" + jumps.String() + "\t}\n" +
		"\tchain postrouting {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n" +
		"\t\tip saddr " + w.network + " ip daddr != " + w.network + " masquerade\n\t}\n}\n"
}

// live returns the pods that have an address of their own, by address.
func (w world) live() (list []pod) {
	for _, p := range w.pods {
		address, err := netip.ParseAddr(p.Status.PodIP)
		if err == nil && address.Is4() && !p.Spec.HostNetwork && p.Status.Phase != "Succeeded" && p.Status.Phase != "Failed" {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b pod) int { return strings.Compare(a.Status.PodIP, b.Status.PodIP) })
	return slices.CompactFunc(list, func(a, b pod) bool { return a.Status.PodIP == b.Status.PodIP })
}

// allowed returns the matches that policies allow to, or from, one pod, and whether any policy isolates it.
func (w world) allowed(d direction, p pod, pods []pod) (lines []string, isolated bool) {
	for _, name := range sortedKeys(w.policies) {
		policy := w.policies[name]
		if policy.Metadata.Namespace != p.Metadata.Namespace || !policy.Spec.PodSelector.matches(p.Metadata.Labels) || !policy.isolates(d.name) {
			continue
		}
		isolated = true
		rules := policy.Spec.Ingress
		if d.name == "Egress" {
			rules = policy.Spec.Egress
		}
		for _, r := range rules {
			lines = append(lines, w.expand(d, p, policy.Metadata.Namespace, r, pods)...)
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines), isolated
}

// isolates reports whether the policy is of the type. Without types it is of ingress, and of egress where it has such rules.
func (p policy) isolates(kind string) bool {
	if len(p.Spec.PolicyTypes) > 0 {
		return slices.Contains(p.Spec.PolicyTypes, kind)
	}
	return kind == "Ingress" || len(p.Spec.Egress) > 0
}

// expand returns a rule's matches: every kind of peer with every port.
func (w world) expand(d direction, p pod, space string, r rule, pods []pod) (lines []string) {
	peers := r.From
	if d.name == "Egress" {
		peers = r.To
	}
	var selected []pod
	blocks := []string{}
	for _, peer := range peers {
		if peer.IPBlock != nil {
			if match := block(d, peer.IPBlock.CIDR, peer.IPBlock.Except); match != "" {
				blocks = append(blocks, match)
			}
			continue
		}
		for _, other := range pods {
			if w.selects(peer, space, other) {
				selected = append(selected, other)
			}
		}
	}
	if len(peers) == 0 {
		blocks, selected = []string{""}, nil
	}
	ports := r.Ports
	if len(ports) == 0 {
		ports = []policyPort{{}}
	}
	for _, port := range ports {
		matched := port.match(p)
		if _, named := port.Port.(string); named && d.name == "Egress" { // the name is of the other pod's ports
			others := selected
			if len(peers) == 0 {
				others = pods
			}
			for _, other := range others {
				for _, m := range port.match(other) {
					lines = append(lines, join(d.peer+" "+other.Status.PodIP, m))
				}
			}
			continue
		}
		for _, m := range matched {
			for _, b := range blocks {
				lines = append(lines, join(b, m))
			}
			if len(selected) > 0 {
				lines = append(lines, join(d.peer+" { "+strings.Join(addresses(selected), ", ")+" }", m))
			}
		}
	}
	return lines
}

// join is a line of matches; one that matches everything is said in full.
func join(matches ...string) string {
	line := strings.Join(slices.DeleteFunc(matches, func(s string) bool { return s == "" }), " ")
	if line == "" {
		return "meta nfproto ipv4"
	}
	return line
}

func addresses(pods []pod) (list []string) {
	for _, p := range pods {
		list = append(list, p.Status.PodIP)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// selects reports whether a peer of a policy in space means the pod.
func (w world) selects(peer peer, space string, p pod) bool {
	if peer.NamespaceSelector == nil && p.Metadata.Namespace != space {
		return false
	}
	if peer.NamespaceSelector != nil && !peer.NamespaceSelector.matches(w.namespaces[p.Metadata.Namespace].Metadata.Labels) {
		return false
	}
	return peer.PodSelector == nil || peer.PodSelector.matches(p.Metadata.Labels)
}

// block matches an address range without its exceptions; ranges of IPv6 match nothing.
func block(d direction, cidr string, except []string) string {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil || !prefix.Addr().Is4() {
		return ""
	}
	var holes []string
	for _, e := range except {
		if hole, err := netip.ParsePrefix(e); err == nil && hole.Addr().Is4() {
			holes = append(holes, hole.Masked().String())
		}
	}
	match := d.peer + " " + prefix.Masked().String()
	slices.Sort(holes)
	for _, hole := range slices.Compact(holes) { // not one set of them: those of a set must not overlap
		match += " " + d.peer + " != " + hole
	}
	return match
}

// match returns the matches of a port on the pod whose port it is; none when the pod has no port of that name.
func (p policyPort) match(of pod) (list []string) {
	protocol := strings.ToLower(p.Protocol)
	switch protocol {
	case "":
		protocol = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil
	}
	switch port := p.Port.(type) {
	case nil:
		if p.Protocol == "" {
			return []string{""}
		}
		return []string{"meta l4proto " + protocol}
	case float64:
		if port < 1 || port > 65535 || p.EndPort > 65535 {
			return nil
		}
		if p.EndPort > int(port) {
			return []string{fmt.Sprintf("%s dport %d-%d", protocol, int(port), p.EndPort)}
		}
		return []string{fmt.Sprintf("%s dport %d", protocol, int(port))}
	case string:
		for _, c := range of.Spec.Containers {
			for _, declared := range c.Ports {
				kind := strings.ToLower(declared.Protocol)
				if kind == "" {
					kind = "tcp"
				}
				if declared.Name == port && kind == protocol {
					list = append(list, fmt.Sprintf("%s dport %d", protocol, declared.ContainerPort))
				}
			}
		}
	}
	return list
}

func sortedKeys[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

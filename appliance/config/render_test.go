package config

import (
	"strings"
	"testing"

	"roost/appliance/api"
)

func text(files []File) string {
	var b strings.Builder
	for _, f := range files {
		b.WriteString("-- " + f.Path + " --\n" + f.Text)
	}
	return b.String()
}

func TestRender(t *testing.T) {
	c := &api.Config{
		Hostname: "controller-0", DNS: []string{"10.0.0.53"}, NTP: []string{"10.0.0.1", "ntp.example"}, Hosts: []string{"10.77.0.2 controller"},
		AuthorizedKeys: []string{"ssh-ed25519 AAAA ann"},
		Interfaces:     []api.Interface{{MAC: "52:54:00:AA:00:01", Addresses: []string{"10.77.0.2/24"}, Gateway: "10.77.0.1", MTU: 9000}, {MAC: "52:54:00:aa:00:02", DHCP: true}},
	}
	if err := Validate(c); err != nil {
		t.Fatal(err)
	}
	got := text(Render(c))
	for _, want := range []string{
		"-- etc/hostname --\ncontroller-0\n",
		"127.0.1.1 controller-0\n", "10.77.0.2 controller\n",
		"-- etc/systemd/network/10-roost-00.network --\n[Match]\nPermanentMACAddress=52:54:00:aa:00:01\n\n[Link]\nMTUBytes=9000\n\n[Network]\nAddress=10.77.0.2/24\nGateway=10.77.0.1\n",
		"PermanentMACAddress=52:54:00:aa:00:02\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\nClientIdentifier=mac\n",
		"[Resolve]\nDNS=10.0.0.53\n", "[Time]\nNTP=10.0.0.1 ntp.example\n", "ssh-ed25519 AAAA ann\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if discovery := text(Render(&api.Config{})); !strings.Contains(discovery, "DHCP=yes") {
		t.Errorf("a machine in discovery gets no address:\n%s", discovery)
	}
}

// TestResources holds the files that share processors and memory out.
func TestResources(t *testing.T) {
	one := 1
	for _, test := range []struct {
		name      string
		resources api.Resources
		want      string
	}{
		{"none", api.Resources{}, ""},
		{"processors", api.Resources{Processors: api.Processors{Platform: "0-1,33"}},
			"-- etc/systemd/system/init.scope.d/50-roost.conf --\n[Scope]\nAllowedCPUs=0-1,33\n" +
				"-- etc/systemd/system/system.slice.d/50-roost.conf --\n[Slice]\nAllowedCPUs=0-1,33\n" +
				"-- etc/systemd/system/user.slice.d/50-roost.conf --\n[Slice]\nAllowedCPUs=0-1,33\n" +
				"-- etc/tmpfiles.d/roost.conf --\n" +
				"w- /proc/irq/default_smp_affinity - - - - 00000002,00000003\n" +
				"w- /proc/irq/*/smp_affinity_list - - - - 0-1,33\n" +
				"w- /sys/devices/virtual/workqueue/cpumask - - - - 00000002,00000003\n"},
		{"huge pages", api.Resources{HugePages: []api.HugePages{{Size: "2Mi", Count: 512}, {Size: "1Gi", Count: 2, Node: &one}}},
			"-- etc/tmpfiles.d/roost.conf --\n" +
				"w- /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages - - - - 512\n" +
				"w- /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages - - - - 2\n"},
	} {
		c := &api.Config{Resources: test.resources}
		if err := Validate(c); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		plain := text(Render(&api.Config{}))
		if got, ok := strings.CutPrefix(text(Render(c)), plain); !ok || got != test.want {
			t.Errorf("%s: got\n%s", test.name, got)
		}
	}
}

// TestValidate tries to smuggle settings through values.
func TestValidate(t *testing.T) {
	for name, c := range map[string]api.Config{
		"line break in a key":        {AuthorizedKeys: []string{"ssh-rsa AAAA x\nssh-rsa BBBB y"}},
		"options before a key":       {AuthorizedKeys: []string{`command="sh" ssh-rsa AAAA`}},
		"line break in a host":       {Hosts: []string{"10.0.0.1 a\n10.0.0.2 b"}},
		"section in a server":        {NTP: []string{"x\n[Time]"}},
		"name server":                {DNS: []string{"10.0.0.1 10.0.0.2"}},
		"interface by name":          {Interfaces: []api.Interface{{MAC: "eth0"}}},
		"address without length":     {Interfaces: []api.Interface{{MAC: "52:54:00:00:00:01", Addresses: []string{"10.0.0.1"}}}},
		"gateway with line break":    {Interfaces: []api.Interface{{MAC: "52:54:00:00:00:01", Gateway: "10.0.0.1\nDHCP=yes"}}},
		"address twice":              {Interfaces: []api.Interface{{MAC: "52:54:00:00:00:01", Addresses: []string{"10.0.0.1/24"}}, {MAC: "52:54:00:00:00:02", Addresses: []string{"10.0.0.1/16"}}}},
		"pods in the host's network": {Components: api.Components{Kubernetes: &api.Kubernetes{}}, Interfaces: []api.Interface{{MAC: "52:54:00:00:00:01", Addresses: []string{"10.244.3.1/24"}}}},
		"tiny MTU":                   {Interfaces: []api.Interface{{MAC: "52:54:00:00:00:01", MTU: 20}}},
		"host name":                  {Hostname: "a b"},
		"line break in processors":   {Resources: api.Resources{Processors: api.Processors{Platform: "0\n"}}},
		"line break in a page size":  {Resources: api.Resources{HugePages: []api.HugePages{{Size: "2Mi\n", Count: 1}}}},
	} {
		if err := Validate(&c); !api.Invalid.In(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRender holds that a valid configuration adds no lines of its own.
func FuzzRender(f *testing.F) {
	f.Add("w1", "52:54:00:00:00:01", "10.0.0.1/24", "10.0.0.2", "pool.example", "ssh-ed25519 AAAA ann")
	f.Fuzz(func(t *testing.T, hostname, mac, address, gateway, ntp, key string) {
		c := &api.Config{Hostname: hostname, NTP: []string{ntp}, AuthorizedKeys: []string{key},
			Interfaces: []api.Interface{{MAC: mac, Addresses: []string{address}, Gateway: gateway}}}
		if Validate(c) != nil {
			return
		}
		plain := &api.Config{Hostname: "x", NTP: []string{"x"}, AuthorizedKeys: []string{"ssh-rsa x"},
			Interfaces: []api.Interface{{MAC: "52:54:00:00:00:01", Addresses: []string{"10.0.0.1/24"}, Gateway: gateway}}}
		if got, want := strings.Count(text(Render(c)), "\n"), strings.Count(text(Render(plain)), "\n"); got != want {
			t.Errorf("%d lines, want %d:\n%s", got, want, text(Render(c)))
		}
	})
}

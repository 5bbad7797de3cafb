package api

import "testing"

func TestValidateOpenStack(t *testing.T) {
	const sum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	network := func(n CloudNetwork) OpenStack { return OpenStack{Networks: map[string]CloudNetwork{"lab": n}} }
	image := func(i cloudImage) OpenStack { return OpenStack{Images: map[string]cloudImage{"debian": i}} }
	for name, test := range map[string]struct {
		wish OpenStack
		ok   bool
	}{
		"nothing":            {OpenStack{}, true},
		"quotas":             {OpenStack{Projects: map[string]map[string]int{"lab": {"cores": 8, "ram": -1}}}, true},
		"quota below none":   {OpenStack{Projects: map[string]map[string]int{"lab": {"cores": -2}}}, false},
		"project of its own": {OpenStack{Projects: map[string]map[string]int{"service": nil}}, false},
		"name of two lines":  {OpenStack{Region: "a\nb"}, false},
		"flavor":             {OpenStack{Flavors: map[string]cloudFlavor{"x": {CPUs: 1, Memory: 64}}}, true},
		"flavor of no CPU":   {OpenStack{Flavors: map[string]cloudFlavor{"x": {Memory: 64}}}, false},
		"network":            {network(CloudNetwork{Subnet: "10.1.0.0/24", Gateway: "10.1.0.254", DNS: []string{"10.1.0.1"}}), true},
		"host bits":          {network(CloudNetwork{Subnet: "10.1.0.1/24"}), false},
		"gateway elsewhere":  {network(CloudNetwork{Subnet: "10.1.0.0/24", Gateway: "10.2.0.1"}), false},
		"VLAN of no network": {network(CloudNetwork{Subnet: "10.1.0.0/24", VLAN: 5}), false},
		"VLAN":               {network(CloudNetwork{Subnet: "10.1.0.0/24", VLAN: 5, Physical: "plant"}), true},
		"image":              {image(cloudImage{URL: "https://x.example/a.qcow2", SHA256: sum}), true},
		"image of no sum":    {image(cloudImage{URL: "https://x.example/a.qcow2"}), false},
		"image by ftp":       {image(cloudImage{URL: "ftp://x.example/a", SHA256: sum}), false},
		"image format":       {image(cloudImage{URL: "file:///a", SHA256: sum, Format: "vmdk"}), false},
	} {
		if err := test.wish.Validate(); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

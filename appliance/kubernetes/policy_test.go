package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.yaml.in/yaml/v3"
)

// parseWorld reads Kubernetes objects in YAML.
func parseWorld(text string) (world, error) {
	w := world{node: "one", network: "10.244.0.0/16", pods: map[string]pod{}, namespaces: map[string]namespace{}, policies: map[string]policy{}}
	decoder := yaml.NewDecoder(strings.NewReader(text))
	for {
		tree := object{}
		err := decoder.Decode(&tree)
		if errors.Is(err, io.EOF) {
			return w, nil
		}
		if err != nil {
			return w, err
		}
		b, err := json.Marshal(tree)
		if err != nil {
			return w, err
		}
		switch tree["kind"] {
		case "Pod":
			var p pod
			if err := json.Unmarshal(b, &p); err != nil {
				return w, err
			}
			w.pods[p.Metadata.Namespace+"/"+p.Metadata.Name] = p
		case "Namespace":
			var n namespace
			if err := json.Unmarshal(b, &n); err != nil {
				return w, err
			}
			w.namespaces[n.Metadata.Name] = n
		default:
			var p policy
			if err := json.Unmarshal(b, &p); err != nil {
				return w, err
			}
			w.policies[p.Metadata.Namespace+"/"+p.Metadata.Name] = p
		}
	}
}

// TestPolicy turns policies into rules: "cluster" sets the pods and namespaces, "policy" shows the chains that policies make of
// them. nft itself judges each program where it is installed.
func TestPolicy(t *testing.T) {
	datadriven.Walk(t, filepath.Join("testdata", "policy"), func(t *testing.T, path string) {
		cluster := ""
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "cluster" {
				cluster = d.Input
				return ""
			}
			w, err := parseWorld(cluster + "\n---\n" + d.Input)
			if err != nil {
				t.Fatal(err)
			}
			program := w.ruleset()
			if again := w.ruleset(); again != program {
				t.Errorf("the same world gives\n%s\nand\n%s", program, again)
			}
			checkProgram(t, program)
			_, body, _ := strings.Cut(program, "delete table "+table+"\n")
			before, _, _ := strings.Cut(body, "\tchain postrouting")
			return before
		})
	})
}

// checkProgram has nft read a program without putting it in force.
func checkProgram(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Log("nft is not installed")
		return
	}
	command := exec.CommandContext(context.Background(), "nft", "--check", "-f", "-")
	command.Stdin = strings.NewReader(program)
	var out bytes.Buffer
	command.Stderr = &out
	if err := command.Run(); err != nil && !strings.Contains(out.String(), "not permitted") && !strings.Contains(out.String(), "cache initialization failed") {
		t.Errorf("nft: %v: %s\n%s", err, out.String(), program)
	}
}

func TestSelector(t *testing.T) {
	labels := map[string]string{"app": "web", "tier": "front"}
	for text, want := range map[string]bool{
		`{}`:                                    true,
		`{"matchLabels":{"app":"web"}}`:         true,
		`{"matchLabels":{"app":"web","x":"y"}}`: false,
		`{"matchExpressions":[{"key":"app","operator":"In","values":["db","web"]}]}`:         true,
		`{"matchExpressions":[{"key":"app","operator":"NotIn","values":["web"]}]}`:           false,
		`{"matchExpressions":[{"key":"none","operator":"NotIn","values":["web"]}]}`:          true,
		`{"matchExpressions":[{"key":"app","operator":"Exists"}]}`:                           true,
		`{"matchExpressions":[{"key":"app","operator":"DoesNotExist"}]}`:                     false,
		`{"matchExpressions":[{"key":"app","operator":"Like","values":["w*"]}]}`:             false,
		`{"matchLabels":{"app":"web"},"matchExpressions":[{"key":"z","operator":"Exists"}]}`: false,
	} {
		var s selector
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		if got := s.matches(labels); got != want {
			t.Errorf("%s: got %v", text, got)
		}
	}
}

// FuzzPolicy puts no word of a policy, which any user of a namespace writes, into the program except as what it is.
func FuzzPolicy(f *testing.F) {
	f.Add(`{"metadata":{"namespace":"a","name":"p"},"spec":{"podSelector":{},"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}],"ports":[{"protocol":"TCP","port":80,"endPort":90}]}]}}`)
	f.Add(`{"metadata":{"namespace":"a","name":"p"},"spec":{"policyTypes":["Egress"],"egress":[{"to":[{"podSelector":{}}],"ports":[{"protocol":"UDP","port":"dns"},{"port":1e300}]}]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var p policy
		if json.Unmarshal([]byte(text), &p) != nil {
			return
		}
		w, err := parseWorld("kind: Pod\nmetadata: {namespace: a, name: one, labels: {app: web}}\nspec: {nodeName: one, containers: [{ports: [{name: dns, containerPort: 53, protocol: UDP}]}]}\nstatus: {podIP: 10.244.0.2}")
		if err != nil {
			t.Fatal(err)
		}
		p.Metadata.Namespace = "a"
		w.policies["a/p"] = p
		for _, line := range strings.Split(w.ruleset(), "\n") {
			if strings.Trim(line, "\tabcdefghijklmnopqrstuvwxyz0123456789 .,/:;{}!=_-") != "" {
				t.Errorf("line %q", line)
			}
		}
	})
}

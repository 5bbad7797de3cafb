// Package recipe is the language in which a person says what a Roost image holds.
//
// A recipe is a YAML file. [Loader.Load] reads it with everything it includes and returns one plain, merged [Recipe];
// nothing downstream reads YAML again. The promise to the writer is that a wrong recipe is never half understood: every
// fault is reported with file:line:column, what is wrong, and what to write instead. Unknown and repeated fields are
// faults, so a misspelt word cannot be ignored in silence.
//
// # Layers
//
//	include: [parts/base.yaml, parts/kernel.yaml]
//
// Includes are read first, in order, each file once; paths are relative to the including file, and "roost:parts/x.yaml"
// names a part shipped with the roost command. Lists grow (lower layers first), scalars of an upper layer replace those
// below, and list entries with a key (files and state by path, users, groups, programs, gates and container images by name,
// suites by name, units by unit) are replaced by an upper entry of the same key. Every file that names packages is one
// layer of the image, a group that the lock keeps apart, so that a change in the top layer rebuilds only the top.
//
// A file that brings a part which people and the daemon know by name says so with "component"; what the file says is that
// component's.
//
// # Fields
//
//	name: edge                      # of the release: a-z 0-9 and -
//	version: 13.7.1                 # of the release (UAPI.10 version format)
//	description: small edge node
//	architecture: amd64             # Debian's name
//	base:
//	  distribution: debian
//	  minimum: required             # essential | required | none: what Debian considers always there
//	  suites:
//	    - {name: trixie, components: [main], priority: 500}
//	    - {name: trixie-security, components: [main], archive: debian-security}
//	packages:
//	  - openssh-server              # also name=version, name/suite, name:arch
//	pins:
//	  - {package: "ceph*", version: "18.2.6-*"}   # only such versions are candidates
//	  - {package: podman, suite: trixie-backports}
//	exclude: [exim4-base]           # never installed; a package that needs one is a conflict
//	provided: [linux-initramfs-tool, "mail-transport-agent (= 1)"]   # what the image brings without a package
//	kernel:
//	  flavour: standard             # standard | cloud | realtime
//	  version: 6.12.117-1           # optional; the newest otherwise
//	  arguments: [quiet]            # of the signed command line; roothash= is added by the build
//	  modules:                      # what stays in the image; the last rule that matches decides, default keep
//	    - drop: kernel/sound/**
//	    - keep: snd_pcsp            # a word without / is a module name
//	  initrdModules:                # what goes into the initrd, default drop; what a kept module needs comes along
//	    - keep: virtio_*
//	remove:                         # paths dropped from the tree; the last rule that matches decides
//	  - /usr/share/doc/**
//	  - keep: /usr/share/doc/*/copyright
//	moves:                          # data of the image that a package makes in /var, which is state
//	  - {from: /var/lib/dashboard/static, to: /usr/share/dashboard/static}
//	edits:                          # texts of packages; old is there exactly once, or the build fails
//	  - {path: /etc/pam.d/sshd, old: "pam_motd.so", new: "pam_motd.so noupdate"}
//	files:
//	  - {path: /etc/motd, content: "hello\n", mode: 0644, owner: "root:root"}
//	  - {path: /usr/share/roost, source: files/roost}   # a file or directory beside the recipe, its content is in the digest
//	  - {path: /etc/localtime, link: ../usr/share/zoneinfo/UTC}
//	  - {path: /srv/data, directory: true, mode: 0750}
//	  - {path: /etc/hello.conf, template: "name {{hostname}}\n"}   # written by the machine at boot, with its own values
//	units:
//	  enable: [ssh.service]
//	  disable: [apt-daily.timer]
//	  mask: [getty@tty2.service]
//	  define:
//	    hello.service: "[Service]\nExecStart=/usr/bin/true\n"
//	    ssh.service.d/50-edge.conf: "[Unit]\nAfter=hello.service\n"
//	groups:
//	  - {name: ops, gid: 2000}
//	users:
//	  - {name: ops, uid: 2000, group: ops, groups: [adm], home: /home/ops, shell: /bin/bash}
//	  - {name: etcd}                # one of the table that all images share, recipes/ids.yaml
//	sysctl:
//	  net.ipv4.ip_forward: 1
//	programs:
//	  - {name: roostd, package: ./appliance/roostd, target: /usr/bin/roostd}
//	  - {name: agent, directory: ../agent, package: ./cmd/agent, target: /usr/bin/agent}
//	  - name: tool                  # built from published Go modules; the lock pins all that they need
//	    modules:
//	      - {path: go.example.org/tool, version: v1.2.0}
//	      - {path: go.example.org/big, version: v1.37.1, nested: v0.37.1}   # modules that it replaces by its own directories: at this version
//	    commands: [go.example.org/tool/cmd/a, go.example.org/tool/cmd/b]    # one program for several commands; or package: one of them
//	    stamps: {go.example.org/tool/version.Version: v1.2.0}               # variables that the linker sets
//	    target: /usr/bin/tool                                               # links a and b lie beside it
//	  - name: hello
//	    main: |                     # the text of a command: of the standard library and of modules, if it has some
//	      package main
//	      func main() { println("hello") }
//	component: {name: greeter, of: tool}   # the version is that of a program or package; or "component: greeter"
//	oci:                            # images that the container runtime has without pulling them
//	  - {name: "roost.local/hello:1.0", program: hello, arguments: [-v], user: "65534:65534"}   # holds one program, nothing else
//	  - {name: "docker.io/library/redis:8", from: "docker://registry.example.org/redis:8", signedBy: keys/vendor.pub}
//	  - {name: "docker.io/library/nginx:1", from: "docker://registry.example.org/nginx:1", unsigned: true}
//	  - {name: "roost.local/own:1", from: "oci:../own:1"}         # a directory or (oci-archive:) file, without a network
//	state:                          # directories in /var, made at boot where they lack
//	  - {path: /var/lib/hello, mode: 0750, owner: ops, rollback: restore}   # keep (default) | restore from before the trial | drop
//	  - {path: /var/lib/hello/web, seed: /usr/share/roost}                  # copied from the image while it is not there
//	ports:
//	  - {port: 8080, protocol: tcp, unit: hello.service, local: true}
//	gates:
//	  - {name: ssh, kind: unit, unit: ssh.service}
//	slot: {root: 8GiB, verity: 96MiB, state: 4GiB}   # partition sizes; state is the least, it takes the rest of the disk
//	needs: {memory: 2GiB}
//	update: {tries: 2, gateSeconds: 300, rollbackFloor: 13.6.0}
//
// A template has values and nothing else, see [images.Template]. In patterns * matches within one path element, ** any number of elements, ? one character. A rule on a directory holds
// for everything below it.
//
// # Digests
//
// [Recipe.Digest] covers the whole merged value, files brought by source included, and neither file names nor line
// numbers of the recipe. [Recipe.WantsDigest] covers only what the resolver reads (architecture, suites, packages, pins,
// kernel choice and layers). A lock is bound to the second, so a new motd needs no new lock.
//
// # Rejected
//
// Decoding into structs with a YAML library's strict mode: it reports neither columns nor a fix, stops being strict at
// custom types and accepts repeated keys of merged maps. YAML anchors and merge keys: include does that job and keeps
// one way to reuse. Templates of recipes, and conditions: a recipe must mean one thing; generate it if you need many.
// Building container images from steps: that is a tool of its own, whose result a recipe takes by "from". CUE, Starlark,
// HCL: strong languages that a reader of five lines of YAML would have to learn first.
package recipe

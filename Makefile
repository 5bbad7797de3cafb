# Targets are few words; logic is in Go. GO, TAGS and the like come from the environment.
# What needs root keeps its caches in root's home, so that nobody's own end up with files of root.
ROOT := $(if $(filter-out 0,$(shell id -u)),sudo -E env PATH="$$PATH" HOME=/root GOENV="$$(go env GOENV)",)
HOST := qemu-system-x86 qemu-utils ovmf systemd-boot-efi erofs-utils cryptsetup-bin sbsigntool gdisk dosfstools mtools efitools e2fsprogs iproute2 dnsmasq-base xorriso xz-utils zstd gpgv dbus openssl uidmap

.PHONY: run test lint soak bench build host

build:
	go build -o out/roost .

run: host build
	$(ROOT) go run ./test/journey -roost out/roost

test: host
	$(ROOT) env ROOST_TEST_NET=1 go test -timeout 25m $(shell go list ./... | grep -v /test/vm)
	$(ROOT) env ROOST_TEST_VM=1 go test -p 1 -timeout 60m -v -run 'TestFirmware$$|FirmwareBoots|IPXE|ModelIsTheLoader|CutLoader|CosignVerifies' ./test/lab ./pxe ./test/powercut ./images/depot
	$(ROOT) env ROOST_TEST_VM=1 go test -timeout 60m -v -run 'TestJourney$$|TestContained$$' ./test/vm

lint:
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	go test ./test

# soak needs the clients with which users reach what components serve.
soak: HOST += ceph-fuse chromium curl libnss3-tools s3cmd
soak: host
	$(ROOT) env ROOST_TEST_NET=1 ROOST_TEST_VM=1 ROOST_TEST_SOAK=1 go test -timeout 10h -v ./test/... ./builder/lock
	$(ROOT) env ROOST_TEST_NET=1 ROOST_TEST_SOAK=1 go test -timeout 10h -v -run 'TestRecipesReproducible$$' ./builder

# bench compares Roost with its peers, which it takes from a Debian 13 tree of its own: nothing of theirs is installed here.
bench: HOST += mmdebstrap
bench: host
	$(ROOT) go run ./test/bench $(BENCH)

# host installs what this computer lacks, from Debian.
host:
	@dpkg-query -W -f='$${db:Status-Abbrev}\n' $(HOST) 2>/dev/null | grep -c '^ii' | grep -qx $(words $(HOST)) || \
	 { $(ROOT) apt-get update -q && $(ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(HOST); }

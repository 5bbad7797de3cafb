// Package pxe is the boot server: it makes a machine without a system start one of ours from the network.
//
// Firmware asks four protocols for one thing, and the usual answer is four programs (dnsmasq, tftpd, nginx, a script) that know nothing of
// each other: a host refused in one is served by the next. Here one [Assigner] says who may boot what, and DHCP, proxyDHCP and BINL (port
// 4011), TFTP and HTTP all ask it, for every request.
//
// What is served is one signed file: the UKI goes straight to UEFI firmware, by TFTP to PXE clients and by HTTP to HTTP boot clients, always
// both, since firmware tries them in its own order. The initrd in it comes back over HTTP for the root image. BIOS machines get iPXE and a
// script with the kernel and initrd out of the same UKI.
//
// Promises: names are exact, no client string ever becomes a path; a host without a live lease (as a proxy: without a recent
// offer) gets nothing from TFTP and HTTP; work is bounded per host and in all; addresses survive restarts (package lease); a foreign DHCP server on an own
// network is reported. Each interface is served by itself: when its link, address or very existence changes, its sockets are opened anew
// within two seconds, and the others do not notice.
//
// Trust does not rest here. The boot network is hostile, DHCP and HTTP are plain: what boots is judged by Secure Boot and the root
// hash in the signed UKI, never by where it came from.
package pxe

// Package pxetest is machines without firmware: each walks through a network boot as a real one does (DHCP, TFTP or HTTP, DHCP
// again as the initrd, HTTP for the root image), so that a test can have a thousand of them.
//
// All machines of a [Relay] share one socket: the relay speaks for them as a DHCP relay agent does, which works over
// loopback, without privileges, where broadcasts do not.
package pxetest

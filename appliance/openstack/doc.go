// Package openstack is what knows OpenStack: what a site has of it once ([Authority]), how a controller comes to run its
// control plane ([Controller]), a host to run virtual machines ([Compute]), and the door through which others reach the control
// plane ([Front]).
//
// A controller runs the stock services of the image as units of ours, each with settings of a few lines in volatile /etc,
// readable by its own user alone, one process and a few threads each: MariaDB, RabbitMQ, memcached, OVN's databases, and the
// services of keystone, placement, glance, nova, neutron and cinder, and horizon. They listen on Unix sockets or on the
// loopback interface; one small TLS terminator is the only program that others reach, with a certificate of the site's own
// authority. Its steps go side by side where they do not depend on each other, because nearly all of a start is Python that
// loads modules.
//
// What is so is asked of the machine: schemas by the revisions in the database against those in the image's migrations,
// services by a request on their socket, the catalogue and what the site document wants in it through the APIs.
//
// Network: ML2 with OVN. The control plane then needs no RPC server of neutron's (three processes, 450 MB), no DHCP and no L3
// agents; its own databases and ovn-northd are 20 MB.
//
// Storage: where the site runs Ceph, glance and cinder are users of a pool each, with keys that may use no other; volumes are
// clones of raw images, copies of others, and belong to the site, not to the controller that made them. Else images are files of
// the controller and there are no volumes: a controller's disk is no place for what must outlive it.
//
// A host that carries loads runs nova-compute, libvirt, QEMU, Open vSwitch and OVN's part, as units of ours too. What the machine
// can decides how: KVM, else emulation; the kernel's switch, else that of Open vSwitch's daemon. Open vSwitch's database is in
// /run: OVN, libvirt and the units write all that is in it at each start, so no port of a machine of before a power cut is
// left, and no release meets the schema of another. Programs that need rights have them as capabilities: there is no sudo.
// Two share the host's mounts, libvirt and the metadata agent, because what they mount and name is for others. When the host
// stops, nova-compute stops first and machines are asked to then; nova starts those again that ran.
//
// Passwords exist for keystone's users and for the queue only. To the database every service is known by the user it runs
// as, which the kernel attests on a Unix socket: what does not exist cannot leak. Secrets are made once per site, kept in the
// site's store, handed to a controller over mutual TLS, kept there in a directory of root's, and written to settings that one
// group reads. They are in no argument, unit, log or image.
//
// Rejected: Debian's init scripts and units (they guess arguments, ask for eight processes and write world-readable logs);
// TLS by each uwsgi (a second process each), nginx or haproxy (another package to follow, when the Go program that is in the
// image anyway takes 15 MB); rabbitmqctl and the openstack command for set-up (an Erlang or a Python start for each fact;
// RabbitMQ reads its users from a file, the catalogue is written by one HTTP client); LVM under cinder (volumes of one host's disk,
// root's rights for the service); a marker file for schemas (it is
// believed where a restored database says otherwise); Debian's libvirtd and Open vSwitch units (they start each other by sockets
// and scripts, and keep state in /etc).
package openstack

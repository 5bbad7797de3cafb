// Command initrd is the init of the initial RAM disk inside every unified kernel image: the first program of Roost that
// runs on a machine.
//
// It finds the root image that the signed command line names by its dm-verity root hash, on the disk the firmware loaded
// us from or, when there was none, over HTTP from the site's boot server; opens it through dm-verity so that every block
// is judged as it is read; mounts it read-only with a volatile /etc and the machine's own /var; and hands over to
// systemd.
//
// It promises that nothing unsigned decides what runs: the only authority is the command line, which the UKI's signature
// covers. Answers from the network name places to fetch from, never what to accept. Every failure is one clear line on
// the console and a reboot with a back-off; there is no shell.
//
// Rejected alternatives: dracut or initramfs-tools with systemd inside (20 to 60 MB, hundreds of files and shell to
// audit, two boots' worth of unit ordering); fetching the root with systemd's own pull logic (not in Debian 13).
package main

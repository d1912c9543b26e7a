// Package hardware reads what a donated PC is: who it is, what it is made of,
// and which disks it has.
//
// It reads sysfs, procfs and the SMBIOS table, and asks a drive itself only where
// the kernel keeps less than the drive says. Nothing here opens a file system or
// looks at a disk's content. Every string comes out printable and bounded by
// wire.MaxText; every list is bounded. What can't be read becomes a sentence in
// Report.Problems, and the rest of the report is made all the same.
package hardware

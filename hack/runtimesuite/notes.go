//go:build linux

package main

// note says why a test does not tell about a runtime here.
type note struct{ test, reason string }

func notes() []note {
	return []note{
		{"crun", "Debian's crun 1.8.1 makes no containers where a cgroup2 hierarchy is mounted beside those of version 1 (\"cgroups in hybrid mode not supported\"): its column tells about crun on another kind of machine only"},
		{notRun, "not run: the container has no mount namespace, and the suite would remove files through the runtime's mounts. bk refuses such containers; runc makes them"},
		{"hooks", "the suite compares with words that its hooks don't write, and so prints an error with every runtime"},
		{"poststart_fail", "the suite wants a warning when a poststart hook fails; runc and bk make it an error"},
		{"prestart", "the suite wants prestart hooks to be called by start; the specification now has them in create"},
		{"linux_cgroups_blkio, linux_cgroups_relative_blkio", "needs a block device 8:0 and the CFQ scheduler's leaf_weight, which kernels since 5.0 don't have"},
		{"delete", "the suite wants delete to refuse a created container; runc deletes it, and engines count on that"},
		{"delete_resources", "see linux_cgroups_pids"},
		{"linux_cgroups_devices, linux_cgroups_relative_devices", "the suite takes the kernel's list for the configured one, and runtimes add devices that every container has"},
		{"linux_cgroups_hugetlb, linux_cgroups_relative_hugetlb", "needs the hugetlb controller of version 1"},
		{"linux_cgroups_memory, linux_cgroups_relative_memory", "kernels since 5.16 don't have a limit of kernel memory"},
		{"linux_cgroups_network, linux_cgroups_relative_network", "needs the net_cls and net_prio controllers"},
		{"linux_cgroups_pids, linux_cgroups_relative_pids", "the suite prints and compares addresses of the limits"},
		{"linux_mount_label", "needs SELinux"},
		{"linux_process_apparmor_profile", "needs AppArmor"},
		{"pidfile", "the suite kills a process that has ended already, and wants no error"},
		{"hooks_stdin", "the suite wants the status created in prestart hooks; the specification says creating"},
		{"misc_props", "the suite forgets to put its checker into the container"},
		{"process_capabilities", "needs every capability of the machine; where one is missing (in a container), no runtime can give it"},
		{"process_rlimits", "the suite's checker is a Go program, whose start raises the soft limit of open files to one below the hard one"},
		{"start", "the suite wants start to succeed without a process, and the specification an error"},
	}
}

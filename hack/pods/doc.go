// Package pods makes containers like those in which people run builders that
// are not privileged, for tests: an ordinary Kubernetes pod, one of the
// restricted profile, one with a user namespace of its own, and a container of
// podman's. They are made by runc from a configuration written here, so that
// no cluster is needed and nothing differs from what a cluster gives that
// matters to a builder: system call filter, capabilities, masked paths, devices,
// an overlay as root file system.
//
//	root := filepath.Join(t.TempDir(), "image")
//	pods.Image(root, "/path/of/bk")
//	pod := pods.Pod{Kind: pods.Default, Root: root, Args: []string{"bk", "build", "."}}
//	cmd, err := pod.Command(ctx, t.TempDir())
//	... cmd.Stdout, cmd.Run()
//
// Mounts and processes are in namespaces of the command, which take the
// container along when it ends; only a killed one leaves its empty cgroups.
package pods

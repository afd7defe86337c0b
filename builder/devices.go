package builder

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"bk.build/bk/runner/host"
)

// Annotations of device descriptions that BuildKit knows.
const (
	deviceClass     = "org.mobyproject.buildkit.device.class"
	deviceAutoAllow = "org.mobyproject.buildkit.device.autoallow"
)

// deviceDirs are where BuildKit looks for descriptions of devices, in the form
// of the Container Device Interface.
func deviceDirs() []string { return []string{"/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"} }

// registry returns the devices that this machine describes, read once a build.
func (b *build) registry() (*cdi.Cache, error) {
	return b.described.do(func() (*cdi.Cache, error) {
		dirs := b.opts.DeviceDirs
		if len(dirs) == 0 {
			dirs = deviceDirs()
		}
		return cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	})
}

// devices returns the full names of the devices that a step asks for and may
// have. An optional device that isn't there is left out; one that is there and
// not allowed is an error.
func (b *build) devices(wanted []*pb.CDIDevice) ([]string, error) {
	reg, err := b.registry()
	if err != nil {
		return nil, fmt.Errorf("read the descriptions of devices: %w", err)
	}
	rights := deviceRights(b.opts.Allow)
	var names []string
	for _, d := range wanted {
		if d == nil {
			continue
		}
		name, granted := d.Name, rights.all
		if as := rights.aliases[d.Name]; as != "" {
			name, granted = as, true
		}
		found := findDevices(reg, name)
		if len(found) == 0 && !d.Optional {
			return nil, missingDevice(reg, d.Name)
		}
		for _, f := range found {
			if !granted && !rights.names(reg)[f] && !autoAllowed(reg, f) {
				return nil, fmt.Errorf("device %s is not allowed: if the step may have it, build with --allow device=%[1]s", f)
			}
			if !slices.Contains(names, f) {
				names = append(names, f)
			}
		}
	}
	return names, nil
}

// rights are what the user allowed about devices.
type rights struct {
	all     bool
	aliases map[string]string // what steps call a device, to its name
	listed  []string
}

func deviceRights(allow Entitlements) rights {
	cfg, _ := allow[entitlements.EntitlementDevice].(*entitlements.DevicesConfig)
	if cfg == nil {
		return rights{}
	}
	r := rights{all: cfg.All, aliases: map[string]string{}}
	for name, target := range cfg.Devices {
		if target == "" {
			r.listed = append(r.listed, name)
		} else {
			r.aliases[name] = target
		}
	}
	return r
}

// names are the full names of the devices that were allowed by name.
func (r rights) names(reg *cdi.Cache) map[string]bool {
	set := map[string]bool{}
	for _, name := range r.listed {
		for _, f := range findDevices(reg, name) {
			set[f] = true
		}
	}
	return set
}

// findDevices resolves "VENDOR/CLASS=NAME", "VENDOR/CLASS" (its first device),
// "VENDOR/CLASS=*" (all of them), or the name of an annotated class.
func findDevices(reg *cdi.Cache, wanted string) (found []string) {
	all := reg.ListDevices()
	kind, name, _ := strings.Cut(wanted, "=")
	if vendor, _ := parser.ParseQualifier(kind); vendor != "" {
		for _, d := range all {
			if d == wanted || (name == "" || name == "*") && strings.HasPrefix(d, kind+"=") {
				found = append(found, d)
			}
		}
		if name == "" && len(found) > 1 {
			found = found[:1]
		}
	}
	if len(found) > 0 {
		return found
	}
	for _, d := range all {
		if annotationsOf(reg, d)[deviceClass] == wanted {
			found = append(found, d)
		}
	}
	return found
}

// annotationsOf joins the annotations of a device and of its description.
func annotationsOf(reg *cdi.Cache, name string) map[string]string {
	d := reg.GetDevice(name)
	if d == nil {
		return nil
	}
	all := maps.Clone(d.GetSpec().Annotations)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, d.Annotations)
	return all
}

func autoAllowed(reg *cdi.Cache, name string) bool {
	ok, err := strconv.ParseBool(annotationsOf(reg, name)[deviceAutoAllow])
	return err == nil && ok
}

// missingDevice says where a description was looked for, and what was wrong
// with those that are there.
func missingDevice(reg *cdi.Cache, name string) error {
	text := fmt.Sprintf("device %s: none is described in %s", name, strings.Join(reg.GetSpecDirectories(), ", "))
	broken := reg.GetErrors()
	for _, file := range slices.Sorted(maps.Keys(broken)) {
		for _, err := range broken[file] {
			text += fmt.Sprintf("; %s: %s", file, err)
		}
	}
	return errors.New(text)
}

// keepShown leaves out the devices of a step with all rights that cannot be made
// and that the machine doesn't have either.
func keepShown(sp *specs.Spec) {
	if sp.Linux == nil || host.TrustedXattrs() {
		return
	}
	sp.Linux.Devices = slices.DeleteFunc(sp.Linux.Devices, func(d specs.LinuxDevice) bool {
		return host.Device(d.Type, uint32(d.Major), uint32(d.Minor)) == ""
	})
}

// addDevices edits the step's specification as the descriptions of its devices
// say: nodes, mounts, variables, hooks.
func (s *step) addDevices(sp *specs.Spec) error {
	if len(s.op.CdiDevices) == 0 {
		return nil
	}
	names, err := s.n.b.devices(s.op.CdiDevices)
	if err != nil || len(names) == 0 {
		return err
	}
	reg, err := s.n.b.registry()
	if err != nil {
		return err
	}
	if _, err := reg.InjectDevices(sp, names...); err != nil {
		return fmt.Errorf("add devices %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

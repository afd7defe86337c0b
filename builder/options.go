package builder

import (
	"time"

	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/layout/layer"
	regconf "bk.build/bk/layout/remote/hosts"
	"bk.build/bk/runner/host"
)

// Options configures a build. They are data: what influences the result goes
// into cache keys.
type Options struct {
	// Root is the store's directory.
	Root string
	// FrontendOpt are the options of the gateway protocol ("build-arg:X",
	// "target", "platform", "no-cache", "context:NAME", ...).
	FrontendOpt map[string]string
	// Locals are the directories that local:// sources name ("context",
	// "dockerfile", named contexts).
	Locals map[string]string
	// Layouts are the OCI layout directories that oci-layout:// sources name
	// by their store id.
	Layouts map[string]string
	// Secrets and SSH answer RUN --mount=type=secret|ssh by id.
	Secrets map[string]Secret
	SSH     map[string]SSHAgent
	// InsecureRegistries are hosts that are reached without TLS checks.
	InsecureRegistries []string
	// Hosts says where the images of a registry are had from. nil: from the
	// registry itself.
	Hosts *regconf.Config
	// Pack lists the packed forms that the caller will commit, so that
	// packing can overlap with the build.
	Pack []PackOptions
	// Packed is told of the result's layers one by one, as soon as each can be
	// read in the i-th form of Pack, while other steps still run. It returns at
	// once. It may be told of one that the result turns out not to need. nil:
	// nobody is told.
	Packed func(c *Content, i int, desc ocispecs.Descriptor)
	// StoreLimit is how many bytes the store may keep of what no tagged image
	// needs; 0: a fifth of its disk.
	StoreLimit int64
	// VerifyCache runs steps that the cache knows and warns when they leave
	// something else.
	VerifyCache bool
	// Jobs bounds how many RUN steps run at a time; 0: no bound.
	Jobs int
	// Network is the mode of RUN steps that name none: "host" or "none";
	// empty: a network of each step's own with a way out, where this process can
	// make one and name servers can be reached from it, else the host's.
	Network string
	// Allow are the rights beyond the default ones that steps may ask for.
	Allow Entitlements
	// DeviceDirs hold the descriptions of devices that steps may ask for; empty:
	// those that BuildKit has by default.
	DeviceDirs []string
	// Isolation is how RUN steps are isolated, settled before the build starts.
	Isolation host.Isolation
	// Runtime is the absolute path of an OCI runtime that runs the steps, such
	// as runc; empty: bk itself does.
	Runtime string
	// Resources are the limits of each RUN step; what the frontend asks for in
	// a step's own name wins. They are not part of cache keys. One that cannot
	// be applied fails the step, or with LimitsBestEffort is warned of.
	Resources        specs.LinuxResources
	LimitsBestEffort bool
	// StepTimeout is how long one RUN step may take; 0: as long as it wants.
	StepTimeout time.Duration
	// PlainCopy gives steps a copy of their files instead of an overlay of layers,
	// for file systems and kernels that have none.
	PlainCopy bool
	// DNS replaces the name servers, search domains and options of steps; what is
	// empty stays the machine's.
	DNS DNS
	// Emulators are directories searched for qemu-ARCH-static before PATH.
	Emulators []string
}

// DNS is what a resolv.conf says.
type DNS struct {
	Servers []string // IP addresses
	Search  []string // domains
	Options []string // such as "ndots:2"
}

// Secret is where a secret's bytes come from: exactly one field is set.
type Secret struct {
	File string
	Env  string
}

// SSHAgent is a listening agent socket, or key files to serve.
type SSHAgent struct {
	Socket string
	Keys   []string
}

// PackOptions says how layers are packed.
type PackOptions struct {
	Compression layer.Compression
	// Force repacks base layers too.
	Force bool
	// Epoch bounds the times of files in layers that the build made; nil
	// leaves them as they are.
	Epoch *time.Time
	// Remote leaves a base's layers where they are: the result is read by
	// [Result.Content], not from the store alone.
	Remote bool
}

// CommitOptions says how the result becomes an image.
type CommitOptions struct {
	PackOptions
	// DockerTypes selects docker media types instead of OCI's.
	DockerTypes bool
	// Annotations by level, as BuildKit's exporter spells its attributes:
	// "annotation.K", "annotation-index.K", "annotation[linux/amd64].K",
	// "annotation-manifest-descriptor.K".
	Annotations map[string]string
}

// Image is a committed result, in the store.
type Image struct {
	// Descriptor is of the index, or of the one manifest when the build has
	// one platform and no index was asked for.
	Descriptor ocispecs.Descriptor
	// Manifests and Configs are by platform, in the order of the build.
	Manifests []ocispecs.Descriptor
	Configs   []digest.Digest
}

// Builder events, for the progress display, are BuildKit's SolveStatus.
type Progress = func(*client.SolveStatus)

// Frontend produces results by asking a gateway client to solve definitions.
type Frontend = gateway.BuildFunc

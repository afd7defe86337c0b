package credentials

import (
	"context"
	"os/exec"
	"regexp"
)

// clouds are registries whose helpers get credentials from the machine that they
// run on. They are asked when nothing is configured for the host and the program
// is there. A pattern is for the whole host: a registry whose name only contains
// that of a cloud gets nothing.
var clouds = []struct {
	host    string // a regular expression
	helpers []string
}{
	{`^[0-9]{12}\.dkr\.ecr(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?$`, []string{"ecr-login"}},
	{`^public\.ecr\.aws$`, []string{"ecr-login"}},
	{`^[a-z0-9]([a-z0-9-]*[a-z0-9])?\.azurecr\.(io|cn|us)$`, []string{"acr-env"}},
	{`^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)?gcr\.io$`, []string{"gcr", "gcloud"}},
	{`^[a-z0-9]([a-z0-9-]*[a-z0-9])?-docker\.pkg\.dev$`, []string{"gcr", "gcloud"}},
}

// cloudHelpers are the helpers that may know a host.
func cloudHelpers(host string) []string {
	for _, c := range clouds {
		if regexp.MustCompile(c.host).MatchString(host) {
			return c.helpers
		}
	}
	return nil
}

// cloud asks the first helper for a host that is installed.
func (k *Keychain) cloud(ctx context.Context, host string) (*Credential, error) {
	for _, helper := range cloudHelpers(host) {
		if _, err := exec.LookPath(programName(helper)); err == nil {
			return k.fromHelper(ctx, helper, host, host)
		}
	}
	return nil, nil
}

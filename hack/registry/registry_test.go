package registry

import (
	"net/http"
	"testing"
)

// A test that starts a registry must find one that answers the base endpoint
// of the distribution specification, and whose options have effect.
func TestStart(t *testing.T) {
	get := func(addr string) int {
		resp, err := http.Get("http://" + addr + "/v2/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := get(Start(t)); got != http.StatusOK {
		t.Errorf("GET /v2/ = %d, want 200", got)
	}
	passwords := t.TempDir() + "/htpasswd"
	if got := get(StartWith(t, Options{Htpasswd: passwords})); got != http.StatusUnauthorized {
		t.Errorf("GET /v2/ without password = %d, want 401", got)
	}
	t.Run("debian", func(t *testing.T) {
		if got := get(StartWith(t, Options{Program: "docker-registry"})); got != http.StatusOK {
			t.Errorf("GET /v2/ of Debian's server = %d, want 200", got)
		}
	})
}

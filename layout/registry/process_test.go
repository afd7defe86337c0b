package registry

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// TestMain also is the server that tests start and kill.
func TestMain(m *testing.M) {
	if dir := os.Getenv("BK_TEST_SERVE"); dir != "" {
		fmt.Fprintln(os.Stderr, serveProcess(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func serveProcess(path string) error {
	dir, err := layout.Create(path)
	if err != nil {
		return err
	}
	reg, err := New(dir, Options{})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() { // the test is gone
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return reg.Server().Serve(l)
}

// startProcess starts a server of a directory in a process of its own.
func startProcess(t testing.TB, dir string) (url string, kill func()) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "BK_TEST_SERVE="+dir)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + strings.TrimSpace(addr), kill
}

// A pusher pushes over the network and says what was acknowledged.
type pusher struct {
	url string
}

func (p pusher) request(method, path string, body []byte, header string, status int) (http.Header, error) {
	req, err := http.NewRequest(method, p.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if header != "" {
		req.Header.Set("Content-Type", header)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != status {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	return resp.Header, nil
}

// push pushes an image of a layer with random bytes.
func (p pusher) push(repo, tag string, size int) (digest.Digest, error) {
	layer := make([]byte, size)
	for i := range layer {
		layer[i] = byte(rand.Uint32())
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	m.Config = descriptorOf(ocispec.MediaTypeImageConfig, "{}")
	m.Layers = []ocispec.Descriptor{descriptorOf(ocispec.MediaTypeImageLayer, string(layer))}
	for _, blob := range [][]byte{[]byte("{}"), layer} {
		h, err := p.request("POST", "/v2/"+repo+"/blobs/uploads/", nil, "", http.StatusAccepted)
		if err != nil {
			return "", err
		}
		at := h.Get("Location")
		if _, err = p.request("PATCH", at, blob[:len(blob)/2], "", http.StatusAccepted); err != nil {
			return "", err
		}
		if _, err = p.request("PUT", at+"?digest="+digest.FromBytes(blob).String(), blob[len(blob)/2:], "", http.StatusCreated); err != nil {
			return "", err
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	_, err = p.request("PUT", "/v2/"+repo+"/manifests/"+tag, b, m.MediaType, http.StatusCreated)
	return digest.FromBytes(b), err
}

// checkLayout reads all that a layout's names lead to, and returns the names.
func checkLayout(t *testing.T, path string) map[string]digest.Digest {
	t.Helper()
	dir, err := layout.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	index, err := dir.Index()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]digest.Digest{}
	for _, e := range index.Manifests {
		found[e.Annotations[layout.AnnotationImageName]] = e.Digest
		blobs, err := dir.Closure(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blobs {
			r, err := dir.OpenBlob(b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Error(err)
			}
			r.Close()
		}
	}
	return found
}

// Killed at any moment, in the middle of uploads and of manifests, a server
// leaves a valid layout in which nothing is missing that it has acknowledged.
func TestKilledServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	var mu sync.Mutex
	acked := map[string]digest.Digest{}
	for round := range 6 {
		url, kill := startProcess(t, dir)
		var pushers sync.WaitGroup
		for w := range 4 {
			pushers.Go(func() {
				for n := 0; ; n++ {
					tag := fmt.Sprintf("t%d-%d-%d", round, w, n)
					dg, err := pusher{url}.push("r", tag, 100_000)
					if err != nil {
						return // it was killed
					}
					mu.Lock()
					acked["r:"+tag] = dg
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(50+rand.IntN(200)) * time.Millisecond)
		kill()
		pushers.Wait()
		found := checkLayout(t, dir)
		for name, dg := range acked {
			if found[name] != dg {
				t.Errorf("%s is %q, want %s", name, found[name], dg)
			}
		}
	}
	t.Logf("%d pushes were acknowledged", len(acked))
	if len(acked) == 0 {
		t.Error("nothing was pushed")
	}
}

// An upload survives the server: another process goes on with it.
func TestUploadSurvivesServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	url, kill := startProcess(t, dir)
	h, err := pusher{url}.request("POST", "/v2/r/blobs/uploads/", nil, "", http.StatusAccepted)
	if err != nil {
		t.Fatal(err)
	}
	at := h.Get("Location")
	if _, err := (pusher{url}).request("PATCH", at, []byte("abc"), "", http.StatusAccepted); err != nil {
		t.Fatal(err)
	}
	kill()
	url, _ = startProcess(t, dir)
	if _, err := (pusher{url}).request("PATCH", at, []byte("def"), "", http.StatusAccepted); err != nil {
		t.Fatal(err)
	}
	if _, err := (pusher{url}).request("PUT", at+"?digest="+digest.FromString("abcdef").String(), nil, "", http.StatusCreated); err != nil {
		t.Fatal(err)
	}
}

// Many clients of several servers of one directory, and a program that writes to
// the layout itself, lose nothing of each other.
func TestConcurrentPushes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layout")
	one, _ := startProcess(t, path)
	two, _ := startProcess(t, path)
	dir, err := layout.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	want := map[string]digest.Digest{}
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for n := range 15 {
				tag := fmt.Sprintf("t%d-%d", w, n)
				dg, err := pusher{[]string{one, two}[w%2]}.push("r", tag, 1000)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want["r:"+tag] = dg
				mu.Unlock()
			}
		})
	}
	own := descriptorOf(ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[]}`)
	if _, err := dir.PutBytes(own.MediaType, []byte(`{"schemaVersion":2,"manifests":[]}`)); err != nil {
		t.Fatal(err)
	}
	all.Go(func() {
		for n := range 15 {
			name := fmt.Sprintf("example.com/own:t%d", n)
			if err := dir.SetRef(name, own); err != nil {
				t.Error(err)
			}
			mu.Lock()
			want[name] = own.Digest
			mu.Unlock()
		}
	})
	all.Wait()
	found := checkLayout(t, path)
	for name, dg := range want {
		if found[name] != dg {
			t.Errorf("%s is %q, want %s", name, found[name], dg)
		}
	}
	for _, url := range []string{one, two} {
		resp, err := http.Get(url + "/v2/r/tags/list")
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Tags []string }
		err = json.NewDecoder(resp.Body).Decode(&list)
		resp.Body.Close()
		if err != nil || len(list.Tags) != 8*15 || !slices.IsSorted(list.Tags) {
			t.Errorf("%d tags, %v", len(list.Tags), err)
		}
	}
}

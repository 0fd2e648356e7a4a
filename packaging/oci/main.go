// Command oci writes an image of vaultd and vaultctl from scratch, for several architectures, as an archive of the OCI
// layout (for `skopeo copy oci-archive:FILE ...` or `podman load`). The same arguments give the same bytes: every time
// is that of -epoch, and the authorities of TLS are those of a module that go.mod pins.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is the number of the daemon's user. Kubernetes checks runAsNonRoot by a number.
const user = 65532

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

func main() {
	out := flag.String("out", "", "`file` to write")
	epoch := flag.Int64("epoch", 0, "`seconds`: the time of all files")
	version := flag.String("version", "", "`version` of the image")
	revision := flag.String("revision", "", "`commit` of the image")
	flag.Parse()
	i := &image{made: time.Unix(*epoch, 0).UTC(), version: *version, revision: *revision, blobs: map[string][]byte{}}
	if err := i.write(*out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "oci:", err)
		os.Exit(1)
	}
}

type image struct {
	made              time.Time
	version, revision string
	blobs             map[string][]byte // by digest
	order             []string
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// write takes pairs ARCH=FOLDER, where FOLDER has the binaries of that architecture.
func (i *image) write(out string, folders []string) error {
	var manifests []descriptor
	for _, pair := range folders {
		arch, folder, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%q: ARCH=FOLDER", pair)
		}
		m, err := i.platform(arch, folder)
		if err != nil {
			return err
		}
		manifests = append(manifests, m)
	}
	inner, err := i.document(typeIndex, map[string]any{"schemaVersion": 2, "mediaType": typeIndex,
		"manifests": manifests})
	if err != nil {
		return err
	}
	inner.Annotations = map[string]string{"org.opencontainers.image.ref.name": i.version}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": typeIndex,
		"manifests": []descriptor{inner}})
	if err != nil {
		return err
	}
	files := []file{{name: "oci-layout", data: []byte(`{"imageLayoutVersion":"1.0.0"}`), mode: 0o644},
		{name: "index.json", data: index, mode: 0o644}, {name: "blobs/", mode: 0o755}, {name: "blobs/sha256/", mode: 0o755}}
	for _, digest := range i.order {
		files = append(files, file{name: "blobs/" + strings.Replace(digest, ":", "/", 1), data: i.blobs[digest], mode: 0o644})
	}
	var archive bytes.Buffer
	if err := i.tar(&archive, files); err != nil {
		return err
	}
	return os.WriteFile(out, archive.Bytes(), 0o644)
}

func (i *image) platform(arch, folder string) (descriptor, error) {
	layer, err := i.layer(folder)
	if err != nil {
		return descriptor{}, err
	}
	var packed bytes.Buffer
	// Without a name and a time. Level 8 of this package packs tighter than level 6 of the standard library, in less time.
	z, err := gzip.NewWriterLevel(&packed, 8)
	if err != nil {
		return descriptor{}, err
	}
	if _, err := z.Write(layer); err != nil {
		return descriptor{}, err
	}
	if err := z.Close(); err != nil {
		return descriptor{}, err
	}
	config, err := i.document(typeConfig, map[string]any{
		"created": i.made, "architecture": arch, "os": "linux",
		"config": map[string]any{
			"User": fmt.Sprintf("%d:%d", user, user), "Entrypoint": []string{"/usr/bin/vaultd"},
			"Env":          []string{"PATH=/usr/bin", "VAULTD_CONFIG=/etc/vault/vaultd.toml"},
			"ExposedPorts": map[string]any{"8400/tcp": map[string]any{}, "8401/tcp": map[string]any{}},
			"Volumes":      map[string]any{"/var/lib/vaultd": map[string]any{}}, "StopSignal": "SIGTERM",
			"Labels": map[string]string{"org.opencontainers.image.title": "HyperionDB Vault",
				"org.opencontainers.image.version": i.version, "org.opencontainers.image.revision": i.revision},
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{digestOf(layer)}},
		"history": []map[string]any{{"created": i.made, "created_by": "make package"}},
	})
	if err != nil {
		return descriptor{}, err
	}
	m, err := i.document(typeManifest, map[string]any{"schemaVersion": 2, "mediaType": typeManifest, "config": config,
		"layers": []descriptor{i.add(typeLayer, packed.Bytes())}})
	m.Platform = &platform{Architecture: arch, OS: "linux"}
	return m, err
}

type file struct {
	name  string // a folder ends with a slash
	data  []byte
	mode  int64
	owner int
}

func (i *image) layer(folder string) ([]byte, error) {
	files := []file{
		{name: "etc/", mode: 0o755}, {name: "etc/ssl/", mode: 0o755}, {name: "etc/ssl/certs/", mode: 0o755},
		{name: "etc/ssl/certs/ca-certificates.crt", data: authorities(), mode: 0o644},
		{name: "etc/passwd", mode: 0o644,
			data: fmt.Appendf(nil, "root:x:0:0::/:/\nvaultd:x:%d:%d::/var/lib/vaultd:/\n", user, user)},
		{name: "etc/group", mode: 0o644, data: fmt.Appendf(nil, "root:x:0:\nvaultd:x:%d:\n", user)},
		{name: "etc/vault/", mode: 0o755},
		{name: "tmp/", mode: 0o1777},
		{name: "usr/", mode: 0o755}, {name: "usr/bin/", mode: 0o755},
	}
	for _, name := range []string{"vaultctl", "vaultd"} {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		files = append(files, file{name: "usr/bin/" + name, data: data, mode: 0o755})
	}
	files = append(files, file{name: "var/", mode: 0o755}, file{name: "var/lib/", mode: 0o755},
		file{name: "var/lib/vaultd/", mode: 0o700, owner: user})
	var layer bytes.Buffer
	err := i.tar(&layer, files)
	return layer.Bytes(), err
}

func authorities() []byte {
	var all []byte
	for root := range bundle.Roots() {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})...)
	}
	return all
}

func (i *image) tar(to io.Writer, files []file) error {
	w := tar.NewWriter(to)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Uid: f.owner, Gid: f.owner, Size: int64(len(f.data)), ModTime: i.made,
			Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(f.data); err != nil {
			return err
		}
	}
	return w.Close()
}

func (i *image) document(mediaType string, value any) (descriptor, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return descriptor{}, err
	}
	return i.add(mediaType, text), nil
}

func (i *image) add(mediaType string, data []byte) descriptor {
	digest := digestOf(data)
	if _, ok := i.blobs[digest]; !ok {
		i.order = append(i.order, digest)
	}
	i.blobs[digest] = data
	return descriptor{MediaType: mediaType, Digest: digest, Size: len(data)}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

package sql

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// released are the migrations of releases, with their SHA-256: vaults have run them, so they never change, in number,
// name or content. A change of a table is a new file; a release adds its files here.
var released = map[string]string{
	"migrations/00001_tables.sql":           "c0b1b84400edeaac603e9226589479d745fe547e73c69be1675b76beb187c303",
	"migrations/00002_rotation.sql":         "a8b5f603b31720aeb6dfaf76f5f5cab51f87a1a67142069c641fcd53640631e5",
	"migrations/00003_audit.sql":            "517bdbf37fa0a3585e230167fafcedd9e59d158df1f3e454468c9871fa9781b5",
	"migrations/00004_throughput.sql":       "2e102fae2da3a8b39804f804c726da4b3e5bd3bb91c413bb472f44412a3c0c08",
	"migrations/00005_storage.sql":          "061260c2d9f7166dd4a3215e9f2e943090d05810dc11f8f4e6b08a59dfae9af3",
	"migrations/00006_beside_versions.sql":  "37cf88915740e9726b86d97052f898215b4005d9ba799470fe41af76b48f91df",
	"migrations/00007_sealed_versions.sql":  "b25e56776164385abe26fbbb6c9a68af4a16b998b4ca8179c95571855cdbf8b6",
	"migrations/00008_queue.sql":            "20b93772472d80ec16a406ce6c45d2437327b7e00d1eb060537820b3cbabbe36",
	"migrations/00009_rounds.sql":           "a8014564e2708da68e70e52bac04e9c73e9541912f7dee554d797cdd34760456",
	"migrations/00010_locks_and_spools.sql": "12c2503a8d917c27ca0d3d26a5657291bbbf58099af9329065c3f2e066ae7b2c",
	"migrations/00011_rights_of_roles.sql":  "0b4188b72ccf2e460c6a92c947d4710183fae710403a35d27cf1ac3065362e1a",
	"migrations/00012_sealed_value.sql":     "754150d18572118ca2a82207b43dd05eacde427529bf9506982f849c6c177cf1",
	"migrations/00013_apps.sql":             "55eae14aa9c6332fbced039e14481a59f543f7d4969bbb6beb90357d811a41f6",
}

func TestReleasedMigrationsNeverChange(t *testing.T) {
	newest, left := 0, len(released)
	for _, file := range MigrationFiles() {
		if file.Version() <= newest {
			t.Errorf("%s: its number is not above %d, the one before", file.Name, newest)
		}
		newest = file.Version()
		want, known := released[file.Name]
		if !known {
			continue
		}
		left--
		sum := sha256.Sum256([]byte(file.Text))
		if got := hex.EncodeToString(sum[:]); got != want {
			t.Errorf("%s was released with other content: put the change into a new file", file.Name)
		}
	}
	if left != 0 {
		t.Errorf("%d released files are not there: a released file keeps its name", left)
	}
	for name := range released {
		if v := (File{Name: name}).Version(); v > newest {
			t.Errorf("%s is newer than every migration", name)
		}
	}
}

// The oldest binary that works on this schema is of a released version, or of this one.
func TestCompatibleSince(t *testing.T) {
	if CompatibleSince < 13 || CompatibleSince > Version() {
		t.Errorf("got %d, want 13 to %d", CompatibleSince, Version())
	}
}

package localpg

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	superuser  = "postgres"
	configName = "hyperiondb-vault.conf"
	// port only names the socket file: nothing listens on it.
	port = 5432
	// longestSocket is below the 104 bytes (macOS) and 108 bytes (Linux) of sockaddr_un.
	longestSocket = 100
)

// hba trusts every local connection, and no other: the mode of the socket's folder decides which users can connect.
const hba = `# Who reaches the socket is trusted, and only the server user and root reach it.
local all         all trust
local replication all trust
host  all         all all reject
`

// ownParameters are settings the package depends on.
var ownParameters = []string{
	"cluster_name", "config_file", "data_directory", "hba_file", "listen_addresses", "port",
	"primary_conninfo", "primary_slot_name", "unix_socket_directories",
}

var (
	parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$`)
	// plainSocket: in a list of socket folders and in a connection string everything else
	// would have to be quoted, differently in each.
	plainSocket = regexp.MustCompile(`^/[A-Za-z0-9_./+-]*$`)
)

func checkParameters(parameters map[string]string) error {
	for name, value := range parameters {
		if !parameterName.MatchString(name) {
			return fmt.Errorf("%q is not the name of a setting", name)
		}
		if slices.Contains(ownParameters, strings.ToLower(name)) {
			return fmt.Errorf("setting %q cannot be changed here", name)
		}
		if strings.ContainsAny(value, "\n\r\x00") {
			return fmt.Errorf("the value of setting %q has a line break or zero byte", name)
		}
	}
	return nil
}

func fitsSocket(dir string) bool {
	return plainSocket.MatchString(dir) && len(filepath.Join(dir, socketFile())) <= longestSocket
}

func socketFile() string { return ".s.PGSQL." + strconv.Itoa(port) }

// settings returns what goes into the node's own configuration file.
func (n *Node) settings(rec record) map[string]string {
	s := map[string]string{
		"cluster_name":            n.name,
		"listen_addresses":        "",
		"port":                    strconv.Itoa(port),
		"unix_socket_directories": n.SocketDir(),
		"unix_socket_permissions": "0700",
		"wal_level":               "replica",
		"hot_standby":             "on",
		"max_connections":         "60",
		"max_wal_senders":         "10",
		"max_replication_slots":   "10",
		"shared_buffers":          "32MB",
		"max_wal_size":            "1GB", // initdb's own line depends on the segment size
		// Files in the data folder, so that nothing in /dev/shm outlives a killed server.
		"dynamic_shared_memory_type": "mmap",
		"log_destination":            "stderr",
		"logging_collector":          "off",
		"log_line_prefix":            "%m [%p] %q%u@%d ",
		"log_timezone":               "UTC",
		"timezone":                   "UTC",
		// A standby that finds its primary away asks again soon rather than after 5 s.
		"wal_retrieve_retry_interval": "100ms",
	}
	if rec.Major >= 18 {
		s["io_method"] = "sync" // the default keeps three more processes for each node
	}
	if !rec.Durable {
		s["fsync"] = "off"
		// Keep pg_wal small: it is copied with every clone.
		s["wal_init_zero"] = "off"
		s["wal_recycle"] = "off"
	}
	for name, value := range rec.Parameters {
		s[strings.ToLower(name)] = value
	}
	if n.roleIn(rec) == roleStandby {
		s["primary_slot_name"] = n.name
		s["primary_conninfo"] = fmt.Sprintf("user=%s host=%s port=%d application_name=%s",
			superuser, n.c.socketDir(rec.primary()), port, n.name)
	}
	return s
}

func renderSettings(settings map[string]string) []byte {
	var b bytes.Buffer
	b.WriteString("# Written anew at every start. Lines in postgresql.conf below the include win over it.\n")
	quote := strings.NewReplacer(`'`, `''`, `\`, `\\`)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, quote.Replace(settings[name]))
	}
	return b.Bytes()
}

// configure writes the node's configuration file and reports whether that changed it.
func (n *Node) configure() (changed bool, err error) {
	n.c.mu.Lock()
	content := renderSettings(n.settings(n.c.rec))
	n.c.mu.Unlock()
	return n.writeData(n.DataDir(), configName, content)
}

// adopt turns what initdb made into a folder that reads our configuration.
func (n *Node) adopt() error {
	conf, err := os.ReadFile(filepath.Join(n.DataDir(), "postgresql.conf"))
	if err != nil {
		return fmt.Errorf("configuring %q: %w", n.name, err)
	}
	conf = fmt.Appendf(conf, "\ninclude '%s'\n", configName)
	if _, err := n.writeData(n.DataDir(), "postgresql.conf", conf); err != nil {
		return err
	}
	if _, err := n.writeData(n.DataDir(), "pg_hba.conf", []byte(hba)); err != nil {
		return err
	}
	_, err = n.configure()
	return err
}

// writeData replaces a file in a data folder in one step, if its content is another. It goes
// through os.Root because the folder belongs to the server user: as root, a plain open would
// follow a symlink that user has put there.
func (n *Node) writeData(data, name string, content []byte) (changed bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s of %q: %w", name, n.name, err)
		}
	}()
	root, err := os.OpenRoot(data)
	if err != nil {
		return false, err
	}
	defer root.Close()
	if old, err := root.ReadFile(name); err == nil && bytes.Equal(old, content) {
		return false, nil
	}
	fresh := name + ".new"
	if err := root.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	f, err := root.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false, err
	}
	_, writeErr := f.Write(content)
	if err := errors.Join(writeErr, n.c.user.give(f), f.Close()); err != nil {
		return false, err
	}
	return true, root.Rename(fresh, name)
}

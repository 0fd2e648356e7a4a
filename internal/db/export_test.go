package db

import "fmt"

// OlderExtension is the name and text of the install script that a build of an older schema version would have made, as far
// as its tables go.
func OlderExtension(version int) (name, text string) {
	return fmt.Sprintf("%s--%d.sql", ExtensionName, version), extensionScript("CREATE EXTENSION "+ExtensionName, func(s *script) {
		s.roles()
		s.tables(0, version)
		fmt.Fprintf(s, "INSERT INTO vault.config (schema_version) VALUES (%d);\n", version)
	})
}

// Package failpoint lets a test end vaultctl or vaultd at a chosen line: [Hit] marks a step of a protocol, and a binary
// built with the tag failpoints kills itself there with SIGKILL, as an out-of-memory killer or a power cut would, when
// VAULT_FAILPOINT names that step.
//
//	VAULT_FAILPOINT=write.committed      at the first hit
//	VAULT_FAILPOINT=write.committed:3    at the third
//
// In every other build Hit does nothing: it is inlined away, and neither the names nor the variable are in the binary,
// as a test checks.
package failpoint

// Names are all steps, in the order in which a put and a rotation pass them.
func Names() []string {
	return []string{
		"seal.done",                 // sealed under a new data key; nothing was sent to the database
		"write.begun",               // the transaction is open and has changed nothing
		"write.before_commit",       // all is written, COMMIT is not sent
		"write.committed",           // COMMIT was answered, the caller was not
		"rotation.claimed",          // a job is claimed and nothing was done for it
		"rotation.candidate_stored", // the new value is sealed in the job, its target is not changed
		"rotation.target_set",       // the target has the new value, untested
		"rotation.target_tested",    // it works there; the version is not current yet
		"rotation.completed",        // the version is current, and the worker has not logged it
	}
}

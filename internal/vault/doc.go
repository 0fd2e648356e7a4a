// Package vault reads and writes secrets. It is the only package that combines plaintext, keys and SQL. Its exported
// methods are the verbs on secrets; vaultctl, the HTTP API and the rotation worker call these and no package below. The
// audit log is package auditdb's.
//
// It guarantees:
//   - A value is sealed before it reaches the database package and opened only for the caller that asked.
//   - A row whose sealed bytes, name, version or wrapped key do not belong together is ErrIntegrity and never a value.
//   - No call to the KMS is made while a transaction is open.
//   - A write whose COMMIT got no reply is sent again under the same request id; if its outcome stays unknown, that is
//     ErrOutcomeUnknown.
//
// Callers wipe the values they get ([Secret.Wipe]) and do not change the value slices they pass in until the call
// returns; the vault does not keep them.
package vault

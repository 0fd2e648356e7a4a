// Package vault is the only door to the secrets: the one package where plaintext, keys and SQL meet. Its exported
// methods are the verbs of the product; vaultctl, the HTTP API and the rotation worker all call these and nothing
// beneath them.
//
// It guarantees:
//   - A value is sealed before it reaches the database package and opened only for the caller who asked.
//   - A row whose sealed bytes, name, version or wrapped key do not belong together is ErrIntegrity and never a value.
//   - No call to the KMS is made while a transaction is open.
//   - A write whose COMMIT went unanswered is asked again under the same request id; what stays undecided is
//     ErrOutcomeUnknown, never a guess.
//
// Callers wipe what they are given ([Secret.Wipe]) and keep the value slices they pass in until the call returns; the
// vault does not keep them.
package vault

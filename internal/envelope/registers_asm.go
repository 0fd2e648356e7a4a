//go:build amd64 || arm64

package envelope

// clearRegisters overwrites the vector registers. Ciphers leave keys and key stream in them,
// and the next signal or preemption would write those to memory.
func clearRegisters()

package db

import "github.com/google/uuid"

const ChangeSettings = changeSettings

var Dialer = dialer

// Meet judges a primary of this timeline, and records it.
func (f *Fence) Meet(id uuid.UUID, system string, timeline int) error {
	return f.observe(lineage{cluster: cluster{id, system}, timeline: timeline})
}

// Highest is the newest timeline seen.
func (f *Fence) Highest(id uuid.UUID, system string) int { return f.seen[cluster{id, system}].Timeline }

// Package testfolder says where the clusters of tests lie, and holds what the test programs of one run share. Clusters
// lie in memory where there is room for them: tests copy, create and remove some hundred thousand files, and on a disk
// that takes much of their processor time. Only tests and test/bench import it.
package testfolder

// roomWanted is how much must be free in memory. It bounds what several test programs fill at once.
const roomWanted = 8 << 30 // bytes

// Parent is the folder in memory below which to make clusters. It is "" on a machine without 8 GB free in such a
// folder; os.MkdirTemp then takes the usual one. A test run that is killed leaves its clusters there.
func Parent() string {
	if room() < roomWanted {
		return ""
	}
	return memory
}

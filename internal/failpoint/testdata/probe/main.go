// Command probe passes one failpoint four times and says so each time it survives.
package main

import (
	"fmt"

	"github.com/hyperiondb/vault/internal/failpoint"
)

func main() {
	for i := range 4 {
		failpoint.Hit("seal.done")
		fmt.Println("survived", i+1)
	}
}

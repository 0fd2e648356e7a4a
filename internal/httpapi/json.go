package httpapi

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hyperiondb/vault/internal/strictjson"
)

type fields = strictjson.Fields

// decodeObject reads a body of strict JSON. Its errors are 400s that never repeat what was sent.
func decodeObject(data []byte, into fields) error {
	err := strictjson.Decode(data, into)
	switch {
	case errors.Is(err, strictjson.ErrUTF8):
		return badRequest("the body is " + err.Error())
	case errors.Is(err, strictjson.ErrUnknownField):
		return badRequest(err.Error() + ", known here: " + strings.Join(slices.Sorted(maps.Keys(into)), ", "))
	case err != nil:
		return badRequest(err.Error())
	}
	return nil
}

func fieldError(name string, err error) error {
	return badRequest(fmt.Sprintf("field %q: %s", name, err))
}

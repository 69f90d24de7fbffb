package keys

import (
	"encoding/json"
	"path"
	"strings"
	"testing"
)

// Whatever a record says, what is taken of it is safe to name on a host, and reads
// the same again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"a":{"source":{"file":"x"},"name":"a","destDir":"/run/keys","user":"root","group":"root","permissions":"0400"}}`))
	f.Add([]byte(`{"a":{"source":{"command":["x"],"decrypt":"age"},"name":"..","destDir":"/","user":"-x","group":"0","permissions":"777","uploadAt":"post-activation"}}`))
	f.Add([]byte(`{"a":{"source":{"eval":"x"},"name":"a b","destDir":"/a/../b","user":"a$","group":"a.b","permissions":"1777","restartUnits":["-x"],"action":["\u0000"]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		keys, err := Parse(raw)
		if err != nil {
			return
		}
		again := map[string]Key{}
		for i, k := range keys {
			if i > 0 && keys[i-1].ID >= k.ID {
				t.Errorf("%q comes behind %q", k.ID, keys[i-1].ID)
			}
			if !path.IsAbs(k.Path()) || path.Base(k.Path()) != k.Name || strings.ContainsAny(k.Path(), "\x00\n") ||
				strings.HasPrefix(k.User, "-") || strings.HasPrefix(k.Group, "-") || k.UploadAt == "" {
				t.Errorf("%+v is no key", k)
			}
			again[k.ID] = k
		}
		text, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		if same, err := Parse(text); err != nil || len(same) != len(keys) {
			t.Errorf("%s reads as %v, error %v", text, same, err)
		}
	})
}

// Package keys brings secrets from where they come from to hosts, outside the Nix
// store: NixOps' and colmena's deployment.keys, morph's deployment.secrets, nixus'
// secrets.files, which are one thing here.
//
// It knows what a record says of a key, where its contents come from, and how they
// are staged and installed on a host; README.md has the way. When a key is brought
// where is the stages' to say, and how a host is reached theirs and pkg/remote's.
package keys

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// A Key is a file with a secret on a host, as a record's deployment.keys has it,
// without its contents.
type Key struct {
	ID          string   `json:"-"`           // its name in the network, unique on the host
	Source      Source   `json:"source"`      // where its contents come from
	Name        string   `json:"name"`        // of the file
	DestDir     string   `json:"destDir"`     // where the file is, absolute
	User        string   `json:"user"`        // whose the file is: a name or a number, on the host
	Group       string   `json:"group"`       // likewise
	Permissions string   `json:"permissions"` // octal, such as "0400"
	UploadAt    UploadAt `json:"uploadAt"`    // pre-activation when empty

	MakeDirs     *bool    `json:"mkDirs,omitempty"`       // whether DestDir is made where it is missing: yes unless it says no
	Action       []string `json:"action,omitempty"`       // what runs on the host when the key has changed
	RestartUnits []string `json:"restartUnits,omitempty"` // what is restarted then, if it runs
}

// UploadAt is the moment at which a key is installed.
type UploadAt string

// The moments: just before the switch, and once the new system is confirmed.
const (
	PreActivation  UploadAt = "pre-activation"
	PostActivation UploadAt = "post-activation"
)

// A Source says where the contents of a key come from: exactly one of File,
// Command and Eval is set.
type Source struct {
	File    string   `json:"file,omitempty"`    // on the deploying machine, below the root folder unless absolute
	Command []string `json:"command,omitempty"` // run on the deploying machine, without a shell: its stdout
	Eval    string   `json:"eval,omitempty"`    // the option of the network that is the contents
	Decrypt string   `json:"decrypt,omitempty"` // "age" or "sops": how what File or Command give is encrypted
}

// Path is where the key is on the host.
func (k *Key) Path() string { return path.Join(k.DestDir, k.Name) }

// Late tells whether the key is installed once the new system is confirmed.
func (k *Key) Late() bool { return k.UploadAt == PostActivation }

// Parse reads a record's deployment.keys, which may be empty. The keys come in the
// order of their IDs.
func Parse(raw []byte) ([]Key, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var byID map[string]Key
	if err := json.Unmarshal(raw, &byID); err != nil {
		return nil, fmt.Errorf("deployment.keys: %w", err)
	}
	var keys []Key
	at := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		k := byID[id]
		k.ID = id
		if err := k.validate(); err != nil {
			return nil, fmt.Errorf("deployment.keys.%s: %w", id, err)
		}
		if other, taken := at[k.Path()]; taken {
			return nil, fmt.Errorf("deployment.keys: %s and %s are both at %s", other, id, k.Path())
		}
		at[k.Path()] = id
		keys = append(keys, k)
	}
	return keys, nil
}

var (
	// Users, groups and units as they are given to chown and systemctl, which take
	// no "--" everywhere.
	owner = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?$`)
	unit  = regexp.MustCompile(`^[A-Za-z0-9:_\\.@][A-Za-z0-9:_\\.@-]*$`)
	mode  = regexp.MustCompile(`^0?[0-7]{3}$`)
)

func (k *Key) validate() error {
	if k.UploadAt == "" {
		k.UploadAt = PreActivation
	}
	switch {
	case k.ID == "" || strings.ContainsFunc(k.ID, isControl):
		return fmt.Errorf("%q is no name of a key", k.ID)
	case k.Name == "" || k.Name == "." || k.Name == ".." || strings.ContainsRune(k.Name, '/') || strings.ContainsFunc(k.Name, isControl):
		return fmt.Errorf("name %q is no name of a file", k.Name)
	case !path.IsAbs(k.DestDir) || strings.ContainsFunc(k.DestDir, isControl):
		return fmt.Errorf("destDir %q is no absolute path", k.DestDir)
	case !owner.MatchString(k.User):
		return fmt.Errorf("user %q is no name of a user", k.User)
	case !owner.MatchString(k.Group):
		return fmt.Errorf("group %q is no name of a group", k.Group)
	case !mode.MatchString(k.Permissions):
		return fmt.Errorf("permissions %q are not octal, as 0400 is", k.Permissions)
	case k.UploadAt != PreActivation && k.UploadAt != PostActivation:
		return fmt.Errorf("uploadAt %q is neither %s nor %s", k.UploadAt, PreActivation, PostActivation)
	}
	for _, u := range k.RestartUnits {
		if !unit.MatchString(u) {
			return fmt.Errorf("restartUnits: %q is no name of a unit", u)
		}
	}
	for _, word := range k.Action {
		if strings.ContainsRune(word, 0) {
			return errors.New("action: a word has a NUL byte")
		}
	}
	return k.Source.validate()
}

func (s *Source) validate() error {
	set := 0
	for _, is := range []bool{s.File != "", len(s.Command) > 0, s.Eval != ""} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return errors.New("source is not exactly one of file, command and eval")
	case s.Decrypt != "" && s.Decrypt != "age" && s.Decrypt != "sops":
		return fmt.Errorf("decrypt %q is neither age nor sops", s.Decrypt)
	case s.Decrypt != "" && s.Eval != "":
		return fmt.Errorf("decrypt %q is for files and commands, not for a text of the network", s.Decrypt)
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

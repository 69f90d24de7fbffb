package digitalocean

import (
	"encoding/json"
	"fmt"
	"strings"

	"nx/pkg/provision"
)

// userData has cloud-init give a machine its ssh host key at its first boot, and no
// other one (cloud-init's documentation, module "SSH": ssh_keys, ssh_deletekeys). JSON
// is YAML, and has but one way to quote.
func userData(key provision.HostKey) (string, error) {
	config, err := json.Marshal(struct {
		DeleteKeys bool              `json:"ssh_deletekeys"`
		Keys       map[string]string `json:"ssh_keys"`
	}{true, map[string]string{
		"ed25519_private": strings.TrimSuffix(key.Private, "\n") + "\n",
		"ed25519_public":  key.Public + "\n",
	}})
	if err != nil {
		return "", fmt.Errorf("write user data: %w", err)
	}
	return "#cloud-config\n" + string(config) + "\n", nil
}

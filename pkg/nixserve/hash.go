package nixserve

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// base32 are the digits of Nix' base 32: no e, o, t, u.
const base32 = "0123456789abcdfghijklmnpqrsvwxyz"

// decodeHash returns the 32 bytes of a hash as path infos have it: "sha256:" and
// 52 digits of Nix' base 32, the last digit first (Nix' hash.cc).
func decodeHash(s string) ([]byte, error) {
	digits, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(digits) != 52 {
		return nil, fmt.Errorf("hash %q is not sha256: and 52 digits", s)
	}
	sum := make([]byte, 32)
	for n := range digits {
		digit := strings.IndexByte(base32, digits[len(digits)-1-n])
		if digit < 0 {
			return nil, fmt.Errorf("hash %q has digits that are not Nix' base 32", s)
		}
		i, shift := n*5/8, n*5%8
		sum[i] |= byte(digit << shift)
		if carry := digit >> (8 - shift); i+1 < len(sum) {
			sum[i+1] |= byte(carry)
		} else if carry != 0 {
			return nil, fmt.Errorf("hash %q has more than 256 bits", s)
		}
	}
	return sum, nil
}

// hexHash converts a path info's hash to the form that AddToStoreNar wants:
// base 16 without "sha256:".
func hexHash(s string) (string, error) {
	sum, err := decodeHash(s)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(sum), nil
}

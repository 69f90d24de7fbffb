package store

// Base32 writes a hash of 160 bits as Nix does in store paths and elsewhere: 32
// digits of its own base 32, the last bits first (Nix' hash.cc, printHash32).
func Base32(sum [20]byte) string {
	digits := make([]byte, hashLen)
	for n := range digits {
		i, shift := n*5/8, n*5%8
		bits := int(sum[i]) >> shift
		if i+1 < len(sum) {
			bits |= int(sum[i+1]) << (8 - shift)
		}
		digits[len(digits)-1-n] = nix32[bits&31]
	}
	return string(digits)
}

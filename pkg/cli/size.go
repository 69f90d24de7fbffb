package cli

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// A Size is a flag's number of bytes, written with a unit as in 512M or 1.5G.
type Size int64

// UnmarshalText reads a number with one of the units K, M, G, T, which are powers
// of 1024, or without.
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := string(text), 1.0
	for i, suffix := range []string{"K", "M", "G", "T"} {
		if n, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = n, float64(int64(1)<<(10*(i+1)))
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n*unit >= 1) || n*unit >= math.MaxInt64 {
		return errors.New("it must be a size such as 512M or 2G")
	}
	*s = Size(n * unit)
	return nil
}

// String writes the size for people, in the flag's units: 0, 713, 1.5M, 12G.
func (s Size) String() string {
	n, unit := float64(s), ""
	for _, next := range []string{"K", "M", "G", "T"} {
		if n < 999.5 {
			break
		}
		n, unit = n/1024, next
	}
	if n < 9.95 && unit != "" {
		return strconv.FormatFloat(n, 'f', 1, 64) + unit
	}
	return strconv.FormatFloat(n, 'f', 0, 64) + unit
}

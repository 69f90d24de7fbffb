package cli

import "testing"

func TestSize(t *testing.T) {
	tests := []struct {
		text string
		want Size // 0: an error
	}{
		{"1", 1}, {"4096", 4096}, {"1K", 1 << 10}, {"512M", 512 << 20}, {"2G", 2 << 30}, {"1.5G", 3 << 29}, {"1T", 1 << 40},
		{"", 0}, {"G", 0}, {"0", 0}, {"-1G", 0}, {"NaN", 0}, {"Inf", 0}, {"9999999T", 0}, {"2GB", 0}, {"two", 0},
	}
	for _, tt := range tests {
		var got Size
		err := got.UnmarshalText([]byte(tt.text))
		if got != tt.want || (err != nil) != (tt.want == 0) {
			t.Errorf("size %q is %d (%v), want %d", tt.text, got, err, tt.want)
		}
	}
}

func TestSizeString(t *testing.T) {
	for size, want := range map[Size]string{0: "0", 713: "713", 999: "999", 1000: "1.0K", 1024: "1.0K", 10 << 10: "10K",
		1023 << 10: "1.0M", 3 << 19: "1.5M", 800 << 20: "800M", 12 << 30: "12G", 5 << 50: "5120T"} {
		if got := size.String(); got != want {
			t.Errorf("%d bytes: got %s, want %s", int64(size), got, want)
		}
	}
}

package store

import (
	"strings"
	"testing"
)

// The key is one of "nix-store --generate-binary-cache-key", made for this test.
const secretKey = "test-1:HZmP50aTKfZf/aTfErKyAl3tg83sQSyPN/uRbSDoT6Nw14Pvt/xKVfb1XEw/bx7Q4X4yj5a9MQCHrKMRw9g1aw=="

// What "nix store sign" of Nix 2.8 made of the same objects.
func TestSign(t *testing.T) {
	key, err := ParseSecretKey(secretKey + "\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		info Info
		want string
	}{
		{Info{Path: "/nix/store/rid2vjzhmx3cvy5vmg09dj75fvyk4f60-b", NarHash: "sha256:1l54bvbdkyapidgayivshvxrvsr8jxlyg65pq753b2442nzv39a2", NarSize: 208,
			References: []Path{"/nix/store/kmmkrxlfw7rbwdnaj9js21xg9m42q8kw-a"}},
			"test-1:UnpQHgzMe/fu5m6i0t3kohh5JJbDALJRASRLQsiHPIFjDZgAytll+9L/cZH8nvfVGeAbNwPjzBpxcQDqddzoAg=="},
		{Info{Path: "/nix/store/kya735zn1av5jf8blwrywqamrg094574-b", NarHash: "sha256:0barq7a1417yxry0kv2y6i60zqyvgp2anidyrzvy99izjwdk24mf", NarSize: 208,
			References: []Path{"/nix/store/0cpx5m1q4gcqw1hijq3i7b6iqxw51gqn-c", "/nix/store/kmmkrxlfw7rbwdnaj9js21xg9m42q8kw-a"}},
			"test-1:Ox6VsFyvdvUKNW+GBntNFl3Q6Q5Jvx8jYM71LM9K7W2mIpvCsGGSRX2scfQ9txnVIozH9eyzIbuTNzyRXSbkDQ=="},
	} {
		if got := key.Sign(tt.info); got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.info.Path, got, tt.want)
		}
	}
}

func TestParseSecretKey(t *testing.T) {
	for _, tt := range []struct{ name, text, wantErr string }{
		{"empty", "", "it is no secret key of Nix"},
		{"no name", secretKey[len("test-1"):], "it is no secret key of Nix"},
		{"two keys", secretKey + "\n" + secretKey, "is not base 64"},
		{"ssh key", "-----BEGIN OPENSSH PRIVATE KEY-----", "it is no secret key of Nix"},
		{"public key", "test-1:cNeD77f8SlX29VxMP28e0OF+Mo+WvTEAh6yjEcPYNWs=", "it is a public key"},
		{"cut", "test-1:HZmP50aTKfZf/aTf", "has 12 bytes, not 64"},
	} {
		_, err := ParseSecretKey(tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.wantErr) || strings.Contains(err.Error(), "HZmP") {
			t.Errorf("%s: error %v, want one with %q", tt.name, err, tt.wantErr)
		}
	}
}

package testhost

import (
	"fmt"
	"testing"
)

func TestChoose(t *testing.T) {
	const mine, other = "0123456789abcdef0123456789abcdef", "ffffffffffffffffffffffffffffffff"
	tests := []struct {
		name   string
		last   int // the lab's net so far
		links  []link
		routes []route
		want   int // -1: none
	}{
		{name: "nothing there", last: 7, want: 7},
		{name: "its own bridge, whatever it had before", last: 7, links: []link{{Name: "nx9", Alias: mine}}, routes: []route{{Dst: "10.231.9.0/24", Dev: "nx9"}}, want: 9},
		{name: "another lab's bridge", last: 7, links: []link{{Name: "nx7", Alias: other}}, want: 8},
		{name: "behind the last one comes the first", last: 255, links: []link{{Name: "nx255", Alias: other}}, want: 0},
		{name: "a bridge half made", last: 7, links: []link{{Name: "nx7"}}, routes: []route{{Dst: "10.231.7.1", Dev: "nx7"}}, want: 7},
		{name: "a bridge of unknown use", last: 7, links: []link{{Name: "nx7"}, {Name: "tap0", Master: "nx7"}}, want: 8},
		{name: "a default route is no obstacle", last: 7, routes: []route{{Dst: "default", Dev: "eth0"}}, want: 7},
		{name: "nor is one to much more", last: 7, routes: []route{{Dst: "10.0.0.0/8", Dev: "tun0"}}, want: 7},
		{name: "a route to one address", last: 7, routes: []route{{Dst: "10.231.7.200", Dev: "eth0"}, {Dst: "10.231.8.128/25", Dev: "eth0"}}, want: 9},
		{name: "all taken by one route", last: 7, routes: []route{{Dst: "10.231.0.0/16", Dev: "eth0"}}, want: -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := choose(&registry{ID: mine, Net: tt.last}, tt.links, tt.routes)
			if !ok {
				got = -1
			}
			if got != tt.want {
				t.Errorf("choose(net %d, %+v, %+v) = %d, want %d", tt.last, tt.links, tt.routes, got, tt.want)
			}
		})
	}
}

func TestUnused(t *testing.T) {
	r := &registry{Hosts: map[string]int{}}
	first, ok := unused(r, "web1")
	if again, _ := unused(r, "web1"); !ok || first != again {
		t.Errorf("unused(web1) = %d, then %d", first, again)
	}
	for i := range 253 {
		name := fmt.Sprint("h", i)
		last, ok := unused(r, name)
		if !ok || last < 2 || last > 254 {
			t.Fatalf("unused(%s) beside %d others = %d, %v, want 2 to 254", name, i, last, ok)
		}
		for other, taken := range r.Hosts {
			if taken == last {
				t.Fatalf("%s and %s both have %d", name, other, last)
			}
		}
		r.Hosts[name] = last
	}
	if got, ok := unused(r, "web1"); ok {
		t.Errorf("unused of a full net = %d, want none", got)
	}
}

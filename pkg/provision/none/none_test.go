package none

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"nx/pkg/provision"
	"nx/pkg/target"
)

func web1(deployment string) provision.Thing {
	return provision.Thing{Ref: provision.Ref{Type: "machines", Name: "web1"}, Config: json.RawMessage(deployment)}
}

func TestDescribe(t *testing.T) {
	tests := []struct {
		name       string
		deployment string
		want       target.Target
		wantErr    string
	}{
		{name: "nothing said", deployment: `{}`, want: target.Target{Host: "web1"}},
		{name: "known from the state alone", deployment: ``, want: target.Target{Host: "web1"}},
		{name: "null is nothing said", deployment: `{"targetHost":null}`, want: target.Target{Host: "web1"}},
		{name: "defaults are left to ssh's configuration", deployment: `{"targetEnv":"none","targetHost":"192.168.1.20","targetPort":22,"targetUser":"root","privilegeEscalationCommand":["sudo","-H","--"]}`,
			want: target.Target{Host: "192.168.1.20"}},
		{name: "another user and port", deployment: `{"targetHost":"web.example.org","targetPort":2222,"targetUser":"deploy","privilegeEscalationCommand":["sudo","-H","--"]}`,
			want: target.Target{Host: "web.example.org", Port: 2222, User: "deploy", Sudo: []string{"sudo", "-H", "--"}}},
		{name: "wrong type", deployment: `{"targetHost":["a"]}`, wantErr: "read options: deployment.targetHost is a array"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &Provider{}
			got, err := p.Describe(web1(tt.deployment))
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("Describe(%s): %v, want %q", tt.deployment, err, tt.wantErr)
				}
				return
			}
			if want := (provision.Facts{Target: tt.want}); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("Describe(%s)\n got %+v, %v\nwant %+v", tt.deployment, got, err, want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	p := &Provider{Probe: func(_ context.Context, t target.Target) error {
		if t.Host == "up.example.org" {
			return nil
		}
		return errors.New("connect " + t.Host + ": no route to host")
	}}
	for host, want := range map[string]provision.State{"up.example.org": provision.Up, "down.example.org": provision.Unreachable} {
		m := web1(`{"targetHost":"` + host + `"}`)
		if h, err := p.Check(t.Context(), m); (err == nil) != (want == provision.Up) || h.State != want {
			t.Errorf("Check(%s) = %q, %v, want %q", host, h.State, err, want)
		}
	}
	m := web1(`{"targetHost":"-oProxyCommand=evil"}`)
	if _, err := p.Check(t.Context(), m); err == nil || !strings.Contains(err.Error(), "target.host") {
		t.Errorf("Check of a host that is an option: %v", err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	m.Config = nil
	if _, err := p.Check(stopped, m); !errors.Is(err, context.Canceled) {
		t.Errorf("Check when interrupted: %v, want no statement about the host", err)
	}
}

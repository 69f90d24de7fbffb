package activate

import (
	"fmt"
	"math"
	"strings"

	"github.com/tidwall/gjson"

	"nx/pkg/record"
)

// Settings are what a host is given for its protocol, from the record's
// deployment.activation. Times are in seconds.
type settings struct {
	switchTimeout  int    // for switch-to-configuration
	confirmTimeout int    // for somebody to reach the new system; 0 asks nobody
	settleTime     int    // until units must be well
	ignore         string // units that may fail, "a.service,b.service", or "true" for all
	rollback       bool
}

// settingsOf reads a host's settings. Where deployment.activation is silent, what
// nixus and deploy-rs call by other names counts.
func settingsOf(r *record.Record) (settings, error) {
	s := settings{switchTimeout: 300, confirmTimeout: 60, settleTime: 10, rollback: true}
	d := r.Get("deployment")
	var wrong error
	seconds := func(to *int, keys ...string) {
		for _, key := range keys {
			v := d.Get(key)
			if !v.Exists() || v.Type == gjson.Null {
				continue
			}
			if v.Type != gjson.Number || v.Num < 0 || v.Num != math.Trunc(v.Num) || v.Num > 1e6 {
				wrong = fmt.Errorf("%q is %s, not a number of seconds", "deployment."+key, v.Raw)
			}
			*to = int(v.Num)
		}
	}
	yes := func(to *bool, keys ...string) {
		for _, key := range keys {
			v := d.Get(key)
			if !v.Exists() || v.Type == gjson.Null {
				continue
			}
			if !v.IsBool() {
				wrong = fmt.Errorf("%q is %s, neither true nor false", "deployment."+key, v.Raw)
			}
			*to = v.Bool()
		}
	}
	seconds(&s.switchTimeout, "switchTimeout", "activation.switchTimeout")
	seconds(&s.confirmTimeout, "successTimeout", "activation.confirmTimeout")
	seconds(&s.settleTime, "activation.settleTime")
	yes(&s.rollback, "autoRollback", "activation.rollback")
	confirm, ignore := true, false
	yes(&confirm, "magicRollback")
	if !confirm {
		s.confirmTimeout = 0
	}
	const list = "activation.ignoreFailedUnits"
	if v := d.Get(list); v.IsArray() {
		var units []string
		v.ForEach(func(_, unit gjson.Result) bool {
			if unit.Type != gjson.String || strings.ContainsAny(unit.Str, ", \t\n") {
				wrong = fmt.Errorf("%q has %s, which is no unit", "deployment."+list, unit.Raw)
			}
			units = append(units, unit.Str)
			return true
		})
		s.ignore = strings.Join(units, ",")
	} else {
		yes(&ignore, "ignoreFailingSystemdUnits", list)
	}
	if ignore {
		s.ignore = "true"
	}
	return s, wrong
}

// words are the settings as the script takes them.
func (s settings) words() []string {
	rollback := 0
	if s.rollback {
		rollback = 1
	}
	return []string{
		fmt.Sprintf("switch=%d", s.switchTimeout), fmt.Sprintf("confirm=%d", s.confirmTimeout),
		fmt.Sprintf("settle=%d", s.settleTime), "ignore=" + s.ignore, fmt.Sprintf("rollback=%d", rollback),
	}
}

package exec

// Through returns a provider that starts its programs through run.
func (p *Provider) Through(run func(func() error) error) *Provider {
	q := *p
	q.through = run
	return &q
}

package render

import (
	"errors"
	"fmt"
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Staged is a difference, validated and rendered, that nothing has seen yet.
type Staged struct {
	settings     *tsujiv1.Settings // nil: unchanged
	program      *program          // nil: unchanged
	routes       map[string]*route // nil: gone
	endpoints    map[string][]endpoint
	certificates map[string]*certificate // nil: gone
	leftOut      map[string]bool         // routes whose servers are not checked, though they ask for it
	rates        map[string]*rates       // of the namespaces that ask for others than before
}

// Stage renders what the difference touches. It changes nothing. An error is as that of Apply.
func (r *Renderer) Stage(d snapshot.Delta) (*Staged, error) {
	s := &Staged{
		routes:       map[string]*route{},
		endpoints:    map[string][]endpoint{},
		certificates: map[string]*certificate{},
	}
	var errs []error
	for _, i := range d.Put {
		if err := r.stageItem(s, i); err != nil {
			errs = append(errs, &ResourceError{Resource: i.Name(), Err: err})
		}
	}
	for _, name := range d.Removed {
		switch {
		case name == tsujiv1.SettingsName:
			s.settings = &tsujiv1.Settings{}
		case strings.HasPrefix(name, "route/"):
			s.routes[name] = nil
		case strings.HasPrefix(name, "endpoints/"):
			s.endpoints[name] = nil
		case strings.HasPrefix(name, "cert/"):
			s.certificates[name] = nil
		}
	}
	if err := r.stageProgram(s); err != nil {
		errs = append(errs, &ResourceError{Resource: tsujiv1.SettingsName, Err: err})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	r.stageServers(s)
	return s, nil
}

func (r *Renderer) stageItem(s *Staged, i snapshot.Item) error {
	res, err := tsujiv1.Decode(i)
	if err != nil {
		return err //nolint:wrapcheck // Decode says what it tried
	}
	switch k := res.GetKind().(type) {
	case *tsujiv1.Resource_Settings:
		s.settings = k.Settings
	case *tsujiv1.Resource_Route:
		s.routes[i.Name()], err = newRoute(i.Name(), k.Route, r.options.version())
	case *tsujiv1.Resource_Endpoints:
		s.endpoints[i.Name()], err = readEndpoints(k.Endpoints)
	case *tsujiv1.Resource_Certificate:
		s.certificates[i.Name()], err = newCertificate(i.Name(), k.Certificate)
	default:
		err = fmt.Errorf("a %s does not belong into a snapshot", res.KindName())
	}
	return err
}

// stageProgram renders the Settings again where they or the CA certificates that they name changed, or their
// revocation lists. It refuses those that name a CA for certificates of clients that is not there, or that want them
// checked against lists that are not: HAProxy could verify none, and letting everybody in is not what was meant.
func (r *Renderer) stageProgram(s *Staged) error {
	now, files := r.wantedSettings(s), clientFiles{}
	name := now.GetClientTls().GetCa()
	_, other := s.certificates[name]
	if s.settings == nil && !other {
		return nil
	}
	if name != "" {
		c := r.wantedCertificate(s, name)
		if c == nil || c.ca == nil {
			return fmt.Errorf("client certificates: no CA certificates %.80q", name)
		}
		files.ca = c.path
		if now.GetClientTls().GetCheckRevocation() {
			if files.lists = c.listsPath; files.lists == "" {
				return fmt.Errorf("client certificates: no revocation lists in %.80q", name)
			}
		}
	}
	p, err := r.options.renderProgram(now, files)
	s.program = &p
	return err
}

// stageServers makes the backend of every route that the difference touches, by itself or through what it
// refers to.
func (r *Renderer) stageServers(s *Staged) {
	f, before := factsOf(r.wantedSettings(s), r.options.version()), factsOf(r.settings, r.options.version())
	f.endpoints = func(name string) []endpoint {
		if e, ok := s.endpoints[name]; ok {
			return e
		}
		return r.endpoints[name]
	}
	f.ca = func(name string) (string, bool) {
		c := r.wantedCertificate(s, name)
		if c == nil || c.ca == nil {
			return "", false
		}
		return c.path, true
	}
	for _, rt := range s.routes {
		if rt != nil {
			rt.resolve(f)
		}
	}
	remake := func(name string) {
		if _, ok := s.routes[name]; ok {
			return
		}
		rt := *r.routes[name]
		rt.resolve(f)
		s.routes[name] = &rt
	}
	if f.http2 != before.http2 || f.policy != before.policy || f.names != before.names {
		for name := range r.routes {
			remake(name)
		}
	}
	for name := range s.endpoints {
		for user := range r.users[name] {
			remake(user)
		}
	}
	for name, now := range s.certificates {
		if before := r.certificates[name]; (before == nil || before.ca == nil) && (now == nil || now.ca == nil) {
			continue // servers depend on CA certificates only
		}
		for user := range r.users[name] {
			remake(user)
		}
	}
	r.stageChecks(s, f)
	r.stageRates(s, f)
}

func (r *Renderer) wantedSettings(s *Staged) *tsujiv1.Settings {
	if s.settings != nil {
		return s.settings
	}
	return r.settings
}

func (r *Renderer) wantedCertificate(s *Staged, name string) *certificate {
	if c, ok := s.certificates[name]; ok {
		return c
	}
	return r.certificates[name]
}

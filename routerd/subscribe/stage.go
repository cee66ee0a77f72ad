package subscribe

import (
	"errors"
	"fmt"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// series is what the parts of one version have brought so far.
type series struct {
	delta snapshot.Delta
	names map[string]struct{} // in delta
	bytes int                 // that delta takes, about
}

// mismatchError says that what was received does not make the version that it should. The series is of no use,
// and the difference to what is in force cannot be trusted either: the next stream asks for everything.
type mismatchError struct {
	reason string // "base", "resource" or "result", for the metrics
	text   string
}

func (e *mismatchError) Error() string { return e.text }

// Ways in which responses break the protocol.
var (
	errTwice    = errors.New("is named twice in one series")
	errNoNonce  = errors.New("response without a nonce")
	errCommits  = errors.New("two commits in one response")
	errUncommit = errors.New("a commit among what was removed")
)

// overhead is what a staged resource takes besides its name and content, in bytes.
const overhead = 200

// add stages a response. It returns the commit, if the response has one: it ends the series.
func (s *series) add(r *discovery.DeltaDiscoveryResponse, limit int) (*tsujiv1.Commit, error) {
	if r.GetTypeUrl() != tsujiv1.TypeURL {
		return nil, fmt.Errorf("response of type %.200q", r.GetTypeUrl())
	}
	if r.GetNonce() == "" {
		return nil, errNoNonce
	}
	var commit *tsujiv1.Commit
	for _, res := range r.GetResources() {
		if got := res.GetResource().GetTypeUrl(); got != tsujiv1.TypeURL {
			return nil, fmt.Errorf("resource %.300q of type %.200q", res.GetName(), got)
		}
		item := snapshot.NewItem(res.GetName(), res.GetResource().GetValue())
		if res.GetName() == tsujiv1.CommitName {
			if commit != nil {
				return nil, errCommits
			}
			decoded, err := tsujiv1.Decode(item)
			if err != nil {
				return nil, err
			}
			commit = decoded.GetCommit()
			continue
		}
		if item.Digest().String() != res.GetVersion() {
			return nil, &mismatchError{"resource", fmt.Sprintf("resource %.300q has digest %s, announced as %.80q", item.Name(), item.Digest(), res.GetVersion())}
		}
		if err := s.stage(item.Name(), len(item.Encoded()), limit); err != nil {
			return nil, err
		}
		s.delta.Put = append(s.delta.Put, item)
	}
	for _, name := range r.GetRemovedResources() {
		if err := s.stage(name, 0, limit); err != nil {
			return nil, err
		}
		s.delta.Removed = append(s.delta.Removed, name)
	}
	return commit, nil
}

func (s *series) stage(name string, size, limit int) error {
	if s.names == nil {
		s.names = map[string]struct{}{}
	}
	if name == tsujiv1.CommitName {
		return errUncommit
	}
	if _, ok := s.names[name]; ok {
		return fmt.Errorf("resource %.300q %w", name, errTwice)
	}
	s.names[name] = struct{}{}
	if s.bytes += overhead + len(name) + size; s.bytes > limit {
		return fmt.Errorf("a version of more than %d bytes: not staged any further", limit)
	}
	return nil
}

// settle verifies the whole series against its commit. It returns the snapshot that the series makes, and what
// leads there from what is in force.
func (s *series) settle(commit *tsujiv1.Commit, inForce snapshot.Snapshot, ok bool) (snapshot.Snapshot, snapshot.Delta, error) {
	fail := func(err error) (snapshot.Snapshot, snapshot.Delta, error) {
		return snapshot.Snapshot{}, snapshot.Delta{}, err
	}
	v, err := snapshot.ParseVersion(commit.GetVersion())
	if err != nil {
		return fail(fmt.Errorf("commit: %w", err))
	}
	base, err := snapshot.ParseVersion(commit.GetBase())
	if err != nil {
		return fail(fmt.Errorf("commit: base: %w", err))
	}
	var from snapshot.Snapshot
	if !base.IsZero() {
		if !ok || !inForce.Version().Equal(base) {
			return fail(&mismatchError{"base", fmt.Sprintf("a difference from version %s, but %s is in force", base.Short(), shortOf(inForce, ok))})
		}
		from = inForce
	}
	next := from.Apply(v.Revision, s.delta)
	switch {
	case next.Len() != int(commit.GetResources()):
		return fail(&mismatchError{"result", fmt.Sprintf("version %s should have %d resources, and has %d", v.Short(), commit.GetResources(), next.Len())})
	case !next.Version().Equal(v),
		!slices.Equal(commit.GetConfigDigest(), v.Config[:]), !slices.Equal(commit.GetFactsDigest(), v.Facts[:]):
		return fail(&mismatchError{"result", fmt.Sprintf("what was received for version %s makes %s", v.Short(), next.Version().Short())})
	}
	return next, snapshot.Diff(inForce, next), nil
}

func shortOf(s snapshot.Snapshot, ok bool) string {
	if !ok {
		return "nothing"
	}
	return s.Version().Short()
}

// judge refuses resources that this router cannot read, or that need what it does not have.
func judge(items []snapshot.Item, features []string) *tsujiv1.Refusal {
	refusal := &tsujiv1.Refusal{Class: tsujiv1.RefusalClass_REFUSAL_CLASS_UNSUPPORTED}
	refuse := func(i snapshot.Item, message string) {
		d := i.Digest()
		refusal.Resources = append(refusal.Resources, &tsujiv1.RefusedResource{Resource: i.Name(), Digest: d[:], Message: message})
	}
	for _, i := range items {
		r, err := tsujiv1.Decode(i)
		if err != nil {
			if !unknownKind(i) {
				refusal.Class = tsujiv1.RefusalClass_REFUSAL_CLASS_CONTENT
			}
			refuse(i, err.Error())
			continue
		}
		for _, f := range r.GetRequiredFeatures() {
			if !slices.Contains(features, f) {
				refuse(i, fmt.Sprintf("it requires the feature %.100q, which this router does not have", f))
				break
			}
		}
	}
	if len(refusal.Resources) == 0 {
		return nil
	}
	refusal.Message = fmt.Sprintf("%d resources cannot be put into force by this release of routerd", len(refusal.GetResources()))
	return refusal
}

// unknownKind tells whether an item is a resource as such, of a kind that came after this release.
func unknownKind(i snapshot.Item) bool {
	r := &tsujiv1.Resource{}
	return proto.Unmarshal(i.Encoded(), r) == nil && r.GetName() == i.Name() && r.GetKind() == nil
}

package policy

import (
	"iter"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/mayfly-id/mayfly"
)

// Policies are put in buckets by the scope in their head, so that the cost of a
// decision does not grow with policies that are about something else. A policy
// outside the buckets of a request is one whose head does not fit it: Cedar
// looks at the head first, so such a policy neither applies nor errs.

// bucketKey is an action and a type of principal.
type bucketKey struct {
	action    cedar.EntityUID
	principal cedar.EntityType
}

// bucket holds policies by the resource they name, one or the target it is in;
// the zero UID is any.
type bucket struct{ byResource map[cedar.EntityUID]*shelf }

// shelf holds policies by the principal they name, one or the group or profile
// it is in.
type shelf struct {
	any         slot
	byPrincipal map[cedar.EntityUID]*slot
}

// slot holds positions in the set, and what of the context these policies read.
type slot struct {
	forbids, permits []int
	read             parts
}

var actions = []cedar.EntityUID{actionUse, actionDelegate, actionApprove, actionRead, actionRevoke}

var principals = []cedar.EntityType{typeHuman, typeService, typeAgent}

// index puts every policy in its buckets.
func (s *Set) index() {
	s.byID = make(map[cedar.PolicyID]int, len(s.policies))
	s.buckets = map[bucketKey]*bucket{}
	for i := range s.policies {
		p := s.policies[i].policy
		s.byID[cedar.PolicyID(s.policies[i].id)] = i
		tree := (*ast.Policy)(p.AST())
		read := partsRead(tree)
		s.readsSeen = s.readsSeen || read&partSeen != 0
		who, kinds := principalScope(tree.Principal)
		what := resourceScope(tree.Resource)
		for _, action := range actionScope(tree.Action) {
			for _, kind := range kinds {
				s.slot(bucketKey{action, kind}, what, who).add(i, p.Effect(), read)
			}
		}
	}
}

func (s *Set) slot(key bucketKey, what, who cedar.EntityUID) *slot {
	b := s.buckets[key]
	if b == nil {
		b = &bucket{byResource: map[cedar.EntityUID]*shelf{}}
		s.buckets[key] = b
	}
	sh := b.byResource[what]
	if sh == nil {
		sh = &shelf{byPrincipal: map[cedar.EntityUID]*slot{}}
		b.byResource[what] = sh
	}
	if who.IsZero() {
		return &sh.any
	}
	if sh.byPrincipal[who] == nil {
		sh.byPrincipal[who] = &slot{}
	}
	return sh.byPrincipal[who]
}

func (s *slot) add(i int, effect cedar.Effect, read parts) {
	s.read |= read
	if effect == cedar.Forbid {
		s.forbids = append(s.forbids, i)
	} else {
		s.permits = append(s.permits, i)
	}
}

// about are the tools or routes that policies on an action name in their heads
// and a grant covers, as actions of its target, each once.
func (s *Set) about(action cedar.EntityUID, g *mayfly.Grant) (actions []string) {
	if s == nil {
		return nil
	}
	for key, b := range s.buckets {
		if key.action != action {
			continue
		}
		for uid := range b.byResource {
			if uid.Type != typeTool && uid.Type != typeRoute {
				continue
			}
			target, name, _ := strings.Cut(string(uid.ID), "/")
			c := mayfly.Call{Kind: g.Kind, Target: target, Action: name}
			if g.Covers(&c) && !slices.Contains(actions, name) {
				actions = append(actions, name)
			}
		}
	}
	slices.Sort(actions)
	return actions
}

// partsRead are the attributes of the context that a policy reads, or asks for:
// all, where it does anything else with the context than to name one; and
// whether it reads attributes of anything else, which could be an entity.
func partsRead(tree *ast.Policy) (read parts) {
	for _, condition := range tree.Conditions {
		ast.Inspect(ast.NewNode(condition.Body), func(n ast.IsNode) bool {
			var arg ast.IsNode
			var name string
			switch n := n.(type) {
			case ast.NodeTypeAccess:
				arg, name = n.Arg, string(n.Value)
			case ast.NodeTypeHas:
				arg, name = n.Arg, string(n.Value)
			case ast.NodeTypeGetTag, ast.NodeTypeHasTag:
				read |= partAttributes
				return true
			case ast.NodeTypeVariable:
				if n.Name == "context" {
					read = partAll
				}
				return false
			default:
				return true
			}
			switch {
			case isContext(arg):
				read |= partNames[name]
				return false
			case !isRecord(arg):
				read |= partAttributes
			}
			return true
		})
	}
	return read
}

func isContext(n ast.IsNode) bool {
	v, ok := n.(ast.NodeTypeVariable)
	return ok && v.Name == "context"
}

// isRecord reports whether n is one of the records of the context.
func isRecord(n ast.IsNode) bool {
	a, ok := n.(ast.NodeTypeAccess)
	return ok && isContext(a.Arg) && (a.Value == "arguments" || a.Value == "chain")
}

// principalScope is the entity that a principal must be or be in, zero for any,
// and the types it can have.
func principalScope(scope ast.IsPrincipalScopeNode) (cedar.EntityUID, []cedar.EntityType) {
	switch n := scope.(type) {
	case ast.ScopeTypeEq:
		return n.Entity, []cedar.EntityType{n.Entity.Type}
	case ast.ScopeTypeIn:
		return n.Entity, principals
	case ast.ScopeTypeIs:
		return cedar.EntityUID{}, []cedar.EntityType{n.Type}
	case ast.ScopeTypeIsIn:
		return n.Entity, []cedar.EntityType{n.Type}
	default:
		return cedar.EntityUID{}, principals
	}
}

// actionScope are the actions that a head lets through. No action is in another.
func actionScope(scope ast.IsActionScopeNode) []cedar.EntityUID {
	switch n := scope.(type) {
	case ast.ScopeTypeEq:
		return []cedar.EntityUID{n.Entity}
	case ast.ScopeTypeIn:
		return []cedar.EntityUID{n.Entity}
	case ast.ScopeTypeInSet:
		list := slices.Clone(n.Entities)
		slices.SortFunc(list, func(a, b cedar.EntityUID) int { return strings.Compare(a.String(), b.String()) })
		return slices.Compact(list)
	default:
		return actions
	}
}

// resourceScope is the entity that a resource must be or be in, zero for any.
func resourceScope(scope ast.IsResourceScopeNode) cedar.EntityUID {
	switch n := scope.(type) {
	case ast.ScopeTypeEq:
		return n.Entity
	case ast.ScopeTypeIn:
		return n.Entity
	case ast.ScopeTypeIsIn:
		return n.Entity
	default:
		return cedar.EntityUID{}
	}
}

// picked are the positions of the policies whose heads may fit a request.
type picked struct {
	forbids, permits [][]int
	read             parts // of the context, by any of them
}

func (p *picked) empty() bool { return len(p.forbids) == 0 && len(p.permits) == 0 }

func (p *picked) take(s *slot) {
	if s == nil {
		return
	}
	p.read |= s.read
	if len(s.forbids) > 0 {
		p.forbids = append(p.forbids, s.forbids)
	}
	if len(s.permits) > 0 {
		p.permits = append(p.permits, s.permits)
	}
}

// pick finds the policies of a request: what names its resource, or what that is
// in, or any; and of these what names its principal, or what that is in, or any.
func (s *Set) pick(action cedar.EntityUID, principal, resource being) (p picked) {
	b := s.buckets[bucketKey{action, principal.uid.Type}]
	if b == nil {
		return p
	}
	look := func(what cedar.EntityUID) {
		sh := b.byResource[what]
		if sh == nil {
			return
		}
		p.take(&sh.any)
		if len(sh.byPrincipal) == 0 {
			return
		}
		p.take(sh.byPrincipal[principal.uid])
		for _, in := range principal.in {
			p.take(sh.byPrincipal[in])
		}
	}
	look(cedar.EntityUID{})
	look(resource.uid)
	for _, in := range resource.in {
		look(in)
	}
	return p
}

// being is an entity and all that it is in.
type being struct {
	uid cedar.EntityUID
	in  []cedar.EntityUID
}

// walk hands policies to Cedar one by one and remembers which is being
// evaluated, so that even a panic can be laid at a policy's door.
type walk struct {
	set     *Set
	lists   [][]int
	current string
}

// All is what cedar.Authorize asks for.
func (w *walk) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, list := range w.lists {
			for _, i := range list {
				p := &w.set.policies[i]
				w.current = p.id
				if !yield(cedar.PolicyID(p.id), p.policy) {
					return
				}
			}
		}
		w.current = ""
	}
}

// answer is what the policies say to one request: positions in the set, in
// order.
type answer struct{ permits, forbids, erred []int }

// ask evaluates the policies that were picked. Cedar skips a policy that errs,
// so a forbid with a mistake in it would allow; here any error is in the answer,
// and refuses. If the evaluation itself fails, broken is the id of the policy
// that it failed at, if any. Forbids and permits are asked apart: Cedar does not say which
// permits there are beside a forbid.
func (s *Set) ask(p *picked, entities cedar.EntityGetter, r cedar.Request) (a answer, broken string, failed bool) {
	w := &walk{set: s}
	defer func() {
		if recover() != nil {
			a, broken, failed = answer{}, w.current, true
		}
	}()
	run := func(lists [][]int) (by []int) {
		if len(lists) == 0 {
			return nil
		}
		w.lists = lists
		_, diagnostic := cedar.Authorize(w, entities, r)
		for _, e := range diagnostic.Errors {
			a.erred = append(a.erred, s.byID[e.PolicyID])
		}
		for _, reason := range diagnostic.Reasons {
			by = append(by, s.byID[reason.PolicyID])
		}
		slices.Sort(by)
		return by
	}
	a.forbids, a.permits = run(p.forbids), run(p.permits)
	slices.Sort(a.erred)
	return a, "", false
}

// ids names positions in the set.
func (s *Set) ids(positions []int) []string {
	if len(positions) == 0 {
		return nil
	}
	ids := make([]string, len(positions))
	for i, at := range positions {
		ids[i] = s.policies[at].id
	}
	return ids
}

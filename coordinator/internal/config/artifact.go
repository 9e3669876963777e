package config

import (
	"path"
	"slices"
	"strings"
)

// BuildOn says where an app is built.
type BuildOn string

// Where, other than on one node that is named.
const (
	BuildOnEach  BuildOn = "each"  // every node for itself
	BuildOnFirst BuildOn = "first" // one for all: the first that can
)

// BuildSkew says what becomes of a release that nodes have built differently.
type BuildSkew string

// What becomes of it.
const (
	BuildSkewNote   BuildSkew = "note" // it is shown
	BuildSkewRefuse BuildSkew = "refuse"
)

// readArtifact reads where an app is built, and what of it makes a release.
func (a *App) readArtifact(o object) {
	const write = `[dist/, bin/app]`
	a.BuildOn = BuildOnEach
	if v, ok := o.get("build_on"); ok {
		s, ok := v.text("each, first, or one of the app's nodes")
		a.BuildOn = BuildOn(s)
		if ok && a.BuildOn != BuildOnEach && a.BuildOn != BuildOnFirst && len(a.Nodes) > 0 && !slices.Contains(a.Nodes, s) {
			v.fail("%s is none of the app's nodes; write %s", quoted(s), either(append([]string{string(BuildOnEach), string(BuildOnFirst)}, a.Nodes...)))
		}
	}
	a.BuildSkew = BuildSkew(o.word("build_skew", string(BuildSkewNote), string(BuildSkewRefuse)))
	if v, ok := o.get("build_skew"); ok && a.BuildOn != BuildOnEach && a.BuildSkew == BuildSkewRefuse {
		v.warn("builds can only differ where build_on is each; remove build_skew")
	}
	v, ok := o.get("artifact")
	if !ok {
		return
	}
	for _, item := range v.items(write) {
		s, ok := item.text("a path below the built tree, such as dist/")
		if !ok {
			continue
		}
		clean := path.Clean(s)
		_, bad := path.Match(clean, "")
		switch {
		case path.IsAbs(s), clean == ".", clean == "..", strings.HasPrefix(clean, "../"):
			item.fail("expected a path below the built tree, got %s; write %s, or leave artifact out to keep all of it", quoted(s), write)
		case strings.Contains(s, "**"):
			item.fail("** is not known; a directory such as dist/ stands for all below it, and * for one name")
		case bad != nil:
			item.fail("%s is no pattern: %v; write *, ?, [a-z], or a backslash before one that is meant literally", quoted(s), bad)
		case slices.Contains(a.Artifact, clean):
			item.fail("%s is given twice; remove one", quoted(s))
		default:
			a.Artifact = append(a.Artifact, clean)
		}
	}
}

package config

import (
	"path"
	"slices"
	"strings"
)

// readShared reads what all releases of the app on a node share.
func (a *App) readShared(o object) {
	const write = `[.env, public/uploads/], with a slash behind a directory`
	v, ok := o.get("shared")
	if !ok {
		return
	}
	for _, item := range v.items(write) {
		s, ok := item.text("a path below the release, such as .env or public/uploads/")
		if !ok {
			continue
		}
		clean := path.Clean(s)
		within := func(other string) bool {
			other = strings.TrimSuffix(other, "/")
			return clean == other || strings.HasPrefix(clean, other+"/") || strings.HasPrefix(other, clean+"/")
		}
		i := slices.IndexFunc(a.Shared, within)
		switch {
		case path.IsAbs(s), clean == ".", clean == "..", strings.HasPrefix(clean, "../"), strings.Contains(s, "\x00"):
			item.fail("expected a path below the release, got %s; write %s", quoted(s), write)
		case strings.ContainsAny(s, "*?["):
			item.fail("a shared path holds no wildcards; name each, or the directory: %s", write)
		case i >= 0:
			item.fail("%s and %s are one within the other; remove one", quoted(s), quoted(a.Shared[i]))
		case strings.HasSuffix(s, "/"):
			a.Shared = append(a.Shared, clean+"/")
		default:
			a.Shared = append(a.Shared, clean)
		}
	}
}

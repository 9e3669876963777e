package archive

import "strings"

// maxFollowed is how many symbolic links Linux follows before it gives up.
const maxFollowed = 40

// Escapes tells whether following the symbolic link at path leads, at any point,
// out of the root. targets holds every symbolic link below the root. Links are
// resolved as the kernel does it, one name after another, since "a/.." is not
// "." when a is a link. What is no link is taken for a directory: a build may yet
// make it.
func Escapes(path string, targets map[string]string) bool {
	at := strings.Split(path, "/")
	todo := []string{at[len(at)-1]}
	at = at[:len(at)-1]
	for followed := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return true
			}
			at = at[:len(at)-1]
			continue
		}
		at = append(at, name)
		target, isLink := targets[strings.Join(at, "/")]
		if !isLink {
			continue
		}
		if strings.HasPrefix(target, "/") {
			return true
		}
		if followed++; followed > maxFollowed {
			return false // the kernel gives up as well
		}
		at = at[:len(at)-1]
		todo = append(strings.Split(target, "/"), todo...)
	}
	return false
}

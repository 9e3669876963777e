// Package archive carries the files of a release from the node that built them
// to the others. An archive is a tar stream in Zstandard frames. It is
// deterministic: the same files make the same bytes, whatever their times,
// owners, and the order in which they were written.
//
// What a release consists of is named by the digest of its tree, not by that of
// the compressed bytes: nodes that build each for itself can then be compared
// without shipping anything, and an archive is judged by the files that come
// out of it. The digest covers, in a settled order, every path with its kind,
// the executable bit, and the content of files and targets of symbolic links.
//
// Packing and unpacking stream; the memory they need does not grow with what is
// in the archive, apart from the names in one directory and the symbolic links.
package archive

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"regexp"
	"strconv"
	"strings"
)

const (
	// small files are read and written by several goroutines at once, in memory.
	small = 64 << 10
	// batch is how many entries are handed from one goroutine to another at a time:
	// on a machine that is busy, every hand-over costs a wait for a processor.
	batch = 16
	// pending is how many batches may wait.
	pending = 3
	// frame is how much of the tar stream goes into one Zstandard frame.
	frame = 512 << 10
	// maxFrame and maxDeflated are how much a frame may hold, and how large it may
	// be, in what is unpacked.
	maxFrame    = 1 << 20
	maxDeflated = maxFrame + 64<<10
	// maxLinks bounds the symbolic links, which are kept in memory.
	maxLinks = 200_000
	maxPath  = 4095
	maxName  = 255
	maxDepth = 250
)

// Summary is what is known of a tree once all of it was read.
type Summary struct {
	Digest string // "sha256:" and 64 hex digits
	Files  int    // files, directories, and symbolic links
	Bytes  int64  // content of the files
	// Unfit says why the tree cannot be packed: a device, or a symbolic link that
	// leads out of it. It is a *[BadError].
	Unfit error
}

// BadError tells that a tree cannot be packed, or that an archive is not one of
// ours, and which path of it is to blame.
type BadError struct {
	Path string // "" when the archive as a whole is
	Why  string
	Err  error // may be nil
}

func (e *BadError) Error() string {
	s := e.Why
	if e.Path != "" {
		s = quote(e.Path) + " " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause, if any.
func (e *BadError) Unwrap() error { return e.Err }

func bad(path, why string) error { return &BadError{Path: path, Why: why} }

// quote renders a path that anybody may have made up.
func quote(path string) string {
	if len(path) > 200 {
		path = path[:200] + "…"
	}
	return strconv.Quote(path)
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// IsDigest tells whether s has the form of a digest.
func IsDigest(s string) bool { return digestForm.MatchString(s) }

// The kinds of entries, as they go into the digest.
const (
	kindDir     = 'd'
	kindFile    = 'f'
	kindProgram = 'x'
	kindLink    = 'l'
	kindOther   = 'o' // sockets, pipes, and devices, in trees that are not packed
)

// tally makes the digest of a tree out of its entries, which it must be given
// in order.
type tally struct {
	sum   hash.Hash
	buf   []byte
	files int
	bytes int64
	links map[string]string
}

func newTally() *tally {
	t := &tally{sum: sha256.New(), links: map[string]string{}}
	_, _ = t.sum.Write([]byte("lockstep tree 1\n"))
	return t
}

// add takes an entry: payload is the SHA-256 of a file, or a link's target.
func (t *tally) add(kind byte, path string, payload []byte) {
	b := append(t.buf[:0], kind)
	b = binary.AppendUvarint(b, uint64(len(path)))
	b = append(b, path...)
	b = binary.AppendUvarint(b, uint64(len(payload)))
	b = append(b, payload...)
	_, _ = t.sum.Write(b)
	t.buf = b
	t.files++
}

func (t *tally) link(path, target string) error {
	if len(t.links) >= maxLinks {
		return bad(path, fmt.Sprintf("is beyond the %d symbolic links that are supported", maxLinks))
	}
	t.links[path] = target
	t.add(kindLink, path, []byte(target))
	return nil
}

func (t *tally) digest() string { return "sha256:" + hex.EncodeToString(t.sum.Sum(nil)) }

// strays returns the error of the first symbolic link that leads out of the tree.
func (t *tally) strays() error {
	first := ""
	for path := range t.links {
		if (first == "" || path < first) && Escapes(path, t.links) {
			first = path
		}
	}
	if first == "" {
		return nil
	}
	return bad(first, "is a symbolic link to "+quote(t.links[first])+", which leads out of the release")
}

// compare orders paths as a walk through the tree meets them: what is below a
// directory comes right after it.
func compare(a, b string) int {
	for a != "" && b != "" {
		x, restA, _ := strings.Cut(a, "/")
		y, restB, _ := strings.Cut(b, "/")
		if x != y {
			return strings.Compare(x, y)
		}
		a, b = restA, restB
	}
	return len(a) - len(b)
}

package gitstore

import (
	"bufio"
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sort"
)

// Pack is objects of a view that are about to be sent. The view must stay open.
type Pack struct {
	view    *View
	objects []sent
	have    map[Hash]bool
}

// sent is one object that is sent, and how.
type sent struct {
	hash  Hash
	place place
	order int  // of the pack that it is in
	base  Hash // what a delta builds on
	kind  Kind // refDelta when its stored form is sent, as a delta
	whole bool // its content is sent, for its stored form builds on what is not sent
}

// Pack returns the objects as they are to be sent to whoever has those in have.
// It reads all that it will send as it is stored and checks it, so that damage
// comes out before anything was sent.
func (v *View) Pack(objects []Hash, have map[Hash]bool) (*Pack, error) {
	p := &Pack{view: v, have: have}
	sending := make(map[Hash]bool, len(objects))
	for _, h := range objects {
		sending[h] = true
	}
	for _, h := range objects {
		q, at, err := v.find(h)
		if err != nil {
			return nil, err
		}
		p.objects = append(p.objects, sent{hash: h, place: place{q, at}, order: slices.Index(v.packs, q)})
	}
	slices.SortFunc(p.objects, func(a, b sent) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.place.at, b.place.at))
	})
	var buf []byte
	for i := range p.objects {
		if err := p.prepare(&p.objects[i], sending, &buf); err != nil {
			return nil, fmt.Errorf("object %s: %w", p.objects[i].hash, err)
		}
	}
	return p, nil
}

func (p *Pack) prepare(o *sent, sending map[Hash]bool, buf *[]byte) error {
	r, _, err := o.place.pack.look(o.place.at, buf)
	if err != nil {
		return err
	}
	o.kind = r.kind
	if r.kind.isDelta() {
		o.kind = refDelta
		i, ok := r.base.pack.number(r.base.at)
		if !ok {
			return corrupt("a delta builds on what is no object")
		}
		base := Hash(r.base.pack.index.name(i))
		// What is sent of the base must not build on this one in turn, as that of
		// another pack could. What the receiver has cannot.
		q, at, err := p.view.find(base)
		same := err == nil && q == o.place.pack && at == r.base.at
		if !p.have[base] && !(sending[base] && same) {
			o.whole = true
			return nil
		}
		o.base = base
	}
	return o.place.pack.check(o.place.at, r.end)
}

// number returns which object of the index is at an offset.
func (p *pack) number(at int64) (n int, ok bool) {
	p.byAt.Do(func() {
		p.order = make([]uint32, p.index.count())
		for i := range p.order {
			p.order[i] = uint32(i)
		}
		slices.SortFunc(p.order, func(a, b uint32) int { return cmp.Compare(p.index.offset(int(a)), p.index.offset(int(b))) })
	})
	i := sort.Search(len(p.order), func(i int) bool { return p.index.offset(int(p.order[i])) >= at })
	if i == len(p.order) || p.index.offset(int(p.order[i])) != at {
		return 0, false
	}
	return int(p.order[i]), true
}

// check compares what is stored of an object with its checksum.
func (p *pack) check(at, end int64) error {
	i, ok := p.number(at)
	d := crc32.NewIEEE()
	if n, err := io.Copy(d, io.NewSectionReader(p.file, at, end-at)); err != nil {
		return readError(err)
	} else if !ok || n != end-at || d.Sum32() != p.index.crc(i) {
		return corrupt("what is stored does not match its checksum")
	}
	return nil
}

// WriteTo sends the pack, as far as w takes it, in little memory.
func (p *Pack) WriteTo(w io.Writer) (int64, error) {
	sum := sha1.New()
	out := &appender{w: bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)}
	head := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(p.objects)))
	if _, err := out.Write(head); err != nil {
		return out.offset, err
	}
	var buf []byte
	for i := range p.objects {
		if err := p.send(out, &p.objects[i], &buf); err != nil {
			return out.offset, fmt.Errorf("cannot send object %s: %w", p.objects[i].hash, err)
		}
	}
	if err := out.w.Flush(); err != nil {
		return out.offset, err
	}
	n, err := w.Write(sum.Sum(nil))
	return out.offset + int64(n), err
}

func (p *Pack) send(out *appender, o *sent, buf *[]byte) error {
	if o.whole {
		return out.object(p.view, o.hash)
	}
	r, _, err := o.place.pack.look(o.place.at, buf)
	if err != nil {
		return err
	}
	from := o.place.at
	if o.kind == refDelta {
		from = r.body
		if _, err := out.Write(append(appendHead(nil, refDelta, r.size), o.base[:]...)); err != nil {
			return err
		}
	}
	_, err = io.Copy(out, io.NewSectionReader(o.place.pack.file, from, r.end-from))
	return err
}

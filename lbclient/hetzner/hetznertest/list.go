package hetznertest

import (
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// defaultPage and maxPage are Hetzner's.
const (
	defaultPage = 25
	maxPage     = 50
)

// page answers a list with one page of it.
func page(q url.Values, name string, all []any) answer {
	number := func(key string, otherwise int) int {
		if n, err := strconv.Atoi(q.Get(key)); err == nil && n > 0 {
			return n
		}
		return otherwise
	}
	at, size := number("page", 1), min(maxPage, number("per_page", defaultPage))
	last := max(1, (len(all)+size-1)/size)
	from := min(len(all), (at-1)*size)
	to := min(len(all), from+size)
	meta := map[string]any{
		"page": at, "per_page": size, "previous_page": nil, "next_page": nil, "last_page": last, "total_entries": len(all),
	}
	if at > 1 {
		meta["previous_page"] = at - 1
	}
	if at < last {
		meta["next_page"] = at + 1
	}
	return answer{http.StatusOK, map[string]any{
		name: append([]any{}, all[from:to]...), "meta": map[string]any{"pagination": meta},
	}}
}

// chosenBy tells whether a thing has the name and labels that are asked for.
func chosenBy(q url.Values, name string, labels map[string]string) (bool, error) {
	if q.Has("name") && q.Get("name") != name {
		return false, nil
	}
	if !q.Has("label_selector") || q.Get("label_selector") == "" {
		return true, nil
	}
	s, err := parseSelector(q.Get("label_selector"))
	return err == nil && s.matches(labels), err
}

func (c *Cloud) listBalancers(q url.Values) answer {
	var all []any
	for _, id := range slices.Sorted(maps.Keys(c.balancers)) {
		b := c.balancers[id]
		ok, err := chosenBy(q, b.name, b.labels)
		if err != nil {
			return refuse(http.StatusUnprocessableEntity, "invalid_input", err.Error())
		}
		if ok {
			all = append(all, c.object(b))
		}
	}
	return page(q, "load_balancers", all)
}

func (c *Cloud) listServers(q url.Values) answer {
	var all []any
	for _, id := range slices.Sorted(maps.Keys(c.servers)) {
		s := c.servers[id]
		ok, err := chosenBy(q, s.Name, s.Labels)
		if err != nil {
			return refuse(http.StatusUnprocessableEntity, "invalid_input", err.Error())
		}
		if ok {
			all = append(all, s.object(c.balancersOf(s)))
		}
	}
	return page(q, "servers", all)
}

// listActions answers with those that are asked for by id or status.
func (c *Cloud) listActions(q url.Values, ours func(*action) bool) answer {
	chosen := slices.DeleteFunc(slices.Clone(c.actions), func(a *action) bool {
		return !ours(a) || a.vanished ||
			q.Has("id") && !slices.Contains(q["id"], strconv.FormatInt(a.id, 10)) ||
			q.Has("status") && !slices.Contains(q["status"], a.status)
	})
	slices.SortStableFunc(chosen, func(a, b *action) int { return cmp.Compare(a.id, b.id) })
	var all []any
	for _, a := range chosen {
		all = append(all, a.object())
	}
	return page(q, "actions", all)
}

func (c *Cloud) getAction(id int64) answer {
	for _, a := range c.actions {
		if a.id == id && !a.vanished {
			return answer{http.StatusOK, map[string]any{"action": a.object()}}
		}
	}
	return notFound("action", id)
}

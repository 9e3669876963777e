// Package caddy drains and rejoins a target of Caddy through its admin API, by
// removing it from the upstreams of reverse_proxy handlers that bear an @id and
// inserting it again.
//
// Every change is a compare-and-set: it names the state that it was made from
// (ETag, If-Match), so that of two hands at once one is refused and looks
// again. Caddy accepts nonsense and the empty list without a word; what is sent
// is therefore checked here, the list is never emptied, and every change is
// read back.
//
// Each change makes Caddy replace its servers, which forget nothing that is in
// flight. From 2.11.2 on Caddy counts the requests of a removed upstream to
// their end. Older ones forget it, unless another handler, that nothing ever
// reaches, has it too: the parked handler of [Config].
package caddy

// Package digitalocean drains and rejoins a droplet of a DigitalOcean load
// balancer, on the vendor's own client (godo).
//
// There are two ways. [ModeRemove] takes the droplet's id out of the balancer
// and puts it back; it is for balancers whose droplets are named by id.
// [ModeGate] changes nothing at DigitalOcean: a health gate on the node fails
// the balancer's check, and this package tells when the balancer must have
// noticed. It is the only way for balancers whose droplets are chosen by a tag,
// because a tag drives firewalls and other balancers too.
//
// DigitalOcean's API tells neither how a member's check goes nor what is in
// flight, and answers a change before it is made. So membership is read back,
// detection is computed from the balancer's own health check, and what can be
// seen elsewhere is added: the gate's count of the balancer's probes
// ([ProbeEvidence]), and looks at what the balancer checks ([HealthSource]).
// A drain ends as busy with an unknown number in flight; evidence of idleness
// must come from the node.
package digitalocean

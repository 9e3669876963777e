// Package cloudhttp carries every call to a cloud's API under one policy of
// retries, on go-retryablehttp; the vendors' libraries on top retry nothing.
//
// Reads are tried again freely. A write is tried again only when it was surely
// not carried out: it never left this machine, or it was refused with 429. A
// write whose answer did not arrive whole fails with [ErrAnswerLost], and the
// caller must look before it does anything else.
//
// The token is set on each attempt and nowhere else: it is in no error, no log,
// and follows no redirect.
package cloudhttp

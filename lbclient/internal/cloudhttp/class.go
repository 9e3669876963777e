package cloudhttp

import (
	"errors"
	"net/http"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// ClassOfError is the class of an error that a call ended with where no answer
// came. The cloud's own refusals are the adapter's to judge.
func ClassOfError(err error) lbclient.Class {
	switch {
	case errors.Is(err, ErrAnswerLost):
		return lbclient.ClassAmbiguous
	case errors.Is(err, ErrRedirected), untrusted(err):
		return lbclient.ClassInvalid // it is not the API that answers there
	}
	return lbclient.ClassTransient
}

// ClassOfStatus is the class of an answer's status, for where the answer says
// nothing more precise. A fault of the server in the middle of a write leaves
// open whether it was carried out.
func ClassOfStatus(method string, status int) lbclient.Class {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return lbclient.ClassDenied
	case http.StatusNotFound, http.StatusGone:
		return lbclient.ClassNotFound
	case http.StatusConflict:
		return lbclient.ClassConflict
	case http.StatusLocked:
		return lbclient.ClassBusy
	case http.StatusTooManyRequests:
		return lbclient.ClassRateLimited
	case http.StatusNotImplemented:
		return lbclient.ClassUnsupported
	}
	switch {
	case status == http.StatusRequestTimeout, status >= 500,
		status <= 299: // no refusal, but the answer could not be understood
		if readOnly(method) {
			return lbclient.ClassTransient
		}
		return lbclient.ClassAmbiguous
	}
	return lbclient.ClassInvalid
}

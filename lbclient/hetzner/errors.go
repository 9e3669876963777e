package hetzner

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hetznercloud/hcloud-go/v2/hcloud"

	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/internal/cloudhttp"
)

// Codes that hcloud-go does not name.
const (
	codeTokenReadonly    hcloud.ErrorCode = "token_readonly"
	codeTargetNotFound   hcloud.ErrorCode = "load_balancer_target_not_found"
	codeUnavailable      hcloud.ErrorCode = "unavailable"
	codePrivateTarget    hcloud.ErrorCode = "resolve_cloud_private_targets_error"
	codePublicTarget     hcloud.ErrorCode = "resolve_cloud_public_targets_error"
	codeNotInVSwitch     hcloud.ErrorCode = "ip_not_in_vswitch_subnet"
	codeNoVSwitch        hcloud.ErrorCode = "network_has_no_vswitch_subnet"
	codePublicOff        hcloud.ErrorCode = "load_balancer_public_interface_disabled"
	codeMethodNotAllowed hcloud.ErrorCode = "method_not_allowed"
)

// fault wraps an error of a call as the provider's own.
func (p *provider) fault(op, method string, resp *hcloud.Response, err error) *lbclient.Error {
	class := classOf(method, resp, err)
	e := &lbclient.Error{Class: class, Op: op, Text: advice(class), Err: err}
	if resp != nil {
		e.After = cloudhttp.RetryAfter(resp.Response)
	}
	return e
}

// classOf judges the answer to a call by the code in it, else by its status,
// else by what happened on the way.
func classOf(method string, resp *hcloud.Response, err error) lbclient.Class {
	var e hcloud.Error
	if errors.As(err, &e) {
		if class, known := classOfCode(method, e.Code, e.Message); known {
			return class
		}
		if resp == nil {
			resp = e.Response()
		}
	}
	if resp != nil && resp.Response != nil {
		return cloudhttp.ClassOfStatus(method, resp.StatusCode)
	}
	return cloudhttp.ClassOfError(err)
}

func classOfCode(method string, code hcloud.ErrorCode, message string) (class lbclient.Class, known bool) {
	switch code {
	case hcloud.ErrorCodeUnauthorized, hcloud.ErrorCodeForbidden, codeTokenReadonly,
		hcloud.ErrorCodeProtected, hcloud.ErrorCodeResourceLimitExceeded,
		hcloud.ErrorCodeMaintenance, hcloud.ErrorCodeResourceLocked:
		return lbclient.ClassDenied, true
	case hcloud.ErrorCodeNotFound, codeTargetNotFound:
		return lbclient.ClassNotFound, true
	case hcloud.ErrorCodeInvalidInput:
		// What a deleted server is answered with.
		if strings.Contains(message, "not found") {
			return lbclient.ClassNotFound, true
		}
		return lbclient.ClassInvalid, true
	case hcloud.ErrorCodeLocked, hcloud.ErrorCodeResourceUnavailable:
		return lbclient.ClassBusy, true
	case hcloud.ErrorCodeConflict, hcloud.ErrorCodeUniquenessError, hcloud.ErrorCodeTargetAlreadyDefined:
		return lbclient.ClassConflict, true
	case hcloud.ErrorCodeRateLimitExceeded:
		return lbclient.ClassRateLimited, true
	case hcloud.ErrorUnsupportedError, hcloud.ErrorDeprecatedAPIEndpoint, codeMethodNotAllowed:
		return lbclient.ClassUnsupported, true
	case hcloud.ErrorCodeTimeout, hcloud.ErrorCodeBadGateway, codeUnavailable, hcloud.ErrorCodeServerError,
		hcloud.ErrorCodeServiceError, hcloud.ErrorCodeRobotUnavailable:
		// The service failed in the middle; whether before or after a change
		// nobody says.
		if method != http.MethodGet {
			return lbclient.ClassAmbiguous, true
		}
		return lbclient.ClassTransient, true
	case hcloud.ErrorCodeIPNotOwned, hcloud.ErrorCodeCloudResourceIPNotAllowed, hcloud.ErrorCodeServerNotAttachedToNetwork,
		hcloud.ErrorCodeMissingIPv4, hcloud.ErrorCodeLoadBalancerNotAttachedToNetwork, hcloud.ErrorCodeTargetsWithoutUsePrivateIP,
		codePrivateTarget, codePublicTarget, codeNotInVSwitch, codeNoVSwitch, codePublicOff, hcloud.ErrorCodeJSONError:
		return lbclient.ClassInvalid, true
	}
	return "", false
}

// advice says what to do where the cloud's own words do not.
func advice(c lbclient.Class) string {
	switch c {
	case lbclient.ClassDenied:
		return "the API refuses; is the token of the balancer's project, and may it write where a change is asked for?"
	case lbclient.ClassRateLimited:
		return "the project's calls are used up for now; all programs with a token of the project share them"
	case lbclient.ClassAmbiguous:
		return "whether the change was carried out is not known"
	}
	return ""
}

// faultOfAction is the error of an action that the cloud gave up.
func (p *provider) faultOfAction(op string, a *hcloud.Action) *lbclient.Error {
	class, known := classOfCode(http.MethodPost, hcloud.ErrorCode(a.ErrorCode), a.ErrorMessage)
	if !known {
		class = lbclient.ClassTransient
	}
	return &lbclient.Error{Class: class, Op: op, Text: fmt.Sprintf("action %d (%s) failed", a.ID, a.Command), Err: a.Error()}
}

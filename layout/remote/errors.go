package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"bk.build/bk/layout"
)

// maxErrorBody bounds what is read of an answer that is an error, in bytes.
const maxErrorBody = 64 << 10

// errStalled is why a silent connection was given up.
var errStalled = errors.New("the registry was silent for too long")

// Error is a failed operation on a registry. It satisfies
// errors.Is(err, fs.ErrNotExist) when the registry says that there is no such
// thing, and fs.ErrPermission when it wants other credentials.
type Error struct {
	Op       string // "resolve", "fetch blob sha256:... of", "upload blob sha256:... to"
	Ref      string // canonical reference, or repository
	Registry string
	Err      error
	Hint     string // what to do; may be empty
}

func (e *Error) Error() string {
	s := e.Op + " " + e.Ref
	if !strings.HasSuffix(e.Op, " to") && !strings.HasSuffix(e.Op, " in") {
		s += " from registry " + e.Registry
	}
	s += ": " + e.Err.Error()
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is maps the registry's answer to the sentinels of io/fs.
func (e *Error) Is(target error) bool {
	switch status(e.Err) {
	case http.StatusNotFound:
		return target == fs.ErrNotExist
	case http.StatusUnauthorized, http.StatusForbidden:
		return target == fs.ErrPermission
	}
	return false
}

// An AnswerError is an answer of a registry that is an error (distribution-spec,
// "Error Codes").
type AnswerError struct {
	Status int
	Codes  []ErrorCode // as the registry sent them; at most a few
	Text   string      // what it sent instead, printable
	// Scopes are what the token allowed that was shown, as far as its server
	// gave it; nil: none was shown.
	Scopes []string
	// after is what the answer says about when to come back.
	after http.Header
}

// ErrorCode is one of the reasons in an answer, printable.
type ErrorCode struct{ Code, Message string }

func (e *AnswerError) Error() string {
	s := strings.TrimSpace(fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status)))
	for _, c := range e.Codes {
		s += ": " + c.Code
		if c.Message != "" && !strings.EqualFold(c.Message, c.Code) {
			s += ": " + c.Message
		}
	}
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// Has says whether a code is among the reasons.
func (e *AnswerError) Has(code string) bool {
	for _, c := range e.Codes {
		if c.Code == code {
			return true
		}
	}
	return false
}

// readAnswer reads an answer that is an error. The caller closes the body.
func readAnswer(resp *http.Response) *AnswerError {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	e := &AnswerError{Status: resp.StatusCode, after: resp.Header}
	var body struct {
		Errors []struct {
			Code    string          `json:"code"`
			Message string          `json:"message"`
			Detail  json.RawMessage `json:"detail"`
		} `json:"errors"`
		Details string `json:"details"` // of Docker Hub's token server
	}
	if json.Unmarshal(b, &body) == nil {
		for _, c := range body.Errors[:min(len(body.Errors), 3)] {
			e.Codes = append(e.Codes, ErrorCode{Code: printable(c.Code, 64), Message: printable(c.Message, 300)})
		}
		e.Text = printable(body.Details, 300)
	} else if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		e.Text = printable(strings.TrimSpace(string(b)), 300)
	}
	return e
}

// printable is text of a registry made fit for a terminal: one line, no control
// characters, bounded.
func printable(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if r := []rune(s); len(r) > max {
		return string(r[:max]) + "..."
	}
	return s
}

// status is the HTTP status of an answer that was an error, or 0.
func status(err error) int {
	var ae *AnswerError
	if errors.As(err, &ae) {
		return ae.Status
	}
	return 0
}

// hasCode says whether the registry gave a reason of the specification.
func hasCode(err error, code string) bool {
	var ae *AnswerError
	return errors.As(err, &ae) && ae.Has(code)
}

// A TokenError is a token that could not be had.
type TokenError struct {
	Realm  string   // the host of the token server
	Scopes []string // what the token was to allow
	Err    error
}

func (e *TokenError) Error() string {
	return fmt.Sprintf("get a token for %s from %s: %v", strings.Join(e.Scopes, " "), printable(e.Realm, 200), e.Err)
}

// Unwrap returns the cause.
func (e *TokenError) Unwrap() error { return e.Err }

// fail makes the error of an operation. Without an endpoint (there is none that
// may be asked) only the reference is known.
func fail(op, ref string, e *endpoint, err error) error {
	if err == nil {
		return nil
	}
	registry, _, _ := strings.Cut(ref, "/")
	if e != nil {
		registry = shortHost(e.host.name)
	}
	return &Error{Op: op, Ref: ref, Registry: registry, Err: err, Hint: hint(registry, e, err)}
}

// withoutURL drops net/http's "Get URL:", which repeats the reference and, after
// a redirect, shows the signature that the URL carries.
func withoutURL(err error) error {
	for {
		ue, ok := err.(*url.Error)
		if !ok {
			return err
		}
		err = ue.Err
	}
}

// hint says what to do about an error.
func hint(registry string, e *endpoint, err error) string {
	var pe *layout.PlatformError
	code := status(err)
	switch {
	case errors.As(err, &pe):
		return "build for one of these platforms, or use another image"
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return permissionHint(registry, e, err)
	case errors.Is(err, errPlain):
		return "allow plain HTTP there with --insecure-registry, if this is intended"
	case errors.Is(err, errRefused):
		return "the registry's answer is not safe to follow: ask those who run it"
	case code == http.StatusTooManyRequests:
		return "the registry limits requests: wait, log in, or use a mirror"
	}
	for _, h := range codeHints {
		if hasCode(err, h.code) {
			return h.hint
		}
	}
	if code == http.StatusNotFound {
		return "check the name and the tag"
	}
	return ""
}

// codeHints say what to do about the specification's codes.
var codeHints = []struct{ code, hint string }{
	{"MANIFEST_BLOB_UNKNOWN", "the manifest refers to something that is not in the repository: push that first, or push the whole image again"},
	{"MANIFEST_INVALID", "the registry does not take this kind of document: convert the image to other media types, or ask the registry's operator"},
	{"BLOB_UPLOAD_UNKNOWN", "the registry forgot the upload: push again"},
	{"BLOB_UPLOAD_INVALID", "the registry did not take the upload: push again; if that does not help, ask the registry's operator"},
	{"DIGEST_INVALID", "the registry got other bytes than were sent, or knows no such digests: push again"},
	{"SIZE_INVALID", "the registry got other bytes than were sent, or limits their number: push again, or ask the registry's operator"},
	{"TOOMANYREQUESTS", "the registry limits requests: wait, log in, or use a mirror"},
	{"UNSUPPORTED", "the registry does not offer this, or has it switched off"},
	{"NAME_INVALID", "the registry does not allow this name for a repository"},
	{"NAME_UNKNOWN", "there is no such repository: check the name and the tag"},
	{"MANIFEST_UNKNOWN", "there is no such image in the repository: check the name and the tag"},
}

// permissionHint says who asked for what, and what may help.
func permissionHint(registry string, e *endpoint, err error) string {
	login := "run: bk login " + registry
	if e == nil {
		return login
	}
	var ae *AnswerError
	asked := "the registry was asked"
	if errors.As(err, &ae) && len(ae.Scopes) > 0 {
		asked += " for " + strings.Join(ae.Scopes, " ")
	}
	id := e.bouncer.used()
	switch {
	case id != nil && id.err != nil:
		return fmt.Sprintf("the configured credentials were not used: %v", id.err)
	case id != nil && !id.anonymous():
		return fmt.Sprintf("the stored credentials are not accepted or the repository does not exist: %s as %s; check the name, or %s", asked, id, login)
	}
	return fmt.Sprintf("the repository does not exist or needs credentials: %s as nobody; check the name, or %s", asked, login)
}

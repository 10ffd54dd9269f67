package console

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// Names of our cookies.
const (
	cookieSession = "mayfly-console"
	cookieWay     = "mayfly-sign-in"
)

// cookie is a name as the browser has it. With the prefix only this host, over
// https, can have set it (RFC 6265bis section 4.1.3.2); a server on loopback that
// speaks http cannot have that.
func (c *Console) cookie(name string) string {
	if c.secure {
		return "__Host-" + name
	}
	return name
}

func (c *Console) setCookie(w http.ResponseWriter, name, value string, life time.Duration, site http.SameSite) {
	cookie := &http.Cookie{Name: c.cookie(name), Value: value, Path: "/", Secure: c.secure, HttpOnly: true, SameSite: site, MaxAge: int(life / time.Second)}
	if value == "" {
		cookie.MaxAge = -1
	}
	http.SetCookie(w, cookie)
}

// way is one sign-in as the browser that began it remembers it: everything that is
// secret in it follows from one random value.
func (c *Console) way(seed string, began time.Time, again bool) authority.SignInWay {
	derive := func(what string) string {
		sum := sha256.Sum256([]byte(what + "\x00" + seed))
		return base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return authority.SignInWay{
		Redirect: c.a.Bundle().Issuer + "/console/signed-in",
		State:    derive("state"), Nonce: derive("nonce"), Verifier: derive("verifier"), Again: again, Began: began,
	}
}

// localMost is the longest path that is come back to, in bytes: it is kept in a
// cookie, of which browsers take 4,096 bytes.
const localMost = 2048

// local is a path of ours to come back to, or the first page.
func local(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" ||
		!strings.HasPrefix(path.Clean(u.Path)+"/", "/console/") || strings.ContainsAny(to, "\\\r\n\t") || strings.HasPrefix(path.Clean(u.Path), "/console/sign") {
		return "/console/"
	}
	if to = u.RequestURI(); len(to) > localMost {
		return "/console/"
	}
	return to
}

// againTo is where a human shows once more who they are, and comes back from.
func againTo(to string) string { return "/console/sign-in?again=1&to=" + url.QueryEscape(to) }

// signIn sends the browser to the identity provider.
func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	v := &visit{c: c, w: w, r: r, now: c.a.Now()}
	q := r.URL.Query()
	var seed [32]byte
	rand.Read(seed[:])
	again := q.Get("again") != ""
	text := base64.RawURLEncoding.EncodeToString(seed[:])
	way := c.way(text, v.now, again)
	way.Hint = q.Get("hint")
	to, err := c.a.SignInURL(v.ctx(), way)
	if err != nil {
		v.fail(err)
		return
	}
	kept := []string{text, strconv.FormatInt(v.now.Unix(), 10), strconv.FormatBool(again), base64.RawURLEncoding.EncodeToString([]byte(local(q.Get("to"))))}
	// Lax: the provider's page leads back here.
	c.setCookie(w, cookieWay, strings.Join(kept, "."), authority.SignInWithin, http.SameSiteLaxMode)
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// signedIn is where the identity provider sends the browser back to.
func (c *Console) signedIn(w http.ResponseWriter, r *http.Request) {
	v := &visit{c: c, w: w, r: r, now: c.a.Now()}
	q := r.URL.Query()
	lost := mayfly.Errorf(mayfly.Invalid, "this browser did not begin that sign-in, or more than %d minutes ago; sign in again", int(authority.SignInWithin.Minutes()))
	cookie, err := r.Cookie(c.cookie(cookieWay))
	if err != nil {
		v.fail(lost)
		return
	}
	c.setCookie(w, cookieWay, "", 0, http.SameSiteLaxMode)
	kept := strings.Split(cookie.Value, ".")
	if len(kept) != 4 {
		v.fail(lost)
		return
	}
	began, err1 := strconv.ParseInt(kept[1], 10, 64)
	to, err2 := base64.RawURLEncoding.DecodeString(kept[3])
	way := c.way(kept[0], time.Unix(began, 0), kept[2] == "true")
	if err1 != nil || err2 != nil || q.Get("state") != way.State || v.now.Sub(way.Began) > authority.SignInWithin {
		v.fail(lost)
		return
	}
	if code := q.Get("error"); code != "" {
		v.fail(mayfly.Errorf(mayfly.Denied, "the identity provider did not sign you in (%s); try again, or ask whoever runs it", authority.Plain(code, 64)))
		return
	}
	held, err := c.a.SignIn(v.ctx(), c.presented(r), q.Get("code"), q.Get("iss"), way)
	if err != nil {
		v.fail(err)
		return
	}
	c.setCookie(w, cookieSession, held.Reveal(), mayfly.SignInMost, http.SameSiteStrictMode)
	// The browser comes from another site, and would not send a Strict cookie along
	// a redirect: the page itself leads on.
	if err := v.show(http.StatusOK, "onward", "Signed in", "", local(string(to))); err != nil {
		v.fail(err)
	}
}

// askToSignIn shows the way in. Who comes from another site's page has a cookie
// that was not sent along: the page asks once more, by itself.
func (v *visit) askToSignIn() {
	if v.r.Method == http.MethodGet && v.r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		if err := v.show(http.StatusOK, "onward", "Mayfly", "", local(v.r.URL.RequestURI())); err == nil {
			return
		}
	}
	to := "/console/"
	if v.r.Method == http.MethodGet {
		to = local(v.r.URL.RequestURI())
	}
	err := v.show(http.StatusUnauthorized, "signin", "Sign in", "", struct {
		To      string
		SignsIn bool
	}{to, v.c.a.SignsIn()})
	if err != nil {
		http.Error(v.w, "something went wrong", http.StatusInternalServerError)
	}
}

// signOut ends the sign-in.
func (v *visit) signOut() error {
	if err := v.c.a.SignOut(v.ctx(), v.presented()); err != nil {
		return err
	}
	v.c.setCookie(v.w, cookieSession, "", 0, http.SameSiteStrictMode)
	return v.seeOther("/console/")
}

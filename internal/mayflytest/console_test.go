package mayflytest_test

import (
	"bufio"
	"context"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/console"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// officers may see and end every task.
const officers = `
@id("officers")
permit (principal in Mayfly::Group::"officers", action in [Mayfly::Action::"read", Mayfly::Action::"revoke"], resource is Mayfly::Agent);
`

// watched is a system with a console, whose payments over 200 need a yes from
// finance.
func watched(t testing.TB, o mayflytest.Options) direct {
	change := o.Change
	o.SignIn, o.Change = true, func(b *authority.Bundle) {
		amounts(b)
		if change != nil {
			change(b)
		}
	}
	o.Policies = map[string]string{"large.cedar": largeAsks, "officers.cedar": officers}
	return direct{mayflytest.New(t, o)}
}

// browser is somebody's, with their cookies.
type browser struct {
	t testing.TB
	d direct
	c *http.Client
}

func (d direct) browser(t testing.TB) *browser {
	jar, err := cookiejar.New(nil)
	must(t, err)
	return &browser{t, d, &http.Client{Jar: jar, Timeout: 20 * time.Second}}
}

// signedIn is the browser of somebody who signed in.
func (d direct) signedIn(t testing.TB, who string, groups ...string) *browser {
	t.Helper()
	b := d.browser(t)
	b.signIn("", who, groups...)
	return b
}

// signIn signs somebody in, who was on their way to a page, and gives where the
// page then leads.
func (b *browser) signIn(query, who string, groups ...string) string {
	b.t.Helper()
	b.d.Login.Claims = map[string]any{"sub": who, "groups": groups}
	status, page := b.get("/console/sign-in?" + query)
	to := regexp.MustCompile(`http-equiv="refresh" content="0;url=([^"]*)"`).FindStringSubmatch(page)
	if status != http.StatusOK || to == nil {
		b.t.Fatalf("signing in: %d\n%s", status, page)
	}
	return to[1]
}

// get loads a page and follows where it leads.
func (b *browser) get(path string) (int, string) {
	b.t.Helper()
	r, err := http.NewRequest(http.MethodGet, b.d.URL+path, nil)
	must(b.t, err)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.do(r)
}

func (b *browser) do(r *http.Request) (int, string) {
	b.t.Helper()
	resp, err := b.c.Do(r)
	must(b.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(b.t, err)
	return resp.StatusCode, string(body)
}

// sees loads a page that must be there.
func (b *browser) sees(path string) string {
	b.t.Helper()
	status, page := b.get(path)
	if status != http.StatusOK {
		b.t.Fatalf("%s: %d\n%s", path, status, words(page))
	}
	return page
}

var formToken = regexp.MustCompile(`name="token" value="([^"]+)"`)

// token is that of the forms of this sign-in.
func (b *browser) token() string {
	b.t.Helper()
	m := formToken.FindStringSubmatch(b.sees("/console/rules"))
	if m == nil {
		b.t.Fatal("no form has a token")
	}
	return m[1]
}

// sends sends a form as a page of ours does: it tells nobody where it comes from.
func (b *browser) sends(path string, form url.Values) (int, string) {
	b.t.Helper()
	form.Set("token", b.token())
	r, err := http.NewRequest(http.MethodPost, b.d.URL+path, strings.NewReader(form.Encode()))
	must(b.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Origin", "null")
	return b.do(r)
}

// cookie is what the browser holds for the console.
func (b *browser) cookie() string {
	at, err := url.Parse(b.d.URL)
	must(b.t, err)
	for _, c := range b.c.Jar.Cookies(at) {
		if c.Name == "mayfly-console" {
			return c.Value
		}
	}
	return ""
}

// words is the text of a page.
func words(page string) string {
	if _, main, ok := strings.Cut(page, "<main"); ok {
		page = "<main" + main
	}
	return strings.Join(strings.Fields(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(page, " ")), " ")
}

// asked is an approval that waits, and the task that asked.
func (d direct) asked(t testing.TB) (approval string, task mayfly.TaskID) {
	t.Helper()
	a := d.open(t, "open", "mcp:bank:*")
	return d.ask(t, a.AccessToken, large), a.Task
}

func TestAHumanSignsInSeesAnswersAndSignsOut(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		d := watched(t, mayflytest.Options{DSN: dsn})
		approval, task := d.asked(t)
		fay := d.browser(t)
		if status, page := fay.get("/console/approvals"); status != http.StatusUnauthorized || !strings.Contains(page, `href="/console/sign-in?to=%2fconsole%2fapprovals"`) {
			t.Fatalf("a stranger is answered %d\n%s", status, page)
		}
		if to := fay.signIn("to=%2Fconsole%2Fapprovals", "fay", "finance", "officers"); to != "/console/approvals" {
			t.Errorf("after signing in it goes on to %q", to)
		}
		if page := fay.sees("/console/approvals"); !strings.Contains(page, "/console/approvals/"+approval) || !strings.Contains(page, "fay") {
			t.Errorf("the inbox is\n%s", words(page))
		}
		if page := words(fay.sees("/console/approvals/" + approval)); !strings.Contains(page, "amount 300") || !strings.Contains(page, "Approve exactly this, once") {
			t.Errorf("the request is\n%s", page)
		}
		if status, page := fay.sends("/console/approvals/"+approval, url.Values{"answer": {"approve"}, "note": {"known"}}); status != http.StatusOK || !strings.Contains(words(page), "Yes by fay") {
			t.Errorf("saying yes: %d\n%s", status, words(page))
		}
		if page := fay.sees("/console/tasks/" + string(task)); strings.Count(page, `<polygon class="mk lent"`) != 1 || !strings.Contains(page, "waits: bank pay_invoice</title>") {
			t.Errorf("what was decided is not where it lived:\n%s", page)
		}
		if page := words(fay.sees("/console/tasks/" + string(task))); !strings.Contains(page, "Who let it? alice") || !strings.Contains(page, "Is it over? No.") {
			t.Errorf("the task is\n%s", page)
		}
		if page := words(fay.sees("/console/health")); !regexp.MustCompile(`This node decides\..* could decide for (1 s|\d{1,3} ms) more without`).MatchString(page) {
			t.Errorf("health is\n%s", page)
		}
		if page := words(fay.sees("/console/tasks/" + string(task) + "/revoke")); !strings.Contains(page, "End it now") || !strings.Contains(page, "no task below it") {
			t.Errorf("before the end\n%s", page)
		}
		if status, page := fay.sends("/console/tasks/"+string(task)+"/revoke", url.Values{}); status != http.StatusOK || !strings.Contains(words(page), "Is it over? Yes: it was revoked") {
			t.Errorf("ending it: %d\n%s", status, words(page))
		}
		held := fay.cookie()
		if status, page := fay.sends("/console/sign-out", url.Values{}); status != http.StatusUnauthorized || !strings.Contains(page, "Sign in to Mayfly") {
			t.Errorf("signing out leads to %d\n%s", status, words(page))
		}
		if fay.cookie() != "" {
			t.Error("the browser still holds something")
		}
		if _, err := d.Authority.SignedIn(t.Context(), authority.Presented{SignIn: mayfly.NewSecret(held)}); mayfly.AsError(err).Code != "sign_in_required" {
			t.Errorf("what it held lets in: %v", err)
		}
		if in, out := d.Records("person.signed_in"), d.Records("person.signed_out"); len(in) != 1 || len(out) != 1 {
			t.Errorf("recorded are %d sign-ins and %d sign-outs", len(in), len(out))
		}
	})
}

// S-89: what the browser holds is new with every sign-in, and what it held before
// is worth nothing.
func TestS89ASignInIsNewAndTheOneBeforeIsOver(t *testing.T) {
	d := watched(t, mayflytest.Options{})
	b := d.browser(t)
	at, err := url.Parse(d.URL)
	must(t, err)
	// A cookie that somebody else put there.
	b.c.Jar.SetCookies(at, []*http.Cookie{{Name: "mayfly-console", Value: strings.Repeat("A", 43), Path: "/"}})
	b.signIn("", "fay")
	first := b.cookie()
	if first == strings.Repeat("A", 43) || len(first) != 43 {
		t.Fatalf("it holds %q", first)
	}
	b.signIn("", "fay")
	if second := b.cookie(); second == first {
		t.Fatal("a second sign-in is the first")
	}
	if _, err := d.Authority.SignedIn(t.Context(), authority.Presented{SignIn: mayfly.NewSecret(first)}); mayfly.AsError(err).Code != "sign_in_required" {
		t.Errorf("the first still lets in: %v", err)
	}

	// The flags of both cookies, as they are over http and over https.
	for name, o := range map[string]mayflytest.Options{"http": {}, "https": {SignIn: true}} {
		d := watched(t, o)
		handler := http.Handler(nil)
		if name == "https" {
			d.Authority.Bundle().Issuer = "https://mayfly.example"
		}
		handler, err := console.New(d.Authority, console.Options{})
		must(t, err)
		w := newAnswer()
		r, err := http.NewRequest(http.MethodGet, "/console/sign-in", nil)
		must(t, err)
		handler.ServeHTTP(w, r)
		set := w.Header().Get("Set-Cookie")
		want := []string{"mayfly-sign-in=", "Path=/", "Max-Age=600", "HttpOnly", "SameSite=Lax"}
		if name == "https" {
			want = append(want, "__Host-mayfly-sign-in=", "; Secure")
		}
		for _, part := range want {
			if !strings.Contains(set, part) {
				t.Errorf("over %s the cookie is %q, without %s", name, set, part)
			}
		}
		if strings.Contains(set, "Domain") {
			t.Errorf("over %s the cookie is for other hosts too: %q", name, set)
		}
	}
	var flags string
	d.Login.Claims = map[string]any{"sub": "fay"}
	walker := d.browser(t)
	walker.c.CheckRedirect = func(r *http.Request, _ []*http.Request) error { return nil }
	resp, err := walker.c.Get(d.URL + "/console/sign-in")
	must(t, err)
	resp.Body.Close()
	for _, set := range resp.Header.Values("Set-Cookie") {
		if strings.HasPrefix(set, "mayfly-console=") {
			flags = set
		}
	}
	for _, part := range []string{"Path=/", "HttpOnly", "SameSite=Strict", "Max-Age=28800"} {
		if !strings.Contains(flags, part) {
			t.Errorf("the session's cookie is %q, without %s", flags, part)
		}
	}
}

// answer is an http.ResponseWriter that keeps what it is told.
type answer struct {
	header http.Header
	status int
	body   strings.Builder
}

func newAnswer() *answer                            { return &answer{header: http.Header{}} }
func (a *answer) Header() http.Header               { return a.header }
func (a *answer) WriteHeader(status int)            { a.status = status }
func (a *answer) Write(p []byte) (n int, err error) { return a.body.Write(p) }

// S-67 and S-88: no page of another site, and no form without this sign-in's
// token, changes anything; nor does any GET.
func TestS88NoOtherSiteChangesAnything(t *testing.T) {
	d := watched(t, mayflytest.Options{})
	approval, task := d.asked(t)
	fay := d.signedIn(t, "fay", "finance", "officers")
	token := fay.token()
	fills := strings.NewReplacer("/console/tasks/{id}", "/console/tasks/"+string(task), "/console/approvals/{id}", "/console/approvals/"+approval)
	tried := 0
	for _, pattern := range console.Routes() {
		method, path, _ := strings.Cut(pattern, " ")
		if method != http.MethodPost {
			continue
		}
		tried++
		for name, headers := range map[string]map[string]string{
			"a page of another site":              {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
			"a page of a sister site":             {"Sec-Fetch-Site": "same-site", "Origin": "https://evil.example"},
			"a frame without an origin":           {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
			"an old browser at another site":      {"Origin": "https://evil.example"},
			"an old browser in a frame":           {"Origin": "null"},
			"our page, with no token":             {"Sec-Fetch-Site": "same-origin", "token": ""},
			"our page, with another's token":      {"Sec-Fetch-Site": "same-origin", "token": strings.Repeat("A", 43)},
			"our page, with the token in the URL": {"Sec-Fetch-Site": "same-origin", "token": "", "query": "?token=" + token},
		} {
			form := url.Values{"answer": {"approve"}, "token": {token}}
			if sent, ok := headers["token"]; ok {
				form.Set("token", sent)
			}
			r, err := http.NewRequest(http.MethodPost, d.URL+fills.Replace(path)+headers["query"], strings.NewReader(form.Encode()))
			must(t, err)
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			for h, v := range headers {
				if h != "token" && h != "query" {
					r.Header.Set(h, v)
				}
			}
			if status, page := fay.do(r); status != http.StatusForbidden {
				t.Errorf("%s at %s is answered %d\n%s", name, path, status, words(page))
			}
		}
		// By GET it is another page, or none.
		fay.get(fills.Replace(path) + "?answer=approve&token=" + token)
	}
	if tried < 3 {
		t.Fatalf("only %d routes change anything", tried)
	}
	if state := d.state(t, approval); state != mayfly.Waiting {
		t.Errorf("the approval is %s", state)
	}
	if v, err := d.Authority.Task(t.Context(), operator, string(task)); err != nil || v.State != mayfly.Live {
		t.Errorf("the task is %s, %v", v.State, err)
	}
	fay.sees("/console/")
}

// S-87: whatever agents, tools and providers write is text, on every page.
func TestS87WhatOthersWriteIsTextOnEveryPage(t *testing.T) {
	d := watched(t, mayflytest.Options{})
	evil := []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onfocus=alert(1) autofocus='`, `javascript:alert(1)`,
		`</q></title><svg onload=alert(1)>`, "\u202eevil\u2066", "{{.}}", "<!--", `</textarea><script src=//evil.example></script>`, `&lt;script&gt;`,
	}
	var tasks []mayfly.TaskID
	var approvals, decisions []string
	for _, text := range evil {
		o := d.exchange(t, authority.ExchangeRequest{
			SubjectToken: d.Human("alice"), SubjectTokenType: authority.TypeJWT, Profile: "open", Purpose: text,
		}, []string{"mcp:bank:*"})
		tasks = append(tasks, o.Task)
		arguments := fmt.Sprintf(`{"amount":300,"vendor":%q,%q:1}`, text, "x"+text)
		if text[0] == '\u202e'&0xff || strings.ContainsAny(text, "\u202e") {
			arguments = `{"amount":300,"vendor":"\u202eevil\u2066","x\u202e":1}`
		}
		approvals = append(approvals, d.ask(t, o.AccessToken, arguments))
		_, err := d.call(t.Context(), o.AccessToken, "delete_everything", `{}`)
		decisions = append(decisions, mayfly.AsError(err).Decision)
	}
	fay := d.signedIn(t, `fay"><script>alert(1)</script>`, "finance", "officers")
	d.Eventually("all of it is found", func() bool {
		return strings.Contains(fay.sees("/console/investigate?kind=task.opened"), string(tasks[len(tasks)-1]))
	})
	paths := []string{
		"/console/", "/console/tasks", "/console/approvals", "/console/rules", "/console/rules/profiles/open", "/console/health",
		"/console/investigate?kind=task.opened", "/console/investigate?human=alice&reach=1",
	}
	for i, text := range evil {
		paths = append(paths, "/console/tasks/"+string(tasks[i]), "/console/tasks/"+string(tasks[i])+"/revoke", "/console/approvals/"+approvals[i],
			"/console/tasks/"+url.PathEscape(text), "/console/approvals/"+url.PathEscape(text), "/console/rules/profiles/"+url.PathEscape(text),
			"/console/investigate?human="+url.QueryEscape(text)+"&tool="+url.QueryEscape(text), "/console/investigate?id="+url.QueryEscape(text),
			"/console/signed-in?error="+url.QueryEscape(text)+"&error_description="+url.QueryEscape(text), "/console/sign-in?again=1&to="+url.QueryEscape(text))
		if decisions[i] != "" {
			paths = append(paths, "/console/decisions/"+decisions[i])
		}
	}
	seen := 0
	for _, path := range paths {
		if strings.Contains(path, "/sign-in") {
			continue // leads to the provider; where it comes back to is tested beside
		}
		r, err := http.NewRequest(http.MethodGet, d.URL+path, nil)
		must(t, err)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		resp, err := fay.c.Do(r)
		must(t, err)
		page, err := io.ReadAll(resp.Body)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode >= 500 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; script-src 'self';") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q", path, csp)
		}
		seen++
		inert(t, path, string(page))
	}
	if seen < 60 {
		t.Errorf("only %d pages were looked at", seen)
	}
}

var (
	aTag       = regexp.MustCompile(`<([a-zA-Z!/][^\s>]*)((?:[^>"']|"[^"]*"|'[^']*')*)>`)
	anAttr     = regexp.MustCompile(`([a-zA-Z-:]+)(?:=("[^"]*"|'[^']*'|[^\s"'>]+))?`)
	ourAddress = regexp.MustCompile(`^(/|\?|#)[^/\\]?`)
)

// inert checks that a page loads nothing but ours, runs nothing else, and leads
// nowhere else.
func inert(t *testing.T, path, page string) {
	t.Helper()
	for _, tag := range aTag.FindAllStringSubmatch(page, -1) {
		name := strings.ToLower(tag[1])
		attrs := map[string]string{}
		for _, a := range anAttr.FindAllStringSubmatch(tag[2], -1) {
			attrs[strings.ToLower(a[1])] = strings.Trim(a[2], `"'`)
		}
		if name == "script" && !strings.HasPrefix(attrs["src"], "/console/static/") || slices.Contains([]string{"iframe", "object", "embed", "base", "!--"}, name) {
			t.Errorf("%s has %s", path, tag[0])
		}
		for a, v := range attrs {
			leads := slices.Contains([]string{"href", "src", "action", "formaction", "xlink:href"}, a)
			if strings.HasPrefix(a, "on") || a == "style" && name != "svg" || leads && !ourAddress.MatchString(v) || leads && strings.HasPrefix(v, "//") {
				t.Errorf("%s has %s=%q in %s", path, a, v, tag[0])
			}
		}
	}
	if strings.ContainsAny(page, "\u202e\u2066") {
		t.Errorf("%s turns its text around", path)
	}
}

// Whoever comes back goes to a page of ours, whatever they came with.
func TestASignInLeadsToAPageOfOurs(t *testing.T) {
	d := watched(t, mayflytest.Options{})
	for to, want := range map[string]string{
		"/console/tasks?x=1":      "/console/tasks?x=1",
		"":                        "/console/",
		"https://evil.example/":   "/console/",
		"//evil.example/console/": "/console/",
		"/\\evil.example":         "/console/",
		"/console/\\evil":         "/console/",
		"/console/../oauth2/x":    "/console/",
		"/console/sign-out":       "/console/",
		"/console/sign-in?to=x":   "/console/",
		"javascript:alert(1)":     "/console/",
		"/oauth2/authorize":       "/console/",
		"/console/%0d%0aX: y":     "/console/%0d%0aX:%20y",
		// A browser keeps no cookie of more than 4 KiB.
		"/console/" + strings.Repeat("ÿ", 1000): "/console/",
	} {
		got := strings.ReplaceAll(d.browser(t).signIn("to="+url.QueryEscape(to), "fay"), "&amp;", "&")
		if !strings.EqualFold(got, want) {
			t.Errorf("to %q leads to %q, want %q", to, got, want)
		}
	}
}

// A way to the provider and back is one browser's, and good once.
func TestAnAnswerOfTheProviderIsGoodOnceAndForOneBrowser(t *testing.T) {
	clock := &stopped{at: time.Now(), since: time.Hour}
	d := watched(t, mayflytest.Options{Wall: clock.wall, Boot: clock.boot})
	d.Login.Claims = map[string]any{"sub": "fay"}
	var back *url.URL
	begin := func() *browser {
		b := d.browser(t)
		b.c.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
			if r.URL.Path == "/console/signed-in" {
				back = r.URL
				return http.ErrUseLastResponse
			}
			return nil
		}
		b.get("/console/sign-in")
		return b
	}
	mine := begin()
	other := d.browser(t)
	if status, page := other.get(back.RequestURI()); status != http.StatusBadRequest || !strings.Contains(page, "this browser did not begin") {
		t.Errorf("another browser with my answer: %d\n%s", status, words(page))
	}
	theirs := begin()
	taken := back
	if status, page := mine.get(taken.RequestURI()); status != http.StatusBadRequest || !strings.Contains(page, "this browser did not begin") {
		t.Errorf("my browser with another's answer: %d\n%s", status, words(page))
	}
	at, err := url.Parse(d.URL)
	must(t, err)
	kept := theirs.c.Jar.Cookies(at)
	if status, _ := theirs.get(taken.RequestURI()); status != http.StatusOK || theirs.cookie() == "" {
		t.Errorf("the right browser: %d", status)
	}
	theirs.c.Jar.SetCookies(at, kept) // as if it had not been taken back
	if status, _ := theirs.get(taken.RequestURI()); status != http.StatusUnauthorized {
		t.Errorf("a second time: %d", status)
	}
	late := begin()
	d.Records() // a log that seems to stand still for minutes is not right
	clock.ahead.Store(int64(11 * time.Minute))
	d.Eventually("an answer that comes late is refused", func() bool {
		status, _ := late.get(back.RequestURI())
		return status == http.StatusBadRequest
	})
	if late.cookie() != "" {
		t.Error("and lets in")
	}
}

// A sign-in ends when nobody uses it, after a working day, by the kill switch, and
// with the person's erasure; with it the stream of a page that is open.
func TestASignInEnds(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		clock := &stopped{at: time.Now(), since: time.Hour}
		d := watched(t, mayflytest.Options{DSN: dsn, Wall: clock.wall, Boot: clock.boot})
		pass := func(by time.Duration) {
			d.Records() // a log that seems to stand still for minutes is not right
			clock.ahead.Add(int64(by))
			d.Eventually("the node decides again", func() bool { return d.Client().Ready(t.Context()) == nil })
		}
		in := func(b *browser) bool {
			status, _ := b.get("/console/rules")
			if status != http.StatusOK && status != http.StatusUnauthorized && status != http.StatusForbidden {
				t.Fatalf("it is answered %d", status)
			}
			return status == http.StatusOK
		}
		used, left := d.signedIn(t, "fay"), d.signedIn(t, "gus")
		for at := 20 * time.Minute; at < 8*time.Hour; at += 20 * time.Minute {
			pass(20 * time.Minute)
			if !in(used) {
				t.Fatalf("after %s one that is used is over", at)
			}
			if at > 30*time.Minute && in(left) {
				t.Fatalf("after %s one that is not used still lets in", at)
			}
		}
		pass(20 * time.Minute)
		if in(used) {
			t.Error("after eight hours it still lets in")
		}

		killed, beside := d.signedIn(t, "hal"), d.signedIn(t, "ida")
		stream := killed.follow()
		if _, err := d.Authority.RevokeAll(t.Context(), operator, "human", "hal"); err != nil {
			t.Fatal(err)
		}
		if in(killed) || !in(beside) {
			t.Error("the kill switch ended another sign-in than that of whom it names")
		}
		stream.ends(t)
		d.Login.Claims = map[string]any{"sub": "hal"}
		if status, _ := d.browser(t).get("/console/sign-in"); status != http.StatusUnauthorized && status != http.StatusForbidden {
			t.Errorf("whoever is revoked signs in again: %d", status)
		}

		erased := d.signedIn(t, "jon")
		if _, err := d.Authority.Erase(t.Context(), operator, "jon"); err != nil {
			t.Fatal(err)
		}
		if in(erased) {
			t.Error("whoever was erased is still in")
		}
	})
}

// following is the stream of changes of a page that is open.
type following struct {
	events chan string
	cancel context.CancelFunc
}

// follow opens the stream and waits until it is whole.
func (b *browser) follow() *following {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.d.URL+"/console/tasks/changes", nil)
	must(b.t, err)
	streaming := &http.Client{Jar: b.c.Jar}
	resp, err := streaming.Do(r)
	must(b.t, err)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		b.t.Fatalf("the stream is answered %d, %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	f := &following{make(chan string, 1000), cancel}
	go func() {
		defer resp.Body.Close()
		defer close(f.events)
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for event := ""; lines.Scan(); {
			if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				event = name
			} else if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && event != "now" {
				f.events <- event + " " + data
			}
		}
	}()
	f.until(b.t, "whole ")
	return f
}

// until gives the event that begins so.
func (f *following) until(t testing.TB, begins ...string) string {
	t.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for {
		select {
		case e, ok := <-f.events:
			if !ok {
				t.Fatalf("the stream ended before %q", begins)
			}
			if strings.HasPrefix(e, begins[0]) && !slices.ContainsFunc(begins[1:], func(part string) bool { return !strings.Contains(e, part) }) {
				return e
			}
		case <-limit.C:
			t.Fatalf("%q did not come", begins)
		}
	}
}

// ends waits until the server ends it.
func (f *following) ends(t testing.TB) {
	t.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for {
		select {
		case _, ok := <-f.events:
			if !ok {
				return
			}
		case <-limit.C:
			t.Fatal("the stream goes on")
		}
	}
}

// What happens to tasks is told to every page that is open, of what its human may
// see alone.
func TestAPageIsKeptCurrentWithWhatItsHumanMaySee(t *testing.T) {
	d := watched(t, mayflytest.Options{})
	officer, alice, stranger := d.signedIn(t, "oli", "officers").follow(), d.signedIn(t, "alice").follow(), d.signedIn(t, "sam").follow()
	a := d.open(t, "open", "mcp:bank:*")
	for _, f := range []*following{officer, alice} {
		f.until(t, "rows ", string(a.Task), `"root":"alice"`)
	}
	d.answered(t, a.AccessToken, `{"amount":5}`)
	officer.until(t, "rows ", string(a.Task), `"verdict":"allow"`, "pay_invoice")
	if _, err := d.call(t.Context(), a.AccessToken, "pay_invoice", large); err == nil {
		t.Fatal("a large payment passed")
	}
	officer.until(t, "rows ", string(a.Task), `"verdict":"needs-approval"`)
	if _, err := d.Authority.Revoke(t.Context(), operator, string(a.Task)); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*following{officer, alice} {
		f.until(t, "gone ", string(a.Task))
	}
	// Sam is told of what is his, and was told of nothing before.
	own := d.exchange(t, authority.ExchangeRequest{
		SubjectToken: d.IDP.Issue(map[string]any{"aud": mayflytest.Humans, "sub": "sam"}), SubjectTokenType: authority.TypeJWT, Profile: "open",
	}, nil)
	for e := range stranger.events {
		if strings.Contains(e, string(a.Task)) && strings.HasPrefix(e, "rows ") {
			t.Fatalf("a stranger is told %s", e)
		}
		if strings.Contains(e, string(own.Task)) {
			break
		}
	}
}

// Twenty pages of one human are kept current at once; that is nobody else's loss, and
// one that is closed makes room.
func TestOneHumanKeepsTwentyPagesCurrentAtMost(t *testing.T) {
	d := watched(t, mayflytest.Options{})
	alice, sam := d.signedIn(t, "alice"), d.signedIn(t, "sam")
	var open []*following
	for range 20 {
		open = append(open, alice.follow())
	}
	if status, page := alice.get("/console/tasks/changes"); status != http.StatusTooManyRequests || !strings.Contains(page, "close one") {
		t.Fatalf("one more: %d %s", status, words(page))
	}
	sam.follow().cancel()
	open[0].cancel()
	d.Eventually("there is room again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL+"/console/tasks/changes", nil)
		must(t, err)
		resp, err := alice.c.Do(r)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// A request stands beside what was approved before of its kind, and what differs is
// marked: also where only its type does.
func TestARequestStandsBesideWhatWasApprovedBefore(t *testing.T) {
	d := watched(t, mayflytest.Options{})
	fay := d.signedIn(t, "fay", "finance", "officers")
	approve := func(id string) {
		if status, page := fay.sends("/console/approvals/"+id, url.Values{"answer": {"approve"}}); status != http.StatusOK {
			t.Fatalf("saying yes: %d\n%s", status, words(page))
		}
	}
	for name, c := range map[string]struct {
		before, now string
		used        bool
		want        []string
	}{
		"changed":    {`{"amount":300,"vendor":"acme"}`, `{"amount":400,"vendor":"acme"}`, false, []string{"amount changed 400 300", `vendor "acme" "acme"`}},
		"its type":   {`{"amount":300,"vendor":"7"}`, `{"amount":300,"vendor":7}`, false, []string{"amount 300 300", `vendor changed 7 "7"`}},
		"more, less": {`{"amount":300,"vendor":"acme"}`, `{"amount":300,"memo":"x"}`, false, []string{`memo new "x"`, `vendor left out "acme"`}},
		"used":       {`{"amount":300,"memo":"x"}`, `{"amount":350,"memo":"y"}`, true, []string{"amount changed 350 300", `memo "y" not kept`}},
		"used, same": {`{"amount":300,"vendor":"acme"}`, `{"amount":300,"vendor":"acme","memo":"x"}`, true, []string{"amount 300 300"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := d.open(t, "open", "mcp:bank:*")
			approve(d.ask(t, a.AccessToken, c.before))
			if c.used {
				d.answered(t, a.AccessToken, c.before)
			}
			page := html.UnescapeString(words(fay.sees("/console/approvals/" + d.ask(t, a.AccessToken, c.now))))
			for _, want := range c.want {
				if !strings.Contains(page, want) {
					t.Errorf("%q is not in\n%s", want, page)
				}
			}
		})
	}
}

// What may be done is what policies say, and what may not be seen is not there.
func TestWhoMayNotSeeFindsNothing(t *testing.T) {
	d := watched(t, mayflytest.Options{})
	approval, task := d.asked(t)
	sam := d.signedIn(t, "sam")
	unknown := string(mayfly.NewID("task", time.Now()))
	for path, like := range map[string]string{
		"/console/tasks/" + string(task):             "/console/tasks/" + unknown,
		"/console/tasks/" + string(task) + "/revoke": "/console/tasks/" + unknown + "/revoke",
		"/console/approvals/" + approval:             "/console/approvals/" + mayfly.NewID("apr", time.Now()),
	} {
		status, page := sam.get(path)
		statusLike, pageLike := sam.get(like)
		recorded := regexp.MustCompile(`dec_\w+`)
		if status != http.StatusNotFound || status != statusLike || recorded.ReplaceAllString(words(page), "") != recorded.ReplaceAllString(words(pageLike), "") {
			t.Errorf("%s answers %d %s\nand what is not there %d %s", path, status, words(page), statusLike, words(pageLike))
		}
	}
	if status, page := sam.sends("/console/tasks/"+string(task)+"/revoke", url.Values{}); status != http.StatusNotFound {
		t.Errorf("ending it: %d\n%s", status, words(page))
	}
	if status, page := sam.sends("/console/approvals/"+approval, url.Values{"answer": {"approve"}}); status != http.StatusNotFound {
		t.Errorf("approving: %d\n%s", status, words(page))
	}
	if page := sam.sees("/console/tasks"); strings.Contains(page, string(task)) {
		t.Error("the live page shows it")
	}
	if page := sam.sees("/console/investigate?human=alice"); strings.Contains(page, string(task)) {
		t.Error("a search finds it")
	}
	// An officer sees, and is no approver.
	oli := d.signedIn(t, "oli", "officers")
	oli.sees("/console/tasks/" + string(task))
	if status, page := oli.sends("/console/approvals/"+approval, url.Values{"answer": {"approve"}}); status != http.StatusForbidden && status != http.StatusNotFound {
		t.Errorf("an officer approves: %d\n%s", status, words(page))
	}
	if state := d.state(t, approval); state != mayfly.Waiting {
		t.Errorf("the approval is %s", state)
	}
}

// To approve, and to end a whole tree, a human shows who they are once more when
// they last did so five minutes ago. To say no, and to end a part, they need not.
func TestAYesNeedsAHumanWhoIsThereNow(t *testing.T) {
	clock := &stopped{at: time.Now(), since: time.Hour}
	d := watched(t, mayflytest.Options{Wall: clock.wall, Boot: clock.boot, Change: func(b *authority.Bundle) { b.Profiles["reader"].KeyOptional = true }})
	parent := d.open(t, "open", "mcp:bank:*")
	child := d.below(t, parent, "reader", "mcp:bank:list_invoices")
	approval := d.ask(t, parent.AccessToken, large)
	denied := d.ask(t, parent.AccessToken, `{"amount":301,"vendor":"acme"}`)
	fay := d.signedIn(t, "fay", "finance", "officers")
	d.Records() // a log that seems to stand still for minutes is not right
	clock.ahead.Store(int64(5*time.Minute + time.Second))
	d.Eventually("the node decides again", func() bool { return d.Client().Ready(t.Context()) == nil })

	asks := regexp.MustCompile(`href="/console/sign-in\?again=1&amp;to=`)
	for _, path := range []string{"/console/approvals/" + approval, "/console/tasks/" + string(parent.Task) + "/revoke"} {
		if page := fay.sees(path); !asks.MatchString(page) || strings.Contains(page, "Approve exactly this") || strings.Contains(page, "End it now") {
			t.Errorf("%s asks nobody to sign in again\n%s", path, words(page))
		}
	}
	// A page that was loaded before, or a hand-made request.
	fay.c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for path, form := range map[string]url.Values{
		"/console/approvals/" + approval:                    {"answer": {"approve"}},
		"/console/tasks/" + string(parent.Task) + "/revoke": {},
	} {
		if status, _ := fay.sends(path, form); status != http.StatusSeeOther {
			t.Errorf("%s: %d", path, status)
		}
	}
	if state := d.state(t, approval); state != mayfly.Waiting {
		t.Errorf("the approval is %s", state)
	}
	fay.c.CheckRedirect = nil
	if _, page := fay.sends("/console/approvals/"+denied, url.Values{"answer": {"deny"}}); !strings.Contains(words(page), "No by fay") {
		t.Errorf("a no: %s", words(page))
	}
	if _, page := fay.sends("/console/tasks/"+string(child.Task)+"/revoke", url.Values{}); !strings.Contains(words(page), "Is it over? Yes") {
		t.Errorf("the end of a part: %s", words(page))
	}

	// A provider that does not ask again is found out.
	d.Login.Claims = map[string]any{"sub": "fay", "groups": []string{"finance", "officers"}, "auth_time": clock.at.Unix()}
	if status, page := fay.get("/console/sign-in?again=1&to=/console/approvals/" + approval); status != http.StatusUnauthorized || !strings.Contains(page, "did not ask again") {
		t.Errorf("a provider that did not ask: %d\n%s", status, words(page))
	}
	if to := fay.signIn("again=1&to=/console/approvals/"+approval, "fay", "finance", "officers"); to != "/console/approvals/"+approval {
		t.Errorf("it comes back to %s", to)
	}
	if d.Login.Asked.Get("prompt") != "login" {
		t.Errorf("the provider is asked with %v", d.Login.Asked)
	}
	if _, page := fay.sends("/console/approvals/"+approval, url.Values{"answer": {"approve"}}); !strings.Contains(words(page), "Yes by fay") {
		t.Errorf("a yes: %s", words(page))
	}
	if _, page := fay.sends("/console/tasks/"+string(parent.Task)+"/revoke", url.Values{}); !strings.Contains(words(page), "Is it over? Yes") {
		t.Errorf("the end of a tree: %s", words(page))
	}
}

// With no store nobody is let in, and nothing is kept for later.
func TestAConsoleWhoseNodeIsCutOffShowsNothing(t *testing.T) {
	d := watched(t, mayflytest.Options{})
	fay := d.signedIn(t, "fay", "officers")
	must(t, d.DB.Close())
	d.Eventually("it refuses", func() bool {
		status, page := fay.get("/console/tasks")
		return status == http.StatusServiceUnavailable && strings.Contains(page, "Not just now")
	})
}

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// openDashboard does in a browser what an operator does: log in, look at the project, make a network by clicking, log out. The
// browser knows the site's authority as any other, so what it checks of the certificate is all that it ever checks.
func (j *Journey) openDashboard(ctx context.Context) error {
	text, err := os.ReadFile(j.path("cloud", "clouds.yaml"))
	if err != nil {
		return err
	}
	var access struct {
		Clouds map[string]struct {
			Auth struct{ Username, Password string }
		}
	}
	if err := json.Unmarshal(text, &access); err != nil { // it is JSON, which is YAML
		return err
	}
	auth := access.Clouds["journey"].Auth
	address, _, _ := strings.Cut(controllerAddress, "/")
	site := "https://" + address
	const sessionCookie, stranger = "sessionid", "ERR_CERT_AUTHORITY_INVALID"
	if err := j.browse(ctx, "stranger", chromedp.Navigate(site+"/")); err == nil || !strings.Contains(err.Error(), stranger) {
		return fmt.Errorf("a browser that does not know the site says %v, want %s", err, stranger)
	}
	if err := trust(ctx, j.path("browser", "operator"), j.path("cloud", "ca.crt")); err != nil {
		return err
	}
	start := time.Now()
	session := ""
	err = j.browse(ctx, "operator",
		chromedp.Navigate(site+"/"),
		chromedp.SendKeys("#id_username", auth.Username),
		chromedp.SendKeys("#id_password", auth.Password),
		chromedp.Click("#loginBtn"),
		chromedp.WaitVisible(".user-menu"),
		chromedp.Navigate(site+"/identity/"),
		chromedp.WaitVisible(`//td[normalize-space()="judge"]`),
		chromedp.Navigate(site+"/project/networks/"),
		chromedp.Click("#networks__action_create"),
		chromedp.SendKeys("#id_net_name", "clicked"),
		chromedp.Click(".button-next"),
		chromedp.SendKeys("#id_subnet_name", "clicked"),
		chromedp.SendKeys("#id_cidr", "192.168.9.0/24"),
		chromedp.Click(".button-next"),
		chromedp.Click(".button-final"),
		chromedp.WaitVisible(`//table[@id="networks"]//a[normalize-space()="clicked"]`),
		chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			have, err := cdp.Call(ctx, t, network.GetCookies, network.GetCookiesParams{})
			for _, c := range have.Cookies {
				if c.Name == sessionCookie {
					session = c.Value
				}
			}
			return err
		}),
		chromedp.Click(".user-menu > a"),
		chromedp.Click(`.user-menu a[href*="/auth/logout/"]`),
		chromedp.WaitVisible("#loginBtn"),
		chromedp.Func(func(ctx context.Context, t *chromedp.Target) error { // who kept the session has nothing
			_, err := cdp.Call(ctx, t, network.SetCookie, network.SetCookieParams{Name: sessionCookie, Value: session, URL: site + "/"})
			return err
		}),
		chromedp.Navigate(site+"/project/networks/"),
		chromedp.WaitVisible("#loginBtn"),
	)
	if err == nil && session == "" {
		err = errors.New("the dashboard keeps no session")
	}
	if err != nil {
		return err
	}
	j.note("  a browser logs in, makes a network and logs out", since(start))
	return errors.Join(j.openstack(ctx, nil, "network", "show", "clicked"), j.openstack(ctx, nil, "subnet", "show", "clicked"))
}

// browse has a browser of this computer, in the lab's network, take steps for a person, whose home it has.
func (j *Journey) browse(ctx context.Context, person string, steps ...chromedp.Action[chromedp.Void]) error {
	home := j.path("browser", person)
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"), chromedp.Env("HOME="+home), chromedp.UserDataDir(filepath.Join(home, "profile")), chromedp.WindowSize(1400, 1000),
		chromedp.Flag("no-sandbox", true), // it is root
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) {
			cmd.Path, cmd.Args = "/usr/sbin/ip", append([]string{"ip", "netns", "exec", j.lab.Namespace()}, cmd.Args...)
		}))
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	defer stop()
	ctx, leave := chromedp.NewContext(ctx)
	defer leave()
	if err := chromedp.Do(ctx); err != nil { // the browser ends with the context of its first run
		return fmt.Errorf("cannot start the browser: %w", err)
	}
	within, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for n, step := range steps {
		if err := chromedp.Do(within, step); err != nil {
			return fmt.Errorf("the browser's step %d: %w; %s", n+1, err, page(ctx))
		}
	}
	return nil
}

// page says what the browser shows.
func page(ctx context.Context) string {
	within, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	place, err := chromedp.Run(within, chromedp.Location())
	text, also := chromedp.Run(within, chromedp.Text("body"))
	if err := errors.Join(err, also); err != nil {
		return fmt.Sprintf("it cannot say what it shows: %v", err)
	}
	return fmt.Sprintf("it is at %s and shows %.2000q", place, text)
}

// trust has a person's browser know an authority (NSS, the database that Chromium shares with others).
func trust(ctx context.Context, home, authority string) error {
	place := filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(place, 0o700); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"-N", "-d", "sql:" + place, "--empty-password"},
		{"-A", "-d", "sql:" + place, "-n", "site", "-t", "C,,", "-i", authority},
	} {
		if out, err := exec.CommandContext(ctx, "certutil", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("certutil %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

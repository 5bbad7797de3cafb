package openstack

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// TestFront leads requests to a socket, says who called whatever the caller says, and answers itself where nobody listens.
func TestFront(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "api.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	service := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		io.WriteString(w, strings.Join([]string{r.Host, r.URL.Path, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"), string(body)}, " "))
	})}}
	service.Start()
	f := &Front{Log: slog.New(slog.DiscardHandler)}
	front := httptest.NewTLSServer(f.lead(Route{Socket: socket}))
	defer front.Close()
	pool := x509.NewCertPool()
	pool.AddCert(front.Certificate())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	ask := func() (int, string) {
		request, err := http.NewRequest(http.MethodPost, front.URL+"/v3/x", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Forwarded-For", "6.6.6.6")
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
	want := strings.TrimPrefix(front.URL, "https://") + " /v3/x https 127.0.0.1 hello"
	if status, text := ask(); status != http.StatusOK || text != want {
		t.Errorf("got %d %q, want %q", status, text, want)
	}
	service.Close()
	if status, _ := ask(); status != http.StatusServiceUnavailable {
		t.Errorf("without the service: %d", status)
	}
}

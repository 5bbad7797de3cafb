package ceph

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
)

// gatewayPort is where the gateway listens, on the site's address.
const gatewayPort = 7480

// gatewayUser is the first user of the gateway, whose keys operators get.
const gatewayUser = "site"

// Files of this host's own for the gateway.
const (
	gatewayKey  = "gateway.key"
	gatewayCert = "gateway.crt"
	siteRoot    = "ca.crt"
)

// certGateway is the name of its certificate.
const certGateway = "gateway"

// objectPools are those of the gateway's one zone. It would make them itself, each with as many placement groups as a large pool.
func objectPools() (list []wishedPool) {
	for _, name := range []string{".rgw.root", "default.rgw.log", "default.rgw.control", "default.rgw.meta", "default.rgw.buckets.index", "default.rgw.buckets.non-ec"} {
		list = append(list, wishedPool{name, "rgw", 8})
	}
	return append(list, wishedPool{"default.rgw.buckets.data", "rgw", 16})
}

// bringObjects brings the gateway up.
func (b *bringUp) bringObjects() []service.Step {
	return []service.Step{
		{Name: "certificate", Holds: b.hasCertificate, Make: b.makeCertificate},
		b.startAs(b.runGateway(), "gateway", time.Minute, gateway(b.node)),
		{Name: "gateway answers", Holds: func(ctx context.Context) error { _, err := b.ask(ctx, false); return err }, Limit: 2 * time.Minute},
		{Name: "gateway's user", Holds: b.knowsUser, Make: b.makeUser},
	}
}

// runGateway is the gateway's service. It has no other zone to keep in step with.
func (p plan) runGateway() unit {
	return unit{
		name: "ceph-radosgw@" + p.node + ".service", description: "Ceph object gateway " + p.node,
		head: []string{"After=network.target", "StartLimitIntervalSec=0"},
		keys: [][2]string{{"keyring", runDir + "/gateway.keyring"}, {"certificate", keyDir + "/" + gatewayCert}, {"key", keyDir + "/" + gatewayKey}},
		lines: append(always(), "PrivateDevices=yes",
			"ExecStart=/usr/bin/radosgw --foreground --name "+gateway(p.node)+" --keyring %d/keyring --rgw-enable-apis=s3 --rgw-run-sync-thread=false"+
				` "--rgw-frontends=beast ssl_endpoint=`+p.endpoint()+` ssl_certificate=%d/certificate ssl_private_key=%d/key"`),
	}
}

// endpoint is where the gateway is reached, ADDRESS:PORT.
func (p plan) endpoint() string {
	return net.JoinHostPort(p.monitor.String(), strconv.Itoa(gatewayPort))
}

func (b *bringUp) read(name string) []byte {
	content, err := b.Keys.Read(name)
	if err != nil {
		return nil // what cannot be read is not there
	}
	return content
}

func (b *bringUp) hasCertificate(context.Context) error {
	if err := service.Usable(b.read(gatewayCert), b.read(gatewayKey), b.read(siteRoot), b.monitor.String(), b.Now()); err != nil {
		return fmt.Errorf("certificate of the gateway: %w", err)
	}
	return nil
}

// makeCertificate asks the site for a certificate over a key of this host's.
func (b *bringUp) makeCertificate(ctx context.Context) error {
	key, request, err := service.NewRequest()
	if err != nil {
		return err
	}
	material, err := b.Join(ctx, api.Join{Schema: 1, Requests: map[string]string{certGateway: request}})
	if err != nil {
		return err
	}
	return errors.Join(b.Keys.Write(siteRoot, []byte(material.Authorities["site"])), b.Keys.Write(gatewayKey, key),
		b.Keys.Write(gatewayCert, []byte(material.Certificates[certGateway])))
}

// knowsUser asks the gateway for the buckets of its first user, as that user.
func (b *bringUp) knowsUser(ctx context.Context) error {
	status, err := b.ask(ctx, true)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("the gateway refuses user %s: %s", gatewayUser, http.StatusText(status))
	}
	return err
}

// makeUser gives the gateway its first user, on standard input: nobody sees the secret.
func (b *bringUp) makeUser(ctx context.Context) error {
	keys, err := b.keys()
	if err != nil {
		return err
	}
	type pair struct {
		User   string `json:"user"`
		Access string `json:"access_key"`
		Secret string `json:"secret_key"`
	}
	text, err := json.Marshal(map[string]any{"key": "user:" + gatewayUser, "data": map[string]any{
		"user_id": gatewayUser, "display_name": "operators of the site", "max_buckets": 0, "op_mask": "read, write, delete", "type": "rgw",
		"keys": []pair{{gatewayUser, keys[secretAccess], keys[secretSecret]}},
	}})
	if err != nil {
		return err
	}
	if _, err := b.Machine.Run(ctx, text, "radosgw-admin", "metadata", "put", "user:"+gatewayUser); err != nil {
		return fmt.Errorf("cannot make the gateway's user: %w", err)
	}
	return nil
}

// ask sends a request to the gateway as others do, signed by its first user or by nobody, and returns the answer's status.
func (b *bringUp) ask(ctx context.Context, signed bool) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+b.endpoint()+"/", nil)
	if err != nil {
		return 0, fmt.Errorf("cannot ask the gateway: %w", err)
	}
	if signed {
		keys, err := b.keys()
		if err != nil {
			return 0, err
		}
		sign(request, keys[secretAccess], keys[secretSecret], b.Now())
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b.read(siteRoot))
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, DialContext: b.Dial}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return 0, fmt.Errorf("the gateway does not answer: %w", err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return 0, fmt.Errorf("the gateway breaks off: %w", err)
	}
	if answer.StatusCode >= 500 {
		return 0, fmt.Errorf("the gateway answers %s", answer.Status)
	}
	return answer.StatusCode, nil
}

// sign signs a request for / without query and body (AWS Signature Version 4).
func sign(r *http.Request, access, secret string, now time.Time) {
	const region, headers = "default", "host;x-amz-content-sha256;x-amz-date"
	hash := func(text string) string { sum := sha256.Sum256([]byte(text)); return hex.EncodeToString(sum[:]) }
	mac := func(key []byte, text string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	moment := now.UTC().Format("20060102T150405Z")
	day, empty := moment[:8], hash("")
	scope := day + "/" + region + "/s3/aws4_request"
	canonical := r.Method + "\n/\n\nhost:" + r.URL.Host + "\nx-amz-content-sha256:" + empty + "\nx-amz-date:" + moment + "\n\n" + headers + "\n" + empty
	key := []byte("AWS4" + secret)
	for _, part := range []string{day, region, "s3", "aws4_request"} {
		key = mac(key, part)
	}
	signature := hex.EncodeToString(mac(key, "AWS4-HMAC-SHA256\n"+moment+"\n"+scope+"\n"+hash(canonical)))
	r.Header.Set("X-Amz-Date", moment)
	r.Header.Set("X-Amz-Content-Sha256", empty)
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+access+"/"+scope+", SignedHeaders="+headers+", Signature="+signature)
}

package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"roost/appliance/api"
)

// pairs makes an authority and a certificate of it that is good for both ends.
func doorKeys(t *testing.T) (*x509.CertPool, tls.Certificate) {
	t.Helper()
	make := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	ca, caKey := make(&x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to, Subject: pkix.Name{CommonName: "ca"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	leaf, key := make(&x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: to, Subject: pkix.Name{CommonName: "kubernetes"},
		KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}, ca, caKey)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return pool, tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
}

// openDoor opens a store and a door to its part /kubernetes/, and returns the store, the door's address and the client's side.
func openDoor(t *testing.T) (*Store, string, *tls.Config) {
	t.Helper()
	s, err := Open(t.Context(), Config{Dir: t.TempDir(), Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	pool, pair := doorKeys(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	server := &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}}
	go func() {
		ended <- s.Serve(ctx, listener, Door{Prefix: "/kubernetes/", Extra: []string{"compact_rev_key"}, TLS: server})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return s, "https://" + listener.Addr().String(), &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
}

func TestDoor(t *testing.T) {
	s, address, config := openDoor(t)
	if _, err := s.Update(t.Context(), func(tx *Tx) error { Hosts().Put(tx, &api.Host{ID: "h1", Name: "one"}); return nil }); err != nil {
		t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, TLS: config, DialTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := t.Context()
	op := func(f func() error) func() error { return f }
	get := func(key string, options ...clientv3.OpOption) func() error {
		return op(func() error { _, err := c.Get(ctx, key, options...); return err })
	}
	del := func(key string, options ...clientv3.OpOption) func() error {
		return op(func() error { _, err := c.Delete(ctx, key, options...); return err })
	}
	txn := func(compare clientv3.Cmp, then, otherwise clientv3.Op) func() error {
		return op(func() error { _, err := c.Txn(ctx).If(compare).Then(then).Else(otherwise).Commit(); return err })
	}
	own, foreign := "/kubernetes/pods/a", "/roost/v1/host/h1"
	mine := clientv3.Compare(clientv3.ModRevision(own), ">", 0)
	for name, test := range map[string]struct {
		do func() error
		ok bool
	}{
		"put own":                 {op(func() error { _, err := c.Put(ctx, own, "x"); return err }), true},
		"put foreign":             {op(func() error { _, err := c.Put(ctx, foreign, "x"); return err }), false},
		"put beside":              {op(func() error { _, err := c.Put(ctx, "/kubernetes", "x"); return err }), false},
		"put guard":               {op(func() error { _, err := c.Put(ctx, guard, "x"); return err }), false},
		"get own":                 {get(own), true},
		"get all of own":          {get("/kubernetes/", clientv3.WithPrefix()), true},
		"get foreign":             {get(foreign), false},
		"get everything":          {get("\x00", clientv3.WithFromKey()), false},
		"get from own on":         {get(own, clientv3.WithFromKey()), false},
		"get own and more":        {get(own, clientv3.WithRange("/roost/w")), false},
		"get before own":          {get("/a", clientv3.WithRange("/kubernetes/z")), false},
		"get extra":               {get("compact_rev_key"), true},
		"get extra and more":      {get("compact_rev_key", clientv3.WithPrefix()), false},
		"delete own":              {del("/kubernetes/b"), true},
		"delete foreign":          {del("/roost/", clientv3.WithPrefix()), false},
		"txn own":                 {txn(mine, clientv3.OpPut(own, "y"), clientv3.OpGet(own)), true},
		"txn foreign then":        {txn(mine, clientv3.OpPut(foreign, "y"), clientv3.OpGet(own)), false},
		"txn foreign else":        {txn(mine, clientv3.OpGet(own), clientv3.OpDelete(foreign)), false},
		"txn foreign if":          {txn(clientv3.Compare(clientv3.Value(foreign), "=", "x"), clientv3.OpGet(own), clientv3.OpGet(own)), false},
		"txn within":              {txn(mine, clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet(foreign)}, nil), clientv3.OpGet(own)), false},
		"lease":                   {op(func() error { _, err := c.Grant(ctx, 60); return err }), true},
		"status":                  {op(func() error { _, err := c.Status(ctx, address); return err }), true},
		"compact":                 {op(func() error { _, err := c.Compact(ctx, 1); return err }), false},
		"list leases":             {op(func() error { _, err := c.Leases(ctx); return err }), false},
		"list members":            {op(func() error { _, err := c.MemberList(ctx); return err }), false},
		"add member":              {op(func() error { _, err := c.MemberAdd(ctx, []string{"http://127.0.0.1:1"}); return err }), false},
		"switch on engine's auth": {op(func() error { _, err := c.UserAdd(ctx, "root", "x"); return err }), false},
		"hash":                    {op(func() error { _, err := c.HashKV(ctx, address, 0); return err }), false},
		"snapshot": {op(func() error {
			r, err := c.Snapshot(ctx)
			if err == nil {
				_, err = r.Read(make([]byte, 1))
				r.Close()
			}
			return err
		}), false},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.do()
			if test.ok && err != nil {
				t.Errorf("got %v", err)
			}
			if !test.ok && !errors.Is(err, rpctypes.ErrPermissionDenied) && !denied(err) {
				t.Errorf("got %v, want permission denied", err)
			}
		})
	}
	err = s.View(ctx, func(tx *Tx) error {
		if h := Hosts().Get(tx, "h1"); h == nil || h.Name != "one" {
			t.Errorf("the site's own record is %+v", h)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func denied(err error) bool {
	return err != nil && rpctypes.Error(err) != nil && rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCPermissionDenied)
}

// TestDoorWatch sees own changes and gets nothing of foreign ones.
func TestDoorWatch(t *testing.T) {
	s, address, config := openDoor(t)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, TLS: config, DialTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	own := c.Watch(ctx, "/kubernetes/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-own
	if _, err := s.Update(ctx, func(tx *Tx) error { Hosts().Put(tx, &api.Host{ID: "h1"}); return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, "/kubernetes/a", "1"); err != nil {
		t.Fatal(err)
	}
	if got := <-own; len(got.Events) != 1 || string(got.Events[0].Kv.Key) != "/kubernetes/a" {
		t.Errorf("got %v", got)
	}
	other, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, TLS: config, DialTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	brief, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	for got := range other.Watch(brief, "/roost/", clientv3.WithPrefix()) {
		if len(got.Events) > 0 {
			t.Errorf("sees %v", got.Events)
		}
		if got.Err() != nil {
			break
		}
	}
}

// TestDoorStrangers lets in nobody without a certificate of its authority.
func TestDoorStrangers(t *testing.T) {
	_, address, config := openDoor(t)
	_, foreign := doorKeys(t)
	for name, certs := range map[string][]tls.Certificate{"none": nil, "of another authority": {foreign}} {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, TLS: &tls.Config{RootCAs: config.RootCAs, Certificates: certs}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := c.Get(ctx, "/kubernetes/a"); err == nil {
			t.Errorf("certificate %s: let in", name)
		}
		cancel()
		c.Close()
	}
}

package ceph

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
)

// What a site has of Ceph.
const (
	secretFSID = "fsid" // id of the cluster; no secret
	secretSeed = "seed" // 32 bytes, from which all keys are made
)

// What hosts and operators get of the gateway.
const (
	secretEndpoint = "objects.endpoint" // its URL; no secret
	secretAccess   = "objects.access"   // name of the first user's key
	secretSecret   = "objects.secret"   // the key
)

// Users of Ceph; those of hosts and OSDs are made as they come.
const (
	userMonitor   = "mon."
	userAdmin     = "client.admin"
	userVolumes   = "client.volumes" // may use the pools of block devices
	userReader    = "client.reader"  // may look
	userBootstrap = "client.bootstrap-osd"
	// Each of these may use the one pool that is made for it: the volumes of pods, those of OpenStack, its images. Volumes of
	// OpenStack are clones of images, so cinder may read those. It is also who the hypervisors are.
	userKubernetes = "client.kubernetes"
	userCinder     = "client.cinder"
	userGlance     = "client.glance"
	// userFiles may use the file system.
	userFiles = "client.files"

	poolKubernetes = "kubernetes"
	poolCinder     = "cinder"
	poolGlance     = "glance"

	diskKey = "disks" // not a user: the key from which those of encrypted disks are made
)

func manager(node string) string  { return "mgr." + node }
func metadata(node string) string { return "mds." + node }
func gateway(node string) string  { return "client.rgw." + node }

// rights are what a user may do, by the kind of daemon (capabilities; ceph-authtool(8)).
func rights(user string, pools []string) [][2]string {
	switch {
	case user == userMonitor:
		return [][2]string{{"mon", "allow *"}}
	case user == userAdmin:
		return [][2]string{{"mds", "allow *"}, {"mgr", "allow *"}, {"mon", "allow *"}, {"osd", "allow *"}}
	case user == userReader:
		return [][2]string{{"mgr", "allow r"}, {"mon", "allow r"}}
	case user == userBootstrap:
		return [][2]string{{"mgr", "allow r"}, {"mon", "profile bootstrap-osd"}}
	case user == userKubernetes:
		return mayUse(poolKubernetes)
	case user == userGlance:
		return mayUse(poolGlance)
	case user == userCinder:
		list := mayUse(poolCinder)
		list[2][1] += ", profile rbd-read-only pool=" + poolGlance
		return list
	case user == userVolumes:
		return mayUse(pools...)
	case user == userFiles:
		return [][2]string{{"mds", "allow rw fsname=" + fileSystem}, {"mon", "allow r fsname=" + fileSystem}, {"osd", "allow rw tag cephfs data=" + fileSystem}}
	case strings.HasPrefix(user, "mds."):
		return [][2]string{{"mds", "allow"}, {"mgr", "profile mds"}, {"mon", "profile mds"}, {"osd", "allow rw tag cephfs *=*"}}
	case strings.HasPrefix(user, "client.rgw."):
		return [][2]string{{"mgr", "allow rw"}, {"mon", "allow rw"}, {"osd", "allow rwx tag rgw *=*"}}
	case strings.HasPrefix(user, "mgr."):
		return [][2]string{{"mds", "allow *"}, {"mon", "allow profile mgr"}, {"osd", "allow *"}}
	}
	return nil
}

// mayUse are the rights to use pools for block devices.
func mayUse(pools ...string) [][2]string {
	var each []string
	for _, pool := range pools {
		each = append(each, "profile rbd pool="+pool)
	}
	all := strings.Join(each, ", ")
	return [][2]string{{"mgr", all}, {"mon", "profile rbd"}, {"osd", all}}
}

// poolUsers are the users whom pools are for.
func poolUsers() []string {
	return []string{userVolumes, userKubernetes, userCinder, userGlance, userFiles}
}

// Authority is what a site has once of Ceph.
type Authority struct {
	Signer service.Signer
}

// Name is that of the component.
func (Authority) Name() string { return name }

// Found makes the cluster's id and the secret from which its keys come.
func (Authority) Found(have service.Secrets, _ *api.Site, _ time.Time) (added bool, err error) {
	if have[secretFSID] == nil {
		added = true
		have[secretFSID] = []byte(newUUID())
	}
	if have[secretSeed] == nil {
		added = true
		have[secretSeed] = make([]byte, 32)
		rand.Read(have[secretSeed]) // never fails
	}
	return added, nil
}

// Issue answers hosts whose configuration wants Ceph, and operators: each gets the keys of their own, by the user's name, and the
// controller a certificate of the gateway.
func (a Authority) Issue(have service.Secrets, by service.Asker, join *api.Join, now time.Time) (*api.Material, error) {
	address, err := monitorOf(by.Site.Controllers)
	if err != nil {
		return nil, err
	}
	out := &api.Material{Schema: 1, Address: monitor(address), Secrets: map[string][]byte{secretFSID: have[secretFSID]}}
	users, err := usersOf(by)
	if err != nil {
		return nil, err
	}
	for _, user := range users {
		out.Secrets[user] = []byte(keyOf(have[secretSeed], user))
	}
	if by.Host != nil {
		out.Secrets[diskKey] = derive(have[secretSeed], diskKey)
	}
	if by.Config.Ceph != nil && by.Config.Ceph.Objects && (by.Host != nil && by.Host.Personality.Controls() || by.Role == "admin" || by.Role == "operator") {
		out.Authorities = map[string]string{"site": a.Signer.RootPEM()}
		out.Secrets[secretEndpoint] = []byte("https://" + plan{monitor: address}.endpoint())
		out.Secrets[secretAccess] = []byte(strings.ToUpper(hex.EncodeToString(derive(have[secretSeed], secretAccess)[:10])))
		out.Secrets[secretSecret] = []byte(base64.RawURLEncoding.EncodeToString(derive(have[secretSeed], secretSecret)[:30]))
	}
	if err := a.certify(out, by, join, now); err != nil {
		return nil, err
	}
	return out, nil
}

// certify answers requests for certificates: that of the gateway is for the controller of a site that has one.
func (a Authority) certify(out *api.Material, by service.Asker, join *api.Join, now time.Time) (err error) {
	out.Certificates = map[string]string{}
	for name, request := range join.Requests {
		if name != certGateway || by.Host == nil || !by.Host.Personality.Controls() || !by.Config.Ceph.Objects {
			return api.Denied.Errorf("cannot issue certificate %q of Ceph: not for who asks", name)
		}
		if out.Certificates[name], err = a.Signer.Service(request, by.Host.Name, by.Addresses(), now); err != nil {
			return err
		}
	}
	return nil
}

// usersOf are the users of Ceph that an asker may be.
func usersOf(by service.Asker) ([]string, error) {
	switch {
	case by.Host != nil && by.Config.Ceph == nil:
		return nil, api.Denied.Errorf("cannot join Ceph: the configuration of host %s does not want it", by.Host.Name)
	case by.Host != nil && by.Host.Personality.Controls():
		node := by.Host.Name
		return append(poolUsers(), userMonitor, userAdmin, userReader, userBootstrap, manager(node), metadata(node), gateway(node)), nil
	case by.Host != nil:
		list := []string{userBootstrap}
		if by.Config.Kubernetes != nil {
			list = append(list, userKubernetes)
		}
		if by.Config.OpenStack != nil {
			list = append(list, userCinder)
		}
		return list, nil
	case by.Role == "admin":
		return []string{userAdmin}, nil
	case by.Role == "operator" && by.Config.Ceph != nil && by.Config.Ceph.Files:
		return []string{userVolumes, userFiles}, nil
	case by.Role == "operator":
		return []string{userVolumes}, nil
	}
	return []string{userReader}, nil
}

// derive makes 32 bytes for a purpose from a secret; nobody who has some of them learns others (HMAC-SHA-256).
func derive(secret []byte, purpose string) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("roost ceph " + purpose))
	return mac.Sum(nil)
}

// keyOf is the key of a user as Ceph writes it: in base64, kind (1: AES), time of making, length, 16 bytes (CryptoKey in
// src/auth/Crypto.cc).
func keyOf(seed []byte, user string) string {
	b := binary.LittleEndian.AppendUint16(nil, 1)
	b = binary.LittleEndian.AppendUint64(b, 0)
	b = binary.LittleEndian.AppendUint16(b, 16)
	return base64.StdEncoding.EncodeToString(append(b, derive(seed, user)[:16]...))
}

// keyring is the file with which a program is a user, or a monitor learns of users.
func keyring(user, key string, rights [][2]string) string {
	text := fmt.Sprintf("[%s]\n\tkey = %s\n", user, key)
	for _, right := range rights {
		text += fmt.Sprintf("\tcaps %s = %q\n", right[0], right[1])
	}
	return text
}

// newUUID makes a random UUID (RFC 9562, version 4).
func newUUID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return formatUUID(b)
}

func formatUUID(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

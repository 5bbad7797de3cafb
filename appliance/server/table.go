package server

import (
	"net/http"
	"sort"
	"strconv"
	"time"

	"roost/appliance/api"
	"roost/appliance/config"
	"roost/appliance/software"
	"roost/appliance/store"
	"roost/appliance/trust"
	"roost/images"
)

const (
	inventoryLimit = 1 << 20          // bytes of an enrolment or report; 24 disks and 64 interfaces take 40 KB
	longestPoll    = 60 * time.Second // a request for a grant may wait so long
	pageDefault    = 500
	pageLimit      = 2000
)

// choice is the body of requests that name a release.
type choice struct {
	Release images.Digest `json:"release"`
}

type certificateRequest struct {
	Request string `json:"request"` // PEM
}

type certificate struct {
	Certificate string `json:"certificate"` // PEM chain
}

// table is the API.
func (s *Server) table() []route {
	get, post, put, del := http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete
	return []route{
		{method: get, path: "/v1/openapi.json", access: anyone, summary: "describe this API", handle: s.openAPI},
		on(get, "/v1/site", anyone, "show site", s.site),
		on(put, "/v1/site/current", operator, "choose release for new machines", s.setCurrent),

		on(post, "/v1/enrolment", enrolling, "report an unknown machine", s.enrol).atMost(inventoryLimit),
		on(get, "/v1/enrolment", enrolling, "wait for the grant", s.await).reads("wait"),
		on(post, "/v1/node/report", node, "report facts, get wishes", s.report).atMost(inventoryLimit),
		on(post, "/v1/node/certificate", node, "renew certificate", s.renew),
		on(post, "/v1/node/components/{component}", node, "join component", s.joinComponent).atMost(inventoryLimit),

		on(get, "/v1/hosts", reader, "list hosts", page(s, store.Hosts())).reads("after", "limit"),
		on(get, "/v1/hosts/{host}", reader, "show host", s.host),
		on(get, "/v1/hosts/{host}/inventory", reader, "show hardware of host", s.inventory),
		on(get, "/v1/hosts/{host}/config", reader, "show configuration of host", s.configuration),
		on(put, "/v1/hosts/{host}/config", operator, "configure host", s.configure),
		on(post, "/v1/hosts/{host}/approve", operator, "approve host", s.approve),
		on(post, "/v1/hosts/{host}/rollback", operator, "roll back host", s.rollback),
		on(post, "/v1/hosts/{host}/clear", operator, "clear failures of host", s.clear),
		on(del, "/v1/hosts/{host}", operator, "forget host", s.forget),

		on(post, "/v1/components/{component}/access", reader, "get access to component", s.accessComponent),

		on(get, "/v1/releases", reader, "list releases on the shelf", s.releases),

		on(post, "/v1/releases/prune", operator, "prune releases", s.prune),

		on(get, "/v1/updates", reader, "list updates", page(s, store.Updates())).reads("after", "limit"),
		on(post, "/v1/updates", operator, "start update", s.startUpdate),
		on(get, "/v1/updates/{update}", reader, "show update", s.update),
		on(post, "/v1/updates/{update}/resume", operator, "resume update", s.resume),
		on(post, "/v1/updates/{update}/abort", operator, "abort update", s.abort),

		on(get, "/v1/audit", reader, "list audit record", page(s, store.Records())).reads("after", "limit"),
		{method: get, path: "/v1/watch", access: reader, summary: "watch changes", query: []string{"kinds", "after"}, stream: s.watch},
	}
}

func (s *Server) site(c *call, _ *nothing) (*api.Site, error) {
	var site *api.Site
	err := s.config.Store.View(c.ctx, func(tx *store.Tx) error {
		if site = store.Sites().Get(tx, "site"); site == nil {
			return api.NotFound.Errorf("cannot show site: it has no record yet")
		}
		return nil
	})
	if err == nil && c.caller.Kind != "operator" {
		site.Operators = nil
	}
	return site, err
}

func (s *Server) setCurrent(c *call, in *choice) (*api.Site, error) {
	return s.config.Software.SetCurrent(c.ctx, c.by, in.Release)
}

func (s *Server) enrol(c *call, in *api.Enrolment) (*api.Host, error) {
	return s.config.Trust.Enrol(c.ctx, c.caller.Fingerprint, c.by.Source, in)
}

func (s *Server) await(c *call, _ *nothing) (any, error) {
	seconds, _ := strconv.Atoi(c.request.URL.Query().Get("wait"))
	wait := min(max(time.Duration(seconds)*time.Second, 0), longestPoll)
	grant, err := s.config.Trust.Await(c.ctx, c.caller.Fingerprint, wait)
	if err != nil {
		return nil, err
	}
	if grant == nil {
		return accepted{}, nil
	}
	return grant, nil
}

func (s *Server) report(c *call, in *api.Report) (*api.Orders, error) {
	s.config.Trust.Heard(c.caller.ID)
	orders, err := s.config.Host.Report(c.ctx, c.caller.ID, in)
	if err == nil {
		orders.Renew = trust.Renewable(c.caller.Cert, s.config.Now())
	}
	return orders, err
}

func (s *Server) renew(c *call, in *certificateRequest) (certificate, error) {
	chain, err := s.config.Trust.Renew(c.ctx, c.caller.ID, in.Request)
	return certificate{chain}, err
}

func (s *Server) joinComponent(c *call, in *api.Join) (*api.Material, error) {
	return s.config.Service.Join(c.ctx, c.caller.ID, c.path("component"), in)
}

func (s *Server) accessComponent(c *call, in *api.Join) (*api.Material, error) {
	return s.config.Service.Access(c.ctx, c.by, string(c.role), c.path("component"), in)
}

func (s *Server) host(c *call, _ *nothing) (h *api.Host, err error) {
	err = s.config.Store.View(c.ctx, func(tx *store.Tx) error {
		h, err = store.FindHost(tx, c.path("host"))
		return err
	})
	return h, err
}

func (s *Server) inventory(c *call, _ *nothing) (i *api.Inventory, err error) {
	err = s.config.Store.View(c.ctx, func(tx *store.Tx) error {
		h, err := store.FindHost(tx, c.path("host"))
		if err != nil {
			return err
		}
		if i = trust.Inventories().Get(tx, h.ID); i == nil {
			return api.NotFound.Errorf("cannot show hardware of host %s: it has not reported any", h.Name)
		}
		return nil
	})
	return i, err
}

func (s *Server) configuration(c *call, _ *nothing) (*api.Config, error) {
	return config.Show(c.ctx, s.config.Store, c.path("host"))
}

func (s *Server) configure(c *call, in *api.Config) (*api.Config, error) {
	return config.Change(c.ctx, s.config.Store, c.by, c.path("host"), in)
}

func (s *Server) approve(c *call, in *api.Approval) (*api.Host, error) {
	return s.config.Trust.Approve(c.ctx, c.by, c.path("host"), in)
}

func (s *Server) rollback(c *call, _ *nothing) (*api.Host, error) {
	return s.config.Host.Rollback(c.ctx, c.by, c.path("host"))
}

func (s *Server) clear(c *call, in *choice) (*api.Host, error) {
	return s.config.Host.Clear(c.ctx, c.by, c.path("host"), in.Release)
}

func (s *Server) forget(c *call, _ *nothing) (nothing, error) {
	return nothing{}, s.config.Trust.Forget(c.ctx, c.by, c.path("host"))
}

func (s *Server) releases(c *call, _ *nothing) (*api.List[api.Release], error) {
	releases, err := s.config.Shelf.Releases(c.ctx)
	if err != nil {
		return nil, err
	}
	out := &api.List[api.Release]{Items: releases}
	err = s.config.Store.View(c.ctx, func(tx *store.Tx) error {
		out.Revision = tx.Revision()
		if site := store.Sites().Get(tx, "site"); site != nil {
			for i := range out.Items {
				out.Items[i].Current = out.Items[i].Digest == site.Current
			}
		}
		return nil
	})
	sort.SliceStable(out.Items, func(i, j int) bool { return out.Items[i].Version.Compare(out.Items[j].Version) > 0 })
	return out, err
}

func (s *Server) prune(c *call, in *api.Prune) (*api.Prune, error) {
	return s.config.Software.Prune(c.ctx, c.by, in)
}

func (s *Server) startUpdate(c *call, in *api.Update) (*api.Update, error) {
	return s.config.Software.Start(c.ctx, c.by, in)
}

func (s *Server) update(c *call, _ *nothing) (u *api.Update, err error) {
	err = s.config.Store.View(c.ctx, func(tx *store.Tx) error {
		u, err = software.Find(tx, c.path("update"))
		return err
	})
	return u, err
}

func (s *Server) resume(c *call, _ *nothing) (*api.Update, error) {
	return s.config.Software.Resume(c.ctx, c.by, c.path("update"))
}

func (s *Server) abort(c *call, _ *nothing) (*api.Update, error) {
	return s.config.Software.Abort(c.ctx, c.by, c.path("update"))
}

// page lists one page of a table.
func page[T any](s *Server, table store.Table[T]) func(*call, *nothing) (*api.List[*T], error) {
	return func(c *call, _ *nothing) (*api.List[*T], error) {
		query := c.request.URL.Query()
		limit := pageDefault
		if text := query.Get("limit"); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > pageLimit {
				return nil, api.Invalid.Errorf("cannot list: limit %q is not between 1 and %d", text, pageLimit)
			}
			limit = n
		}
		out := &api.List[*T]{Items: []*T{}}
		err := s.config.Store.View(c.ctx, func(tx *store.Tx) error {
			items, next := table.Page(tx, query.Get("after"), limit)
			out.Items, out.Next, out.Revision = append(out.Items, items...), next, tx.Revision()
			return nil
		})
		return out, err
	}
}

package command

import (
	"github.com/spf13/cobra"

	"roost/appliance/api"
)

const (
	platformFlag = "platform-cpus"
	pagesFlag    = "huge-pages"
)

// resourceFlags are how a command line says how a host's processors and memory are shared out.
type resourceFlags struct {
	platform string
	pages    []string
}

func (r *resourceFlags) define(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&r.platform, platformFlag, "", "processors of the system, its services and interrupts, for example 0-1; all others are for workloads")
	f.StringSliceVar(&r.pages, pagesFlag, nil, "huge pages to set aside: SIZE=COUNT, or SIZE=COUNT@NODE on one NUMA node; SIZE is 2Mi or 1Gi")
}

// parse returns what the flags say.
func (r *resourceFlags) parse() (*api.Resources, error) {
	out := &api.Resources{Processors: api.Processors{Platform: api.CPUs(r.platform)}}
	for _, text := range r.pages {
		pages, err := api.ParseHugePages(text)
		if err != nil {
			return nil, err
		}
		out.HugePages = append(out.HugePages, *pages)
	}
	return out, out.Validate()
}

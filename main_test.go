package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"roost": main})
}

// TestScript runs the scripts in test/script. Each is also a page of the manual: what one noun of the command does.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "test/script",
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, "HOME="+e.WorkDir, "XDG_CONFIG_HOME="+e.WorkDir+"/config", "XDG_STATE_HOME="+e.WorkDir+"/state", "ROOST_CACHE="+e.WorkDir+"/cache")
			return nil
		},
	})
}

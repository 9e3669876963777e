package hetznertest_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient/hetzner/hetznertest"
)

// TestTheVendorsCommandLineIsContent goes through the cloud with hcloud, as an
// operator would.
func TestTheVendorsCommandLineIsContent(t *testing.T) {
	program, err := exec.LookPath("hcloud")
	if err != nil {
		t.Skip("hcloud is not installed; install the hcloud-cli package to run this test")
	}
	c := start(t, hetznertest.Options{})
	home := t.TempDir()
	try := func(words ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), program, words...)
		cmd.Env = []string{"HOME=" + home, "HCLOUD_TOKEN=" + c.Token(), "HCLOUD_ENDPOINT=" + c.Endpoint(), "PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	hcloud := func(words ...string) string {
		t.Helper()
		out, err := try(words...)
		if err != nil {
			t.Fatalf("hcloud %s: %v\n%s", strings.Join(words, " "), err, out)
		}
		return out
	}
	w1 := c.AddServer(hetznertest.Server{Name: "w1", Labels: map[string]string{"env": "prod"}, Backend: app(t, "w1"), Private: true})
	c.AddServer(hetznertest.Server{Name: "w2", Labels: map[string]string{"env": "test"}, Backend: app(t, "w2"), Private: true})
	c.AddAddress("198.51.100.7", app(t, "robot"))
	id := balancer(t, c, hetznertest.Target{Server: w1})

	// targets are what "describe" tells, by type.
	targets := func() map[string]string {
		t.Helper()
		var lb struct {
			ID      int64
			Targets []struct {
				Type          string
				UsePrivateIP  bool                      `json:"use_private_ip"`
				Server        struct{ ID int64 }        `json:"server"`
				IP            struct{ IP string }       `json:"ip"`
				LabelSelector struct{ Selector string } `json:"label_selector"`
			}
		}
		if err := json.Unmarshal([]byte(hcloud("load-balancer", "describe", "front", "-o", "json")), &lb); err != nil || lb.ID != id {
			t.Fatalf("%+v, error %v", lb, err)
		}
		out := make(map[string]string)
		for _, x := range lb.Targets {
			switch x.Type {
			case "server":
				out[x.Type] += strconv.FormatInt(x.Server.ID, 10) + " " + strconv.FormatBool(x.UsePrivateIP)
			case "ip":
				out[x.Type] += x.IP.IP
			case "label_selector":
				out[x.Type] += x.LabelSelector.Selector
			}
		}
		return out
	}
	want := func(what string, want map[string]string) {
		t.Helper()
		got := targets()
		if len(got) != len(want) {
			t.Errorf("%s: targets %v, want %v", what, got, want)
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: targets %v, want %v", what, got, want)
			}
		}
	}
	number := strconv.FormatInt(w1, 10)
	want("at first", map[string]string{"server": number + " false"})
	for _, words := range []string{"load-balancer list", "server list", "server list --selector env=prod", "load-balancer describe front", "server describe w1"} {
		if out := hcloud(strings.Fields(words)...); !strings.Contains(out, "front") && !strings.Contains(out, "w1") || strings.Contains(out, "w2") != (words == "server list") {
			t.Errorf("hcloud %s:\n%s", words, out)
		}
	}
	hcloud("load-balancer", "remove-target", "front", "--server", "w1")
	want("after the removal", nil)
	hcloud("load-balancer", "add-target", "front", "--server", "w1", "--use-private-ip")
	hcloud("load-balancer", "add-target", "front", "--ip", "198.51.100.7")
	hcloud("load-balancer", "add-target", "front", "--label-selector", "env=test")
	want("after three were added", map[string]string{"server": number + " true", "ip": "198.51.100.7", "label_selector": "env=test"})
	if out, err := try("load-balancer", "add-target", "front", "--server", "w1"); err == nil || !strings.Contains(out, "target_already_defined") {
		t.Errorf("added twice: error %v\n%s", err, out)
	}
	hcloud("load-balancer", "remove-target", "front", "--label-selector", "env=test")
	hcloud("load-balancer", "remove-target", "front", "--ip", "198.51.100.7")
	want("after two were removed", map[string]string{"server": number + " true"})
	hcloud("server", "add-label", "w1", "colour=blue")
	if out := hcloud("server", "list", "--selector", "colour=blue,env=prod"); !strings.Contains(out, "w1") {
		t.Errorf("after a label was added:\n%s", out)
	}
}

// Command kube is every Kubernetes program the tests need in one binary: the name it is called by says which one it is.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

type program struct {
	name    string
	command func() *cobra.Command
}

var programs = []program{
	{"kube-apiserver", apiserver.NewAPIServerCommand},
	{"kube-controller-manager", controllers.NewControllerManagerCommand},
	{"kube-proxy", proxy.NewProxyCommand},
	{"kube-scheduler", func() *cobra.Command { return scheduler.NewSchedulerCommand() }},
	{"kubectl", cmd.NewDefaultKubectlCommand},
	{"kubelet", func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }},
}

func main() {
	called := filepath.Base(os.Args[0])
	chosen := slices.IndexFunc(programs, func(p program) bool { return p.name == called })
	if chosen < 0 {
		var names []string
		for _, p := range programs {
			names = append(names, p.name)
		}
		fmt.Fprintf(os.Stderr, "%s: call this binary by one of the names %s; link it under that name\n", called, strings.Join(names, ", "))
		os.Exit(2)
	}
	os.Exit(cli.Run(programs[chosen].command()))
}

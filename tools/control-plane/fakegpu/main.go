// Command fakegpu is a DRA driver for a node without GPUs. It publishes -gpus devices named gpu-0, gpu-1, … in one
// ResourceSlice. A container that shares a claim sees FAKE_GPUS=gpu-0,gpu-1: the names of the devices allocated to it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
)

// claimFolder holds one CDI file for each prepared claim; the container runtime reads the folder.
type claimFolder struct {
	driver string
	path   string
}

func (f claimFolder) file(claim types.UID) string {
	return filepath.Join(f.path, "fakegpu-"+string(claim)+".json")
}

// write describes a claim to the runtime in one step: whoever reads the folder sees all of the file or none.
func (f claimFolder) write(claim types.UID, devices []string) error {
	content, err := json.Marshal(map[string]any{
		"cdiVersion": "0.6.0",
		"kind":       f.driver + "/gpu",
		"devices": []map[string]any{{
			"name":           string(claim),
			"containerEdits": map[string]any{"env": []string{"FAKE_GPUS=" + strings.Join(devices, ",")}},
		}},
	})
	if err != nil {
		return err
	}
	unfinished := f.file(claim) + ".unfinished"
	if err := os.WriteFile(unfinished, content, 0o644); err != nil {
		return err
	}
	return os.Rename(unfinished, f.file(claim))
}

// remove forgets a claim; forgetting it twice is fine, as the kubelet may ask twice.
func (f claimFolder) remove(claim types.UID) error {
	err := os.Remove(f.file(claim))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

type plugin struct {
	folder claimFolder
	stop   context.CancelFunc
}

func (p plugin) prepare(claim *v1.ResourceClaim) kubeletplugin.PrepareResult {
	var names []string
	var devices []kubeletplugin.Device
	for _, allocated := range claim.Status.Allocation.Devices.Results {
		if allocated.Driver != p.folder.driver {
			continue
		}
		names = append(names, allocated.Device)
		devices = append(devices, kubeletplugin.Device{
			Requests:     []string{allocated.Request},
			PoolName:     allocated.Pool,
			DeviceName:   allocated.Device,
			CDIDeviceIDs: []string{p.folder.driver + "/gpu=" + string(claim.UID)},
		})
	}
	log.Printf("prepare %s/%s: %s", claim.Namespace, claim.Name, strings.Join(names, " "))
	if err := p.folder.write(claim.UID, names); err != nil {
		return kubeletplugin.PrepareResult{Err: fmt.Errorf("write the CDI file: %w", err)}
	}
	return kubeletplugin.PrepareResult{Devices: devices}
}

func (p plugin) PrepareResourceClaims(_ context.Context, claims []*v1.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	results := make(map[types.UID]kubeletplugin.PrepareResult, len(claims))
	for _, claim := range claims {
		results[claim.UID] = p.prepare(claim)
	}
	return results, nil
}

func (p plugin) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	results := make(map[types.UID]error, len(claims))
	for _, claim := range claims {
		results[claim.UID] = p.folder.remove(claim.UID)
		log.Printf("unprepare %s/%s", claim.Namespace, claim.Name)
	}
	return results, nil
}

func (p plugin) HandleError(_ context.Context, err error, message string) {
	log.Printf("%s: %v", message, err)
	if !errors.Is(err, kubeletplugin.ErrRecoverable) {
		p.stop()
	}
}

func devicesOf(node string, count int) []v1.Device {
	devices := make([]v1.Device, count)
	for i := range devices {
		index, uuid := int64(i), fmt.Sprintf("GPU-%s-%d", node, i)
		devices[i] = v1.Device{
			Name: fmt.Sprintf("gpu-%d", i),
			Attributes: map[v1.QualifiedName]v1.DeviceAttribute{
				"index": {IntValue: &index},
				"uuid":  {StringValue: &uuid},
			},
			Capacity: map[v1.QualifiedName]v1.DeviceCapacity{"memory": {Value: resource.MustParse("80Gi")}},
		}
	}
	return devices
}

func serve(ctx context.Context, stop context.CancelFunc, kubeconfig, driver, node, cdi string, gpus int) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	for _, folder := range []string{cdi, filepath.Join(kubeletplugin.KubeletPluginsDir, driver)} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	helper, err := kubeletplugin.Start(ctx, plugin{claimFolder{driver, cdi}, stop},
		kubeletplugin.DriverName(driver), kubeletplugin.NodeName(node), kubeletplugin.KubeClient(client))
	if err != nil {
		return err
	}
	defer helper.Stop()
	pool := resourceslice.Pool{Slices: []resourceslice.Slice{{Devices: devicesOf(node, gpus)}}}
	resources := resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{node: pool}}
	if err := helper.PublishResources(ctx, resources); err != nil {
		return err
	}
	log.Printf("%d devices of %s published for node %s", gpus, driver, node)
	<-ctx.Done()
	return nil
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server; empty: as a pod of the cluster")
	driver := flag.String("driver", "gpu.tandem.dev", "name of the driver")
	node := flag.String("node", "", "name of the node that holds the devices")
	gpus := flag.Int("gpus", 2, "how many devices to publish")
	cdi := flag.String("cdi", "/run/cdi", "folder in which the container runtime looks for CDI files")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx, stop, *kubeconfig, *driver, *node, *cdi, *gpus); err != nil {
		log.Fatal(err)
	}
}

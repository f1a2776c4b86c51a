package suite

import (
	"context"
	"flag"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kubernetes/test/e2e/framework"
	e2enode "k8s.io/kubernetes/test/e2e/framework/node"
	e2epod "k8s.io/kubernetes/test/e2e/framework/pod"
	storageframework "k8s.io/kubernetes/test/e2e/storage/framework"
	"k8s.io/kubernetes/test/e2e/storage/testsuites"
)

// A driver definition file can describe CSI ephemeral volumes, for which the suite has five tests, and volumes that a
// provisioner makes, of which hostmount has none. The other tests of the suite are for volumes that are there already, in
// a pod's own spec ("Inline-volume") or in a PersistentVolume ("Pre-provisioned PV"), and want a driver in Go: this one.
type driver struct {
	info  storageframework.DriverInfo
	entry string
	made  int
}

var (
	_ storageframework.InlineVolumeTestDriver     = &driver{}
	_ storageframework.PreprovisionedPVTestDriver = &driver{}

	driverName = flag.String("hostmount.driver", "", "name of the installed CSI driver")
	entryName  = flag.String("hostmount.entry", "", "entry of its allow-list, with subPaths and missing.create")
)

func define() {
	d := &driver{entry: *entryName, info: storageframework.DriverInfo{
		Name:            *driverName,
		MaxFileSize:     storageframework.FileSizeMedium,
		SupportedFsType: sets.NewString(""),
		TopologyKeys:    []string{v1.LabelHostname},
		Capabilities: map[storageframework.Capability]bool{
			storageframework.CapPersistence:       true,
			storageframework.CapExec:              true,
			storageframework.CapMultiPODs:         true,
			storageframework.CapMultiplePVsSameID: true,
			storageframework.CapSingleNodeVolume:  true,
			storageframework.CapTopology:          true,
		},
	}}
	framework.Describe("Hostmount", storageframework.GetDriverNameWithFeatureTags(d)[0], func() {
		storageframework.DefineTestSuites(d, testsuites.CSISuites)
	})
}

// A directory of one node for one test: what the suite takes for a new and empty volume.
type directory struct {
	driver, entry, subPath, node string
}

// Directories go with the node, or are removed by hand: nothing here may write to a node but by the driver.
func (directory) DeleteVolume(context.Context) {}

func (d *driver) GetDriverInfo() *storageframework.DriverInfo { return &d.info }

func (d *driver) SkipUnsupportedTest(pattern storageframework.TestPattern) string {
	switch pattern.VolType {
	case "", storageframework.InlineVolume, storageframework.PreprovisionedPV:
		return ""
	}
	return "hostmount makes no volumes for claims, and the driver definition file has the CSI ephemeral ones"
}

func (d *driver) PrepareTest(_ context.Context, f *framework.Framework) *storageframework.PerTestConfig {
	return &storageframework.PerTestConfig{Driver: d, Prefix: "hostmount", Framework: f}
}

func (d *driver) CreateVolume(
	ctx context.Context, config *storageframework.PerTestConfig, _ storageframework.TestVolType,
) storageframework.TestVolume {
	// All volumes of one test on one node: that is where its pods go.
	if config.ClientNodeSelection.Name == "" {
		node, err := e2enode.GetRandomReadySchedulableNode(ctx, config.Framework.ClientSet)
		framework.ExpectNoError(err)
		config.ClientNodeSelection = e2epod.NodeSelection{Name: node.Name}
	}
	node, err := config.Framework.ClientSet.CoreV1().Nodes().Get(ctx, config.ClientNodeSelection.Name, metav1.GetOptions{})
	framework.ExpectNoError(err)
	d.made++
	subPath := fmt.Sprintf("%s/%d", config.Framework.Namespace.Name, d.made)
	return directory{driver: d.info.Name, entry: d.entry, subPath: subPath, node: node.Labels[v1.LabelHostname]}
}

func (d *driver) GetVolumeSource(readOnly bool, _ string, volume storageframework.TestVolume) *v1.VolumeSource {
	of := volume.(directory)
	return &v1.VolumeSource{CSI: &v1.CSIVolumeSource{
		Driver:           of.driver,
		ReadOnly:         &readOnly,
		VolumeAttributes: map[string]string{"volume": of.entry, "subPath": of.subPath},
	}}
}

func (d *driver) GetPersistentVolumeSource(
	_ bool, _ string, volume storageframework.TestVolume,
) (*v1.PersistentVolumeSource, *v1.VolumeNodeAffinity) {
	of := volume.(directory)
	source := &v1.PersistentVolumeSource{CSI: &v1.CSIPersistentVolumeSource{
		Driver:       of.driver,
		VolumeHandle: of.entry + "/" + of.subPath,
	}}
	here := v1.NodeSelectorRequirement{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{of.node}}
	return source, &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{
		{MatchExpressions: []v1.NodeSelectorRequirement{here}},
	}}}
}

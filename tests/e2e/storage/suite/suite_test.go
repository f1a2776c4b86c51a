// Kubernetes' storage suite for CSI drivers as a program of its own: what e2e.test of a release has besides takes longer
// to link, and finds nothing out about a driver.
package suite

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"

	"k8s.io/kubernetes/test/e2e"
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	"k8s.io/kubernetes/test/e2e/framework/testfiles"
	_ "k8s.io/kubernetes/test/e2e/storage/external"
	e2etestingmanifests "k8s.io/kubernetes/test/e2e/testing-manifests"

	// What e2e.test of a release configures the framework with.
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"
	_ "k8s.io/kubernetes/test/e2e/framework/metrics/init"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"
	_ "k8s.io/kubernetes/test/utils/ktesting/format"
)

var summary = flag.String("hostmount.summary", "", "file for the outcome of each chosen test, and their numbers")

func TestMain(m *testing.M) {
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	flag.Parse()
	if *driverName != "" {
		define()
	}
	testfiles.AddFileSource(e2etestingmanifests.GetE2ETestingManifestsFS())
	framework.AfterReadingAllFlags(&framework.TestContext)
	os.Exit(m.Run())
}

func TestStorage(t *testing.T) {
	e2e.RunE2ETests(t)
}

// Ginkgo counts among the skipped what was never chosen, and calls a run of nothing a success.
var _ = ginkgo.ReportAfterSuite("summary", func(report ginkgo.Report) {
	if report.SuiteConfig.DryRun {
		return
	}
	var passed, failed, skipped int
	var said strings.Builder
	for _, spec := range report.SpecReports {
		name := spec.FullText()
		switch {
		case spec.State.Is(types.SpecStateFailureStates):
			failed++
			fmt.Fprintf(&said, "failed: %s %s: %s\n", spec.LeafNodeType, name, spec.Failure.Message)
		case spec.LeafNodeType != types.NodeTypeIt:
		case spec.State.Is(types.SpecStatePassed):
			passed++
			fmt.Fprintf(&said, "passed: %s (%.0f s)\n", name, spec.RunTime.Seconds())
		case spec.Failure.Message != "":
			skipped++
			fmt.Fprintf(&said, "skipped: %s: %s\n", name, spec.Failure.Message)
		}
	}
	fmt.Fprintf(&said, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	// Ginkgo indents what it captures here, and more so of several processes.
	if err := os.WriteFile(*summary, []byte(said.String()), 0o644); err != nil {
		ginkgo.Fail(err.Error())
	}
	if passed == 0 {
		ginkgo.Fail("no test of the suite has passed: nothing is known")
	}
})

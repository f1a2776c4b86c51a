// What the storage suite asks of the image agnhost, by Kubernetes' own code, for clusters without a registry.
package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/kubernetes/test/images/agnhost/mounttest"
	"k8s.io/kubernetes/test/images/agnhost/pause"
)

func main() {
	program := &cobra.Command{Use: "agnhost"}
	program.AddCommand(mounttest.CmdMounttest, pause.CmdPause)
	if program.Execute() != nil {
		os.Exit(1)
	}
}

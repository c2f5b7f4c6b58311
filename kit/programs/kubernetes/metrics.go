package main

import (
	"github.com/spf13/cobra"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/server"
	definitions "k8s.io/kubernetes/pkg/generated/openapi"
	"sigs.k8s.io/metrics-server/cmd/metrics-server/app/options"
	"sigs.k8s.io/metrics-server/pkg/api"
)

// The metrics server shares almost all of its code with the other components: built alone it takes minutes, and here seconds. This
// is the newest version that leaves the versions of Kubernetes' dependencies alone. Its own description of its API is too old for
// the libraries of this Kubernetes, which has one itself.
func metricsServer() *cobra.Command {
	given := options.NewOptions()
	command := &cobra.Command{Use: "metrics-server", RunE: func(*cobra.Command, []string) error {
		if errors := given.Validate(); len(errors) > 0 {
			return errors[0]
		}
		config, err := given.ServerConfig()
		if err != nil {
			return err
		}
		names := openapi.NewDefinitionNamer(api.Scheme)
		config.Apiserver.OpenAPIConfig = server.DefaultOpenAPIConfig(definitions.GetOpenAPIDefinitions, names)
		config.Apiserver.OpenAPIV3Config = server.DefaultOpenAPIV3Config(definitions.GetOpenAPIDefinitions, names)
		complete, err := config.Complete()
		if err != nil {
			return err
		}
		return complete.RunUntil(server.SetupSignalHandler())
	}}
	for _, flags := range given.Flags().FlagSets {
		command.Flags().AddFlagSet(flags)
	}
	return command
}

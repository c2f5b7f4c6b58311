// Generates docs from the CRDs.
//
//	crddocs reference DIR           prints docs/reference.md
//	crddocs descriptions DIR OUT    writes the description of each field to a file in OUT with the field's name
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

type CRD struct {
	Metadata struct{ Name string }
	Spec     struct {
		Group string
		Names struct {
			Kind       string
			ShortNames []string `yaml:"shortNames"`
		}
		Scope    string
		Versions []struct {
			Name    string
			Columns []Column `yaml:"additionalPrinterColumns"`
			Schema  struct {
				Root Schema `yaml:"openAPIV3Schema"`
			}
		}
	}
}

type Column struct {
	Name, Description string
	Priority          int
}

type Schema struct {
	Description string
	Type        string
	Format      string
	Default     any
	Enum        []string
	Minimum     *float64
	Maximum     *float64
	MaxLength   *int `yaml:"maxLength"`
	MinItems    *int `yaml:"minItems"`
	MaxItems    *int `yaml:"maxItems"`
	MaxEntries  *int `yaml:"maxProperties"`
	IntOrString bool `yaml:"x-kubernetes-int-or-string"`
	Required    []string
	Properties  map[string]*Schema
	Items       *Schema
	Additional  *Schema `yaml:"additionalProperties"`
}

// Fields with a schema of Kubernetes. Its reference describes their own fields.
var kubernetes = map[string]string{
	"containerSecurityContext": "SecurityContext",
	"imagePullSecrets":         "LocalObjectReference",
	"securityContext":          "PodSecurityContext",
	"tolerations":              "Toleration",
}

const kubernetesReference = "https://kubernetes.io/docs/reference/kubernetes-api/"

// The order of the sections: a researcher's kinds first, then a platform team's.
var order = []string{"Session", "Kernel", "ScalingGroup", "ResourcePolicy", "Keypair", "User", "Project", "Domain", "Deployment", "Route"}

func main() {
	log.SetFlags(0)
	log.SetPrefix("crddocs: ")
	switch {
	case len(os.Args) == 3 && os.Args[1] == "reference":
		reference(read(os.Args[2]))
	case len(os.Args) == 4 && os.Args[1] == "descriptions":
		descriptions(read(os.Args[2]), os.Args[3])
	default:
		log.Fatal("usage: crddocs reference DIR | crddocs descriptions DIR OUT")
	}
}

func read(dir string) []CRD {
	files, _ := filepath.Glob(filepath.Join(dir, "*.yaml"))
	crds := make([]CRD, len(files))
	for i, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			err = yaml.Unmarshal(text, &crds[i])
		}
		if err != nil {
			log.Fatalf("%s: %v", file, err)
		}
	}
	slices.SortFunc(crds, func(a, b CRD) int {
		return slices.Index(order, a.Spec.Names.Kind) - slices.Index(order, b.Spec.Names.Kind)
	})
	return crds
}

// A field, by its path: `kernels[].image`.
type Field struct {
	Path     string
	Required bool
	*Schema
}

// Returns the fields below a schema in the order of their names, each followed by its own fields. It does not descend into
// types of Kubernetes, nor into a field that has the same fields as `known`.
func fields(schema *Schema, path string, known *Schema) []Field {
	var found []Field
	names := []string{}
	for name := range schema.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		field := schema.Properties[name]
		child := strings.TrimPrefix(path+"."+name, ".")
		found = append(found, Field{child, slices.Contains(schema.Required, name), field})
		if kubernetes[name] != "" || (known != nil && same(field, known)) {
			continue
		}
		inner := field
		for inner.Items != nil {
			inner, child = inner.Items, child+"[]"
		}
		found = append(found, fields(inner, child, known)...)
	}
	return found
}

func same(a, b *Schema) bool {
	return a != b && len(a.Properties) > 0 && reflect.DeepEqual(a.Properties, b.Properties)
}

func sessionSpec(crds []CRD) *Schema {
	for _, crd := range crds {
		if crd.Spec.Names.Kind == "Session" {
			return crd.Spec.Versions[0].Schema.Root.Properties["spec"]
		}
	}
	return nil
}

func reference(crds []CRD) {
	session := sessionSpec(crds)
	fmt.Print("# Reference\n\nEvery kind and field of the API, written by `make reference` from the CRDs. Do not edit.\n\n")
	fmt.Print("`kubectl explain session.spec` prints the same text. A field is optional unless its type says `required`.\n\n")
	for _, crd := range crds {
		fmt.Printf("- [%s](#%s): %s\n", crd.Spec.Names.Kind, strings.ToLower(crd.Spec.Names.Kind), line(root(crd).Description))
	}
	for _, crd := range crds {
		kind := crd.Spec.Names.Kind
		fmt.Printf("\n## %s\n\n%s\n\n%s\n", kind, line(root(crd).Description), summary(crd))
		for _, part := range []string{"spec", "status"} {
			schema := root(crd).Properties[part]
			if schema == nil {
				continue
			}
			fmt.Printf("\n### %s %s\n\n| field | type | default | description |\n|---|---|---|---|\n", kind, part)
			for _, field := range fields(schema, "", session) {
				row(field, session)
			}
		}
	}
}

func root(crd CRD) *Schema { return &crd.Spec.Versions[0].Schema.Root }

func summary(crd CRD) string {
	names, version := crd.Spec.Names, crd.Spec.Versions[0]
	scope := map[string]string{"Namespaced": "namespaced", "Cluster": "cluster-wide"}[crd.Spec.Scope]
	text := fmt.Sprintf("`apiVersion: %s/%s`, %s", crd.Spec.Group, version.Name, scope)
	if len(names.ShortNames) > 0 {
		text += fmt.Sprintf(", short name `%s`", strings.Join(names.ShortNames, "`, `"))
	}
	var always, wide []string
	for _, column := range version.Columns {
		if column.Priority == 0 {
			always = append(always, column.Name)
		} else {
			wide = append(wide, column.Name)
		}
	}
	text += ". `kubectl get` shows " + strings.Join(always, ", ")
	if len(wide) > 0 {
		text += "; with `-o wide` also " + strings.Join(wide, ", ")
	}
	return text + "."
}

func row(field Field, session *Schema) {
	kind, description := typeOf(field.Schema), line(field.Description)
	name := field.Path[strings.LastIndexAny(field.Path, ".")+1:]
	isText := field.Schema.Items != nil && field.Schema.Items.Type == "string"
	if own := kubernetes[name]; own != "" && !isText {
		description += fmt.Sprintf(" Fields: [%s](%s) of Kubernetes.", own, kubernetesReference)
	}
	if same(field.Schema, session) {
		description += " Fields: [Session spec](#session-spec)."
	}
	if field.Required {
		kind += ", `required`"
	}
	fmt.Printf("| `%s` | %s | %s | %s |\n", field.Path, kind, defaultOf(field.Schema), cell(description))
}

func typeOf(schema *Schema) string {
	switch {
	case len(schema.Enum) > 0:
		return "`" + strings.Join(schema.Enum, "`, `") + "`"
	case schema.IntOrString:
		return "quantity"
	case schema.Items != nil:
		return "list" + count(" of ", schema.MinItems, schema.MaxItems) + ": " + typeOf(schema.Items)
	case schema.Additional != nil && schema.Additional.Type == "":
		return "map" + count(" of ", nil, schema.MaxEntries) + ": quantity"
	case schema.Additional != nil:
		return "map" + count(" of ", nil, schema.MaxEntries) + ": " + typeOf(schema.Additional)
	case schema.Format == "date-time":
		return "time"
	case schema.Type == "integer" && schema.Minimum != nil && schema.Maximum != nil:
		return fmt.Sprintf("integer, %.0f to %.0f", *schema.Minimum, *schema.Maximum)
	case schema.Type == "integer" && schema.Minimum != nil:
		return fmt.Sprintf("integer, at least %.0f", *schema.Minimum)
	case schema.Type == "string" && schema.MaxLength != nil:
		return "string" + count(", ", nil, schema.MaxLength) + " characters"
	}
	return schema.Type
}

// Returns the permitted number of something, or nothing if it has no limit.
func count(lead string, min, max *int) string {
	switch {
	case max == nil:
		return ""
	case min == nil || *min == 0:
		return fmt.Sprintf("%sat most %d", lead, *max)
	}
	return fmt.Sprintf("%s%d to %d", lead, *min, *max)
}

// Omits an empty default, and one that only repeats the defaults of its fields.
func defaultOf(schema *Schema) string {
	if schema.Default == nil || schema.Default == "" || len(schema.Properties) > 0 {
		return ""
	}
	text, err := json.Marshal(schema.Default)
	if err != nil {
		log.Fatal(err)
	}
	return "`" + strings.Trim(string(text), `"`) + "`"
}

func line(text string) string { return strings.Join(strings.Fields(text), " ") }

func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(text)
}

func descriptions(crds []CRD, out string) {
	session := sessionSpec(crds)
	for _, crd := range crds {
		kind := crd.Spec.Names.Kind
		write(out, kind, root(crd).Description)
		for _, column := range crd.Spec.Versions[0].Columns {
			write(out, kind+".column."+column.Name, column.Description)
		}
		for _, part := range []string{"spec", "status"} {
			schema := root(crd).Properties[part]
			if schema == nil {
				continue
			}
			write(out, kind+"."+part, schema.Description)
			for _, field := range fields(schema, part, session) {
				write(out, kind+"."+field.Path, field.Description)
				if items := field.Items; items != nil && kubernetes[field.Path[strings.LastIndex(field.Path, ".")+1:]] == "" {
					write(out, kind+"."+field.Path+"[]", items.Description)
				}
			}
		}
	}
}

func write(out, field, description string) {
	if description == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(out, field+".md"), []byte(line(description)+"\n"), 0o644); err != nil {
		log.Fatal(err)
	}
}

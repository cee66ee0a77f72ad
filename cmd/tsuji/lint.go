package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/explain"
)

func lintCommand(w world) *cobra.Command {
	var o format
	var ingressController string
	var strict bool
	cmd := &cobra.Command{
		Use:   "lint FILES…",
		Short: "Tell what a control plane would refuse in manifests, without one",
		Long: `lint reads manifests as a control plane with --source=dir does, and tells by file and line what is wrong in
them: faults (what cannot be read), refused Routes with OpenShift's reasons, and warnings (an annotation that is
not understood, a Service that is not there). What others made in the cluster, and what the manifests therefore do
not hold, cannot be judged: a Route that wants nothing but a Secret, and an Ingress whose IngressClass is not there, are
told as missing it. Endpoints are looked for if the manifests hold any EndpointSlice at all.

FILES are files, directories, or - for the standard input. What kubectl get -o yaml prints will do.

Exit codes: 0 everything is served (but for what misses a Secret), 1 there are faults or refused Routes (with
--strict, or a Route that misses a Secret, or a warning), 2 the command line was not understood or a file cannot
be read.`,
		Example: `  tsuji lint examples/demo
  kubectl get routes,ingresses,ingressclasses,services,endpointslices,secrets -A -o yaml | tsuji lint --strict -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := compileFiles(cmd.Context(), w, args, ingressController)
			if err != nil {
				return err
			}
			r := lint(c, ingressController)
			if err := o.printValue(w.out, r, r.table); err != nil {
				return err
			}
			if r.Faults > 0 || r.Refused > 0 || strict && r.Missing+r.Warnings > 0 {
				return errFindings
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&ingressController, "ingress-controller", "default", "the IngressController that judges")
	cmd.Flags().BoolVar(&strict, "strict", false, "the manifests are all there is: a Secret that they do not hold, and a warning, count for the exit code, too")
	o.flags(cmd.Flags(), asTable)
	return cmd
}

// lintReport is what lint finds. Others read it as JSON: fields are not renamed.
type lintReport struct {
	IngressController string    `json:"ingressController"`
	Admitted          int       `json:"admitted"`
	Refused           int       `json:"refused"`
	Missing           int       `json:"missing"`     // Routes that are served if there is a Secret, or an IngressClass, which the manifests do not hold
	NotSelected       int       `json:"notSelected"` // Routes that are another IngressController's, and Ingresses that are not served by it
	Faults            int       `json:"faults"`
	Warnings          int       `json:"warnings"`
	Findings          []finding `json:"findings"` // by place and line
}

// finding is one thing that is wrong.
type finding struct {
	Kind    string `json:"kind"` // fault, refused, missing or warning
	Place   string `json:"place"`
	Line    int    `json:"line,omitempty"`
	Route   string `json:"route,omitempty"`  // namespace/name
	Source  string `json:"source,omitempty"` // what the Route was made of: "Ingress shop, spec.rules[0]"
	Reason  string `json:"reason,omitempty"` // of a refusal
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
}

func lint(c *compiled, ingressController string) *lintReport {
	r := &lintReport{IngressController: ingressController, Findings: []finding{}, Faults: len(c.Faults)}
	for _, f := range c.Faults {
		r.Findings = append(r.Findings, finding{Kind: "fault", Place: f.Place, Line: f.Line, Message: f.Message, Remedy: f.Remedy})
	}
	judged := map[cluster.Key]bool{}
	for _, v := range c.told() {
		key := writtenIn(v)
		judged[key] = true
		at := c.Places[key]
		f := finding{Place: at.Path, Line: at.Line, Route: v.GetNamespace() + "/" + v.GetName(), Source: explain.MadeOf(v)}
		switch {
		case v.GetAdmitted():
			r.Admitted++
		case v.GetReason() == compile.ReasonNoIngressClass: // which may be in the cluster, as Secrets are
			r.Missing++
			f.Kind, f.Message = "missing", v.GetMessage()
			r.Findings = append(r.Findings, f)
		case v.GetMissingSecret() != "":
			r.Missing++
			f.Kind, f.Message = "missing", fmt.Sprintf("Secret %s/%s is not in these manifests; without it the Route is refused (%s)", v.GetNamespace(), v.GetMissingSecret(), v.GetReason())
			r.Findings = append(r.Findings, f)
		default:
			r.Refused++
			f.Kind, f.Reason, f.Message = "refused", v.GetReason(), v.GetMessage()
			r.Findings = append(r.Findings, f)
		}
		for _, text := range v.GetWarnings() {
			r.Warnings++
			f.Kind, f.Reason, f.Message = "warning", "", text
			r.Findings = append(r.Findings, f)
		}
	}
	if len(c.verdicts) == 0 && len(c.Faults) == 0 && !slices.ContainsFunc(c.Changes, isRouting) {
		r.Warnings++
		r.Findings = append(r.Findings, finding{Kind: "warning", Place: "manifests", Message: "there are no Routes and no Ingresses in them: nothing is served"})
	}
	for _, ch := range c.Changes {
		if isRouting(ch) && !judged[ch.Key] {
			r.NotSelected++
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b finding) int {
		return cmp.Or(strings.Compare(a.Place, b.Place), cmp.Compare(a.Line, b.Line))
	})
	return r
}

func isRouting(ch cluster.Change) bool {
	return ch.Key.Kind == cluster.Route || ch.Key.Kind == cluster.Ingress
}

// table writes findings as compilers do, which editors understand.
func (r *lintReport) table(g *grid) {
	for _, f := range r.Findings {
		place := f.Place
		if f.Line > 0 {
			place = fmt.Sprintf("%s:%d", place, f.Line)
		}
		text := f.Message
		if f.Reason != "" {
			text = f.Reason + ": " + text
		}
		if f.Route != "" {
			text = "Route " + f.Route + ofSource(f.Source) + ": " + text
		}
		g.text("%s: %s: %s", place, f.Kind, strings.ReplaceAll(text, "\n", " "))
		if f.Remedy != "" {
			g.text("    to do: %s", f.Remedy)
		}
	}
	other := ""
	if r.Missing > 0 {
		other = fmt.Sprintf(", %d without its Secret or IngressClass", r.Missing)
	}
	if r.NotSelected > 0 {
		other += fmt.Sprintf(", %d not of IngressController %s", r.NotSelected, r.IngressController)
	}
	g.text("%s: %d admitted, %d refused%s; %s, %s",
		count(r.Admitted+r.Refused+r.Missing+r.NotSelected, "Route"), r.Admitted, r.Refused, other, count(r.Faults, "fault"), count(r.Warnings, "warning"))
}

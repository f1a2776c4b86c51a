{{- define "hostmount.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "hostmount.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 54 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 54 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "hostmount.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "hostmount.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "hostmount.selectorLabels" -}}
app.kubernetes.io/name: {{ include "hostmount.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hostmount.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" (.Chart.AppVersion | replace "+" "_" | trunc 63)
  "app.kubernetes.io/managed-by" .Release.Service
  "app.kubernetes.io/component" "node-plugin" -}}
{{- $selector := include "hostmount.selectorLabels" . | fromYaml -}}
{{- merge (dict) $selector $own .Values.commonLabels | toYaml -}}
{{- end -}}

{{- /* The metadata of an object: {root, name, namespaced, labels, annotations}. */ -}}
{{- define "hostmount.metadata" -}}
name: {{ .name }}
{{- if .namespaced }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- merge (include "hostmount.labels" .root | fromYaml) (default dict .labels) | toYaml | nindent 2 }}
{{- with merge (dict) (default dict .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "hostmount.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* Exactly what setns into the kubelet's mount namespace and mounting there need. */ -}}
{{- define "hostmount.securityContext" -}}
privileged: false
runAsUser: 0
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add: [SYS_ADMIN, SYS_CHROOT, SYS_PTRACE]
seccompProfile:
  type: RuntimeDefault
# The default profile of container runtimes denies mount(2).
appArmorProfile:
  type: Unconfined
{{- with .Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* What can't be right whatever the cluster. values.schema.json says the rest; this is what it can't. */ -}}
{{- define "hostmount.check" -}}
{{- if le (int .Values.terminationGracePeriodSeconds) (int .Values.drainTimeoutSeconds) -}}
{{- fail (printf "terminationGracePeriodSeconds (%v) must be above drainTimeoutSeconds (%v)" .Values.terminationGracePeriodSeconds .Values.drainTimeoutSeconds) -}}
{{- end -}}
{{- $metrics := .Values.metrics -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.from) -}}
{{- if or $metrics.service.enabled $metrics.serviceMonitor.enabled $metrics.podMonitor.enabled -}}
{{- fail "metrics: nobody could read them: write the peers that may into networkPolicy.from, or set networkPolicy.enabled=false" -}}
{{- end -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $i, $entry := .Values.entries -}}
{{- if hasKey $seen $entry.name -}}
{{- fail (printf "entries[%d].name: %q is the name of entries[%d] too" $i $entry.name (get $seen $entry.name)) -}}
{{- end -}}
{{- $_ := set $seen $entry.name $i -}}
{{- end -}}
{{- end -}}

{{- /* A pattern of the allow-list as a regular expression: * is any run of characters, ? any one, none of them "/". */ -}}
{{- define "hostmount.glob" -}}
{{- if not (regexMatch "^[a-z0-9.*?-]+$" .) -}}
{{- fail (printf "entries: allow has the pattern %q: use a-z, 0-9, '-', '.', '*' and '?'" .) -}}
{{- end -}}
{{- . | replace "." "[.]" | replace "?" "[^/]" | replace "*" "[^/]*" -}}
{{- end -}}

{{- /* Patterns of which one must match. */ -}}
{{- define "hostmount.globs" -}}
{{- $all := list -}}
{{- range . -}}{{- $all = append $all (include "hostmount.glob" .) -}}{{- end -}}
{{- printf "(?:%s)" (join "|" $all) -}}
{{- end -}}

{{- /* Who may have an entry, as a regular expression that a whole NAMESPACE/SERVICE-ACCOUNT must match. */ -}}
{{- define "hostmount.who" -}}
{{- $rules := list -}}
{{- range .allow -}}
{{- $accounts := default (list "*") .serviceAccounts -}}
{{- $rules = append $rules (printf "%s/%s" (include "hostmount.globs" .namespaces) (include "hostmount.globs" $accounts)) -}}
{{- end -}}
{{- /* No rule matches nobody: who is asked for always has a slash. */ -}}
{{- if $rules }}^(?:{{ join "|" $rules }})${{ else }}^${{ end -}}
{{- end -}}

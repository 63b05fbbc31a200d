{{/* Every name of the chart. Arguments are the root context, or a dict of root and component. */}}

{{- define "bitsmith.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "bitsmith.component" -}}
{{- printf "%s-%s" (include "bitsmith.fullname" .root) .component -}}
{{- end -}}

{{- define "bitsmith.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "bitsmith.labels" -}}
{{ include "bitsmith.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: bitsmith
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.global.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Secrets: the one that is named, or the one that the secrets job makes. */}}
{{- define "bitsmith.secret.auth" -}}
{{- .Values.auth.existingSecret | default (printf "%s-auth" (include "bitsmith.fullname" .)) -}}
{{- end -}}
{{- define "bitsmith.secret.postgresql" -}}
{{- .Values.postgresql.existingSecret | default (printf "%s-postgresql" (include "bitsmith.fullname" .)) -}}
{{- end -}}
{{- define "bitsmith.secret.redis" -}}
{{- .Values.redis.existingSecret | default (printf "%s-redis" (include "bitsmith.fullname" .)) -}}
{{- end -}}
{{- define "bitsmith.secret.objectStore" -}}
{{- .Values.objectStore.existingSecret | default (printf "%s-objectstore" (include "bitsmith.fullname" .)) -}}
{{- end -}}

{{/* host:port of the object store, seen from the pods. */}}
{{- define "bitsmith.objectStore.endpoint" -}}
{{- if eq .Values.objectStore.mode "bundled" -}}
{{- printf "%s.%s.svc:8333" (include "bitsmith.component" (dict "root" . "component" "objectstore")) .Release.Namespace -}}
{{- else -}}
{{- .Values.objectStore.endpoint -}}
{{- end -}}
{{- end -}}

{{/* A reference by digest where there is one. Arguments: root, name (a key of images). */}}
{{- define "bitsmith.image" -}}
{{- $image := index .root.Values.images .name -}}
{{- $registry := default $image.registry .root.Values.global.imageRegistry -}}
{{- with $registry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest -}}@{{ $image.digest }}{{- else -}}:{{ default .root.Chart.AppVersion $image.tag }}{{- end -}}
{{- end -}}

{{/* Of disruption budgets; 1.20 has the older one only. */}}
{{- define "bitsmith.policyVersion" -}}
{{- ternary "policy/v1" "policy/v1beta1" (.Capabilities.APIVersions.Has "policy/v1") -}}
{{- end -}}

{{/* hook or job or none. */}}
{{- define "bitsmith.migrations.mode" -}}
{{- if eq .Values.migrations.mode "auto" -}}
{{- ternary "job" "hook" (eq .Values.postgresql.mode "bundled") -}}
{{- else -}}
{{- .Values.migrations.mode -}}
{{- end -}}
{{- end -}}

{{/* workerDefaults with a pool's own values on top, as YAML. Arguments: root, pool. */}}
{{- define "bitsmith.pool" -}}
{{- mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy (default dict .pool)) | toYaml -}}
{{- end -}}

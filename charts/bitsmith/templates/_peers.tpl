{{/* Components that speak with the bundled servers, as a JSON list. Arguments: root, components. */}}
{{- define "bitsmith.net.peers" -}}
{{- $peers := .components -}}
{{- if has "workers" $peers -}}
{{- $peers = without $peers "workers" -}}
{{- range $name, $own := .root.Values.workerPools -}}
{{- if (include "bitsmith.pool" (dict "root" $.root "pool" $own) | fromYaml).enabled -}}
{{- $peers = append $peers (printf "worker-%s" $name) -}}
{{- end -}}
{{- end -}}
{{- if .root.Values.operator.enabled -}}
{{- $peers = append $peers "pool-worker" -}}
{{- end -}}
{{- end -}}
{{- toJson $peers -}}
{{- end -}}

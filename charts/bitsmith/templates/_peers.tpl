{{/* Components that speak with the bundled servers, as a JSON list. Arguments: root, components. */}}
{{- define "bitsmith.net.peers" -}}
{{- $peers := .components -}}
{{- if has "workers" $peers -}}
{{- $peers = without $peers "workers" -}}
{{- range $name, $_ := .root.Values.workerPools -}}
{{- $peers = append $peers (printf "worker-%s" $name) -}}
{{- end -}}
{{- end -}}
{{- toJson $peers -}}
{{- end -}}

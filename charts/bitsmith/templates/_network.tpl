{{/* Pieces of network policies. */}}

{{- define "bitsmith.net.dns" -}}
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end -}}

{{/* Egress to one of the three servers. Arguments: root, values, component, port (of the bundled one). */}}
{{- define "bitsmith.net.server" -}}
{{- if eq .values.mode "bundled" -}}
- to:
    - podSelector:
        matchLabels: {{- include "bitsmith.selectorLabels" . | nindent 10 }}
  ports: [{protocol: TCP, port: {{ .port }}}]
{{- else -}}
- ports: [{protocol: TCP, port: {{ .values.external.port }}}]
  {{- with .values.external.cidrs }}
  to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "bitsmith.net.postgresql" -}}
{{ include "bitsmith.net.server" (dict "root" . "values" .Values.postgresql "component" "postgresql" "port" 5432) }}
{{- end -}}
{{- define "bitsmith.net.redis" -}}
{{ include "bitsmith.net.server" (dict "root" . "values" .Values.redis "component" "redis" "port" 6379) }}
{{- end -}}
{{- define "bitsmith.net.objectStore" -}}
{{ include "bitsmith.net.server" (dict "root" . "values" .Values.objectStore "component" "objectstore" "port" 8333) }}
{{- end -}}

{{- define "bitsmith.net.tracing" -}}
{{- if .Values.tracing.endpoint }}
- ports: [{protocol: TCP, port: {{ .Values.tracing.port }}}]
{{- end }}
{{- end -}}

{{/* Egress to addresses. Arguments: cidrs, ports, private: false takes private networks out. */}}
{{- define "bitsmith.net.addresses" -}}
- to:
    {{- range .cidrs }}
    - ipBlock:
        cidr: {{ . | quote }}
        {{- if and $.public (eq . "0.0.0.0/0") }}
        except: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 169.254.0.0/16, 100.64.0.0/10, 127.0.0.0/8]
        {{- else if and $.public (eq . "::/0") }}
        except: ["fc00::/7", "fe80::/10"]
        {{- end }}
    {{- end }}
  ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end -}}

{{/* Start of a policy for one component. Arguments: root, component. */}}
{{- define "bitsmith.net.head" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "bitsmith.component" . }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "bitsmith.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{- include "bitsmith.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end -}}

{{/* Ingress from components. Arguments: root, components, port. */}}
{{- define "bitsmith.net.from" -}}
- from:
    {{- range .components }}
    - podSelector:
        matchLabels: {{- include "bitsmith.selectorLabels" (dict "root" $.root "component" .) | nindent 10 }}
    {{- end }}
  ports: [{protocol: TCP, port: {{ .port }}}]
{{- end -}}

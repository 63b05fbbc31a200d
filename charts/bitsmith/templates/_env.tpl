{{/* Environment of the programs. Every BITSMITH_ name here is a field of a settings class. */}}

{{- define "bitsmith.env.database" -}}
- name: BITSMITH_DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ include "bitsmith.secret.postgresql" . }}, key: {{ .Values.postgresql.secretKeys.url }}}
- name: BITSMITH_DATABASE_POOL_SIZE
  value: {{ .Values.postgresql.poolSize | quote }}
{{- end -}}

{{- define "bitsmith.env.queue" -}}
- name: BITSMITH_QUEUE_URL
  valueFrom:
    secretKeyRef: {name: {{ include "bitsmith.secret.redis" . }}, key: {{ .Values.redis.secretKeys.url }}}
{{- end -}}

{{- define "bitsmith.env.storage" -}}
{{- $store := .Values.objectStore -}}
- name: BITSMITH_STORAGE_ENDPOINT
  value: {{ include "bitsmith.objectStore.endpoint" . | quote }}
- name: BITSMITH_STORAGE_SECURE
  value: {{ and (eq $store.mode "external") $store.secure | quote }}
{{- if $store.publicEndpoint }}
- name: BITSMITH_STORAGE_PUBLIC_ENDPOINT
  value: {{ $store.publicEndpoint | quote }}
- name: BITSMITH_STORAGE_PUBLIC_SECURE
  value: {{ $store.publicSecure | quote }}
{{- end }}
- name: BITSMITH_STORAGE_BUCKET
  value: {{ $store.bucket | quote }}
- name: BITSMITH_STORAGE_REGION
  value: {{ $store.region | quote }}
- name: BITSMITH_STORAGE_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ include "bitsmith.secret.objectStore" . }}, key: {{ $store.secretKeys.accessKey }}}
- name: BITSMITH_STORAGE_SECRET_KEY
  valueFrom:
    secretKeyRef: {name: {{ include "bitsmith.secret.objectStore" . }}, key: {{ $store.secretKeys.secretKey }}}
{{- end -}}

{{- define "bitsmith.env.webhooks" -}}
{{- with .Values.webhooks.allowedNetworks }}
- name: BITSMITH_WEBHOOK_ALLOWED_NETWORKS
  value: {{ toJson . | quote }}
{{- end }}
{{- end -}}

{{/* A component's settings. Arguments: prefix, settings. toJson writes large numbers without an exponent. */}}
{{- define "bitsmith.env.settings" -}}
{{- range $name, $value := .settings }}
- name: {{ $.prefix }}{{ upper $name }}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
{{- end }}
{{- end -}}

{{/* What every program of ours has. Arguments: root, pod. */}}
{{- define "bitsmith.env.common" -}}
{{- with .root.Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- if .root.Values.global.caBundle.existingConfigMap }}
- name: SSL_CERT_FILE
  value: /etc/bitsmith/ca/ca.crt
- name: REQUESTS_CA_BUNDLE
  value: /etc/bitsmith/ca/ca.crt
{{- end }}
{{- range $name, $value := .pod.extraEnv }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "bitsmith.env.hub" -}}
{{- if not .Values.huggingFace.downloads }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- else }}
{{- with .Values.huggingFace.endpoint }}
- name: HF_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.huggingFace.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: {{ $.Values.huggingFace.secretKeys.token }}}
{{- end }}
{{- end }}
- {name: HF_HUB_DISABLE_TELEMETRY, value: "1"}
{{- end -}}

{{/* What every pod of a WorkerPool has, as bitsmith_operator.settings.PodDefaults. */}}
{{- define "bitsmith.operator.pods" -}}
{{- $name := .Values.operator.workerImage -}}
{{- $pool := .Values.workerDefaults -}}
image: {{ include "bitsmith.image" (dict "root" . "name" $name) }}
pull_policy: {{ (index .Values.images $name).pullPolicy }}
pull_secrets:
  {{- range .Values.global.imagePullSecrets }}
  - name: {{ . }}
  {{- else }} []
  {{- end }}
labels: {{- include "bitsmith.selectorLabels" (dict "root" . "component" "pool-worker") | nindent 2 }} # no versions: others mean other pods
security: {{- include "bitsmith.podSecurity" (dict "user" 10001) | nindent 2 }}
env:
  - name: BITSMITH_WORKER_MODELS
    value: {{ ternary "/models" "/opt/bitsmith/models" (ne $pool.models.existingClaim "") }}
  - {name: HF_HOME, value: /hub}
  {{- include "bitsmith.env.database" . | nindent 2 }}
  {{- include "bitsmith.env.queue" . | nindent 2 }}
  {{- include "bitsmith.env.storage" . | nindent 2 }}
  {{- include "bitsmith.env.hub" . | nindent 2 }}
  {{- include "bitsmith.env.settings" (dict "prefix" "BITSMITH_WORKER_" "settings" $pool.settings) | nindent 2 }}
  {{- include "bitsmith.env.common" (dict "root" . "pod" $pool) | nindent 2 }}
volumes:
  - name: hub
    {{- if $pool.hubCache.existingClaim }}
    persistentVolumeClaim: {claimName: {{ $pool.hubCache.existingClaim }}}
    {{- else }}
    emptyDir: {sizeLimit: {{ $pool.hubCache.size }}}
    {{- end }}
  {{- with $pool.models.existingClaim }}
  - name: models
    persistentVolumeClaim: {claimName: {{ . }}, readOnly: {{ $pool.models.readOnly }}}
  {{- end }}
  {{- include "bitsmith.caVolume" . | nindent 2 }}
volume_mounts:
  - {name: hub, mountPath: /hub}
  {{- if $pool.models.existingClaim }}
  - {name: models, mountPath: /models, readOnly: {{ $pool.models.readOnly }}}
  {{- end }}
  {{- include "bitsmith.caMount" . | nindent 2 }}
{{- end -}}

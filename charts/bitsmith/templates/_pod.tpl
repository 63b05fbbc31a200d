{{/* What all pods have in common. */}}

{{/* Arguments: root, user (10001 in our images). */}}
{{- define "bitsmith.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .user }}
runAsGroup: {{ .user }}
fsGroup: {{ .user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "bitsmith.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Arguments: root, pod, user, automount (a service account's token; false if unset). */}}
{{- define "bitsmith.podSpec" -}}
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
automountServiceAccountToken: {{ default false .automount }}
enableServiceLinks: false
securityContext: {{- include "bitsmith.podSecurity" (dict "user" (default 10001 .user)) | nindent 2 }}
{{- with default .root.Values.global.priorityClassName .pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .pod.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The pod template's metadata. Arguments: root, component, pod. */}}
{{- define "bitsmith.podMetadata" -}}
labels:
  {{- include "bitsmith.labels" . | nindent 2 }}
  {{- with .pod.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .pod.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "bitsmith.caVolume" -}}
{{- with .Values.global.caBundle.existingConfigMap }}
- name: ca
  configMap:
    name: {{ . }}
    items: [{key: {{ $.Values.global.caBundle.key }}, path: ca.crt}]
{{- end }}
{{- end -}}

{{- define "bitsmith.caMount" -}}
{{- if .Values.global.caBundle.existingConfigMap }}
- {name: ca, mountPath: /etc/bitsmith/ca, readOnly: true}
{{- end }}
{{- end -}}

{{/* Waits until Postgres answers and has at least this image's schema: no program starts before its tables. */}}
{{- define "bitsmith.awaitSchema" -}}
- name: await-schema
  image: {{ include "bitsmith.image" (dict "root" . "name" "api") }}
  imagePullPolicy: {{ .Values.images.api.pullPolicy }}
  command: [bitsmith-await-schema]
  securityContext: {{- include "bitsmith.containerSecurity" . | nindent 4 }}
  env:
    {{- include "bitsmith.env.database" . | nindent 4 }}
    {{- include "bitsmith.env.common" (dict "root" . "pod" dict) | nindent 4 }}
  resources: {{- toYaml .Values.migrations.resources | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    {{- include "bitsmith.caMount" . | nindent 4 }}
{{- end -}}

{{/* A container's resources with its GPUs added. Arguments: pod. */}}
{{- define "bitsmith.gpuResources" -}}
{{- $resources := deepCopy .pod.resources -}}
{{- if gt (int .pod.gpu.count) 0 -}}{{- /* some helms call 0 true */ -}}
{{- $gpu := dict "limits" (dict .pod.gpu.resourceName (toString .pod.gpu.count)) -}}
{{- $resources = mergeOverwrite $resources $gpu -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* A claim's spec. Arguments: root, size, storageClass. */}}
{{- define "bitsmith.claim" -}}
accessModes: [ReadWriteOnce]
{{- with default .root.Values.global.storageClass .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources: {requests: {storage: {{ .size }}}}
{{- end -}}

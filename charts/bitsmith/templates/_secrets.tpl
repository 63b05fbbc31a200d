{{/* What the secrets job makes, as JSON: for each Secret random values, and texts that are made of them. */}}
{{- define "bitsmith.secrets.plan" -}}
{{- $plan := dict -}}
{{- if not .Values.auth.existingSecret -}}
{{- $keys := .Values.auth.secretKeys -}}
{{- $_ := set $plan (include "bitsmith.secret.auth" .) (dict $keys.apiKey "{0}" $keys.servingToken "{1}") -}}
{{- end -}}
{{- if and (eq .Values.postgresql.mode "bundled") (not .Values.postgresql.existingSecret) -}}
{{- $keys := .Values.postgresql.secretKeys -}}
{{- $host := include "bitsmith.component" (dict "root" . "component" "postgresql") -}}
{{- $url := printf "postgresql+psycopg://bitsmith:{0}@%s:5432/bitsmith" $host -}}
{{- $_ := set $plan (include "bitsmith.secret.postgresql" .) (dict $keys.password "{0}" $keys.url $url) -}}
{{- end -}}
{{- if and (eq .Values.redis.mode "bundled") (not .Values.redis.existingSecret) -}}
{{- $keys := .Values.redis.secretKeys -}}
{{- $url := printf "redis://:{0}@%s:6379/0" (include "bitsmith.component" (dict "root" . "component" "redis")) -}}
{{- $_ := set $plan (include "bitsmith.secret.redis" .) (dict $keys.password "{0}" $keys.url $url) -}}
{{- end -}}
{{- if and (eq .Values.objectStore.mode "bundled") (not .Values.objectStore.existingSecret) -}}
{{- $keys := .Values.objectStore.secretKeys -}}
{{- $_ := set $plan (include "bitsmith.secret.objectStore" .) (dict $keys.accessKey "bitsmith" $keys.secretKey "{0}") -}}
{{- end -}}
{{- toJson $plan -}}
{{- end -}}

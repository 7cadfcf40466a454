{{- define "bitdex.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Prefix of all names; short enough for the longest suffix. */}}
{{- define "bitdex.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else if contains (include "bitdex.name" .) .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "bitdex.name" .) | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select pods. A Deployment's never change, so the group is there from the start. */}}
{{- define "bitdex.queryLabels" -}}
app.kubernetes.io/name: {{ include "bitdex.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: query
bitdex/group: main
{{- end -}}

{{- define "bitdex.syncLabels" -}}
app.kubernetes.io/name: {{ include "bitdex.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: sync
{{- end -}}

{{- define "bitdex.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels of what belongs to neither of the two. */}}
{{- define "bitdex.labels" -}}
app.kubernetes.io/name: {{ include "bitdex.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{ include "bitdex.commonLabels" . }}
{{- end -}}

{{- define "bitdex.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "bitdex.queryServiceAccount" -}}
{{- if .Values.query.serviceAccount.create -}}
{{- default (printf "%s-query" (include "bitdex.fullname" .)) .Values.query.serviceAccount.name -}}
{{- else -}}
{{- required "query.serviceAccount.name is needed where query.serviceAccount.create is false" .Values.query.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "bitdex.syncServiceAccount" -}}
{{- if .Values.sync.serviceAccount.create -}}
{{- default (printf "%s-sync" (include "bitdex.fullname" .)) .Values.sync.serviceAccount.name -}}
{{- else -}}
{{- required "sync.serviceAccount.name is needed where sync.serviceAccount.create is false" .Values.sync.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "bitdex.claim" -}}
{{- default (printf "%s-data" (include "bitdex.fullname" .)) .Values.query.persistence.existingClaim -}}
{{- end -}}

{{/* A variable from a Secret: (list . VARIABLE (list BLOCK…)): the first block that names a Secret or a URL counts. */}}
{{- define "bitdex.secretEnv" -}}
{{- $root := index . 0 -}}
{{- $variable := index . 1 -}}
{{- $done := false -}}
{{- range $block := index . 2 -}}
{{- $values := index $root.Values $block -}}
{{- if and $values.existingSecret $values.url -}}
{{- fail (printf "%s.existingSecret and %s.url are both set: give one of them" $block $block) -}}
{{- end -}}
{{- if and (not $done) (or $values.existingSecret $values.url) -}}
{{- $done = true }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      {{- if $values.existingSecret }}
      name: {{ $values.existingSecret }}
      key: {{ $values.key }}
      {{- else }}
      name: {{ include "bitdex.fullname" $root }}-urls
      key: {{ $block }}
      {{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What every pod runs under. */}}
{{- define "bitdex.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "bitdex.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

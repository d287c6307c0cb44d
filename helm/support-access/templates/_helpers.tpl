{{- define "support-access.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "support-access.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "support-access.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The selector labels of a component, which Kubernetes cannot change in a Deployment. */ -}}
{{- define "support-access.selector" -}}
app.kubernetes.io/name: {{ include "support-access.name" .context }}
app.kubernetes.io/instance: {{ .context.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "support-access.labels" -}}
{{- $standard := dict "helm.sh/chart" (printf "%s-%s" .context.Chart.Name .context.Chart.Version | replace "+" "_")
  "app.kubernetes.io/version" .context.Chart.AppVersion
  "app.kubernetes.io/managed-by" .context.Release.Service
  "app.kubernetes.io/part-of" "support-access" -}}
{{- $selector := include "support-access.selector" . | fromYaml -}}
{{- toYaml (mergeOverwrite (dict) .context.Values.commonLabels $standard $selector) -}}
{{- end -}}

{{- /* Labels of pods, without labels that change with each chart version and would replace pods. */ -}}
{{- define "support-access.podLabels" -}}
{{- $labels := include "support-access.labels" . | fromYaml -}}
{{- toYaml (mergeOverwrite (dict) (default (dict) .extra) (omit $labels "helm.sh/chart" "app.kubernetes.io/managed-by")) -}}
{{- end -}}

{{- define "support-access.server" -}}
{{- include "support-access.labels" (dict "context" . "component" "server") -}}
{{- end -}}

{{- define "support-access.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "support-access.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "support-access.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "support-access.tlsSecret" -}}
{{- if eq .Values.tls.source "certManager" -}}
{{- printf "%s-tls" (include "support-access.fullname" .) -}}
{{- else -}}
{{- .Values.tls.secret.name -}}
{{- end -}}
{{- end -}}

{{- /* Pod security context: the "restricted" level of the Pod Security Standards. */ -}}
{{- define "support-access.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.securityContext.runAsUser }}
runAsUser: {{ . | int64 }}
{{- end }}
{{- with .Values.securityContext.runAsGroup }}
runAsGroup: {{ . | int64 }}
{{- end }}
{{- with .Values.securityContext.fsGroup }}
fsGroup: {{ . | int64 }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /* Container security context: the "restricted" level, and a read-only root file system. */ -}}
{{- define "support-access.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "support-access.databaseEnv" -}}
- name: SUPPORT_ACCESS_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .secret.name }}
      key: {{ .secret.key }}
{{- with .context.Values.database.tls }}
{{- if .mode }}
- name: PGSSLMODE
  value: {{ .mode }}
{{- end }}
{{- if .caSecretName }}
- name: PGSSLROOTCERT
  value: /etc/support-access/database-ca/{{ .caKey }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "support-access.databaseVolume" -}}
{{- with .Values.database.tls -}}
{{- if .caSecretName -}}
- name: database-ca
  secret:
    secretName: {{ .caSecretName }}
    defaultMode: 0440
    items: [{key: {{ .caKey | quote }}, path: {{ .caKey | quote }}}]
{{- end }}
{{- end }}
{{- end -}}

{{- define "support-access.databaseMount" -}}
{{- if .Values.database.tls.caSecretName -}}
- name: database-ca
  mountPath: /etc/support-access/database-ca
  readOnly: true
{{- end }}
{{- end -}}

{{- /*
A volume with one file from a Secret or ConfigMap. Parameters: name, kind, source, key, path, and an
optional mode.
*/ -}}
{{- define "support-access.fileVolume" -}}
- name: {{ .name }}
{{- if eq .kind "ConfigMap" }}
  configMap:
    name: {{ .source }}
{{- else }}
  secret:
    secretName: {{ .source }}
{{- end }}
    defaultMode: {{ printf "%#o" (default 0440 .mode) }}
    items: [{key: {{ .key | quote }}, path: {{ .path | quote }}}]
{{- end -}}

{{- /* config.maxStaleness in seconds. The schema allows one number with one unit. */ -}}
{{- define "support-access.stalenessSeconds" -}}
{{- $text := .Values.config.maxStaleness -}}
{{- if hasSuffix "ms" $text -}}
{{- divf (trimSuffix "ms" $text) 1000 -}}
{{- else if hasSuffix "m" $text -}}
{{- mul (trimSuffix "m" $text) 60 -}}
{{- else -}}
{{- trimSuffix "s" $text -}}
{{- end -}}
{{- end -}}

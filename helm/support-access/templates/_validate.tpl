{{- /*
Checks on combinations of this chart's own values that a schema cannot express. The Kubernetes API
server, cert-manager and the Prometheus operator validate their own fields.
*/ -}}
{{- define "support-access.validate" -}}
{{- include "support-access.validateName" . -}}
{{- include "support-access.validateAuth" . -}}
{{- include "support-access.validateReplicas" . -}}
{{- include "support-access.validateMonitoring" . -}}
{{- with .Values.securityContext -}}
{{- if and .runAsUser (not .fsGroup) -}}
{{- fail (printf "securityContext.fsGroup: must be set with securityContext.runAsUser (%d), or that user cannot read the mounted secrets; set fsGroup, or set both to null if the platform assigns them" (int64 .runAsUser)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "support-access.validateName" -}}
{{- $name := include "support-access.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the release name, nameOverride and fullnameOverride give the name %q, which is not valid for a Service; use lower-case letters, digits and hyphens, and start with a letter" $name) -}}
{{- end -}}
{{- end -}}

{{- define "support-access.validateAuth" -}}
{{- $certificates := .Values.auth.certificates -}}
{{- range $role := list "operator" "gateway" -}}
{{- range $name := index $certificates $role -}}
{{- if has $name (default (list) $certificates.portal) -}}
{{- fail (printf "auth.certificates: %s is bound to both portal and %s; use separate certificates (separation of duties)" $name $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $tenantIssuers := list -}}
{{- range .Values.auth.issuers -}}
{{- if or (hasKey .roles "tenant_admin") (hasKey .roles "tenant_auditor") -}}
{{- $tenantIssuers = append $tenantIssuers . -}}
{{- end -}}
{{- end -}}
{{- range $tenantIssuers -}}
{{- if and (gt (len $tenantIssuers) 1) (not (hasKey . "tenants")) -}}
{{- fail (printf "auth.issuers: %s needs tenants, because several issuers have tenant roles; list the tenants of each of these issuers" .issuer) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "support-access.validateReplicas" -}}
{{- $replicas := .Values.replicaCount -}}
{{- if .Values.autoscaling.enabled -}}
{{- $replicas = .Values.autoscaling.minReplicas -}}
{{- /* Kubernetes uses a limit as the request if there is no request. */ -}}
{{- if not (dig "requests" "cpu" (dig "limits" "cpu" nil .Values.resources) .Values.resources) -}}
{{- fail "resources.requests.cpu: required with autoscaling, whose target is a percentage of this request" -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.antiAffinity "hard") (ne .Values.database.type "sqlite") (lt (int $replicas) 2) -}}
{{- fail "antiAffinity: must not be hard with one replica, because an upgrade would stop it before its replacement starts; set soft" -}}
{{- end -}}
{{- end -}}

{{- define "support-access.validateMonitoring" -}}
{{- with .Values.prometheusRule -}}
{{- if and .enabled (not (regexMatch "^([1-9]|[12][0-9]|30)s$" $.Values.serviceMonitor.interval)) -}}
{{- fail (printf "serviceMonitor.interval: must be 1s to 30s with prometheusRule.enabled, but is %s; some alerts would never fire" $.Values.serviceMonitor.interval) -}}
{{- end -}}
{{- if ge (float64 .certificateDays.critical) (float64 .certificateDays.warning) -}}
{{- fail (printf "prometheusRule.certificateDays.critical: must be less than warning (%v), but is %v" .certificateDays.warning .certificateDays.critical) -}}
{{- end -}}
{{- end -}}
{{- end -}}

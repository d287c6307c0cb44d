{{- /* What the schema cannot say: values that cannot work together. */ -}}
{{- define "support-access.validate" -}}
{{- include "support-access.validateName" . -}}
{{- include "support-access.validateAuth" . -}}
{{- include "support-access.validateReplicas" . -}}
{{- include "support-access.validateTimes" . -}}
{{- include "support-access.validateResources" (dict "path" "resources" "resources" .Values.resources) -}}
{{- include "support-access.validateResources" (dict "path" "migrations.job.resources" "resources" .Values.migrations.job.resources) -}}
{{- with .Values.securityContext -}}
{{- if and .runAsUser (not .fsGroup) -}}
{{- fail (printf "securityContext.fsGroup is null, but securityContext.runAsUser is %d, who could not read the secrets: leave fsGroup, or make both null where the platform chooses them" (int64 .runAsUser)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "support-access.validateName" -}}
{{- $name := include "support-access.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the release's name, nameOverride or fullnameOverride make the name %q, which services cannot have: small letters, digits and hyphens, and a letter first" $name) -}}
{{- end -}}
{{- end -}}

{{- define "support-access.validateAuth" -}}
{{- $certificates := .Values.auth.certificates -}}
{{- range $role := list "operator" "gateway" -}}
{{- range $name := index $certificates $role -}}
{{- if has $name (default (list) $certificates.portal) -}}
{{- fail (printf "auth.certificates binds %s to both portal and %s, but who carries the customers' decisions must not also be the one who is let in" $name $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $speakers := list -}}
{{- range .Values.auth.issuers -}}
{{- if or (hasKey .roles "tenant_admin") (hasKey .roles "tenant_auditor") -}}
{{- $speakers = append $speakers . -}}
{{- end -}}
{{- end -}}
{{- range $speakers -}}
{{- if and (gt (len $speakers) 1) (not (hasKey . "tenants")) -}}
{{- fail (printf "auth.issuers needs tenants for %s: of several that speak for tenants, each must be told for which" .issuer) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "support-access.validateReplicas" -}}
{{- $replicas := .Values.replicaCount -}}
{{- with .Values.autoscaling -}}
{{- if .enabled -}}
{{- $replicas = .minReplicas -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas is %d, but autoscaling.maxReplicas is %d" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- /* A limit alone is a request, too. */ -}}
{{- $cpu := dig "requests" "cpu" (dig "limits" "cpu" 0 $.Values.resources) $.Values.resources -}}
{{- if not (include "support-access.quantity" $cpu | float64) -}}
{{- fail "autoscaling needs resources.requests.cpu: it aims at a share of that" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.antiAffinity "hard") (ne .Values.database.type "sqlite") (lt (int $replicas) 2) -}}
{{- fail "antiAffinity is hard, which replaces a replica only after it has ended, but there is only one: with soft, there is always one" -}}
{{- end -}}
{{- end -}}

{{- define "support-access.validateTimes" -}}
{{- with .Values.serviceMonitor -}}
{{- $interval := include "support-access.milliseconds" .interval | int64 -}}
{{- if lt $interval (include "support-access.milliseconds" .scrapeTimeout | int64) -}}
{{- fail (printf "serviceMonitor.scrapeTimeout is %s, longer than serviceMonitor.interval, which is %s" .scrapeTimeout .interval) -}}
{{- end -}}
{{- if and $.Values.prometheusRule.enabled (gt $interval 30000) -}}
{{- fail (printf "serviceMonitor.interval is %s, but the rules of prometheusRule need 30s or less: else some never fire" .interval) -}}
{{- end -}}
{{- end -}}
{{- $days := .Values.prometheusRule.certificateDays -}}
{{- if ge (float64 $days.critical) (float64 $days.warning) -}}
{{- fail (printf "prometheusRule.certificateDays.critical is %v, but it must be less than warning, which is %v" $days.critical $days.warning) -}}
{{- end -}}
{{- if eq .Values.tls.source "certManager" -}}
{{- with .Values.tls.certManager -}}
{{- $renewBefore := include "support-access.milliseconds" .renewBefore | int64 -}}
{{- if ge $renewBefore (include "support-access.milliseconds" .duration | int64) -}}
{{- fail (printf "tls.certManager.renewBefore is %s, but it must be less than duration, which is %s" .renewBefore .duration) -}}
{{- end -}}
{{- if and $.Values.prometheusRule.enabled (ge (mulf $days.warning 86400000) (float64 $renewBefore)) -}}
{{- fail (printf "prometheusRule.certificateDays.warning is %v days, but certificates are renewed only %s before they end (tls.certManager.renewBefore): it would warn each time" $days.warning .renewBefore) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* That no request is above its limit: of the resources at a path of the values. */ -}}
{{- define "support-access.validateResources" -}}
{{- $limits := default (dict) .resources.limits -}}
{{- range $name, $request := .resources.requests -}}
{{- if hasKey $limits $name -}}
{{- $limit := index $limits $name -}}
{{- if gt (include "support-access.quantity" $request | float64) (include "support-access.quantity" $limit | float64) -}}
{{- fail (printf "%s.requests.%s is %v, but %s.limits.%s is %v" $.path $name $request $.path $name $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What Kubernetes calls a quantity, as a number. */ -}}
{{- define "support-access.quantity" -}}
{{- if kindIs "string" . -}}
{{- $unit := regexFind "[A-Za-z]*$" . -}}
{{- $factors := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf (trimSuffix $unit . | float64) (index $factors $unit) -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- /* A duration as Go, Prometheus and cert-manager write it, in milliseconds. */ -}}
{{- define "support-access.milliseconds" -}}
{{- $factors := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+[a-z]+" . -1 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $sum = add $sum (mul (trimSuffix $unit . | int64) (index $factors $unit)) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{- /* A string, integer, boolean or list of strings in TOML. toToml would render 1 as 1.0. */ -}}
{{- define "support-access.toml" -}}
{{- if or (kindIs "float64" .) (kindIs "int" .) (kindIs "int64" .) -}}
{{- int64 . -}}
{{- else -}}
{{- mustToRawJson . -}}
{{- end -}}
{{- end -}}

{{- define "support-access.tomlLines" -}}
{{- range $key, $value := . }}
{{ $key }} = {{ include "support-access.toml" $value }}
{{- end }}
{{- end -}}

{{- /* The trace settings of a replica or a sidecar. */ -}}
{{- define "support-access.traces" -}}
{{- with .otlpEndpoint }}
otlp_endpoint = {{ include "support-access.toml" . }}
trace_ratio = {{ include "support-access.toml" $.traceRatio }}
{{- end }}
{{- end -}}

{{- /* The configuration file access.toml. */ -}}
{{- define "support-access.config" -}}
{{- $config := .Values.config -}}
{{- $address := ternary "[::]" $config.bindAddress (eq $config.bindAddress "::") -}}
listen = ["{{ $address }}:50051"]
web_listen = "{{ $address }}:8080"
metrics_listen = "{{ $address }}:9464"
max_staleness = {{ include "support-access.toml" $config.maxStaleness }}
drain_timeout = "{{ int64 $config.drainTimeoutSeconds }}s"
max_live_grants_per_tenant = {{ int64 $config.maxLiveGrantsPerTenant }}
max_live_grants_per_group = {{ int64 $config.maxLiveGrantsPerGroup }}
verify_interval = {{ include "support-access.toml" $config.verifyInterval }}
{{- include "support-access.traces" $config }}
log = {{ include "support-access.toml" $config.log }}
log_format = {{ include "support-access.toml" $config.logFormat }}
reflection = {{ $config.reflection }}
insecure = {{ $config.insecure }}
{{- if eq .Values.database.type "sqlite" }}
database_url = "sqlite:///var/lib/support-access/support-access.db"
{{- end }}
{{- if ne .Values.tls.source "none" }}
tls_certificate = "/etc/support-access/tls/tls.crt"
tls_key = "/etc/support-access/tls/tls.key"
{{- end }}
{{- if .Values.tls.clientCa.name }}
tls_client_ca = "/etc/support-access/client-ca/ca.crt"
{{- end }}
{{- if .Values.checkpointKey.secretName }}
checkpoint_key = "/etc/support-access/checkpoint/checkpoint.key"
{{- end }}
{{- if .Values.eventKey.secretName }}
event_key_file = "/etc/support-access/event-key/event.key"
{{- end }}
trust_portal_assertion = {{ .Values.auth.trustPortalAssertion }}
{{- with $config.limits }}

[limits]
{{- include "support-access.tomlLines" . }}
{{- end }}
{{- with $config.policy }}

[policy]
{{- include "support-access.tomlLines" (omit . "groups") }}
{{- if and (hasKey . "groups") (not .groups) }}
groups = []
{{- end }}
{{- range .groups }}

[[policy.groups]]
{{- include "support-access.tomlLines" . }}
{{- end }}
{{- end }}
{{- with .Values.auth.certificates }}

[certificates]
{{- include "support-access.tomlLines" . }}
{{- end }}
{{- range .Values.auth.issuers }}

[[issuers]]
{{- include "support-access.tomlLines" (omit . "roles") }}

[issuers.roles]
{{- include "support-access.tomlLines" .roles }}
{{- end }}
{{- end -}}

{{- /*
Templates that add the sidecar to the pod of another chart. Each takes the scope of this chart. A
parent chart passes `index .Subcharts "support-access"`.

  support-access.sidecar            the container, for initContainers: starts before the other
                                    containers, ends after them
  support-access.sidecar.volumes    the volumes of the sidecar
  support-access.sidecar.mount      the socket, for the volumeMounts of the gateway's container
  support-access.sidecar.configMap  the ConfigMap with the configuration, once for each namespace
  support-access.sidecar.config     the configuration, for a checksum annotation
*/ -}}
{{- define "support-access.sidecar" -}}
{{- $sidecar := .Values.sidecar -}}
- name: {{ $sidecar.name }}
  image: {{ include "support-access.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  # Makes this init container a native sidecar.
  restartPolicy: Always
  args: [sidecar, --config, /etc/support-access/sidecar/sidecar.toml]
  ports:
    - {name: access-metrics, containerPort: {{ $sidecar.metricsPort }}, protocol: TCP}
  # The other containers start when this probe has succeeded.
  startupProbe:
    httpGet: {path: {{ ternary "/readyz" "/healthz" $sidecar.waitUntilServing }}, port: access-metrics}
    periodSeconds: 1
    timeoutSeconds: 2
    failureThreshold: 300
  {{- if $sidecar.gateReadiness }}
  readinessProbe:
    httpGet: {path: /readyz, port: access-metrics}
    periodSeconds: 2
    timeoutSeconds: 2
    failureThreshold: 2
  {{- end }}
  livenessProbe:
    httpGet: {path: /healthz, port: access-metrics}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  securityContext:
    {{- include "support-access.containerSecurity" . | nindent 4 }}
    {{- with .Values.securityContext.runAsUser }}
    runAsUser: {{ . | int64 }}
    {{- end }}
    {{- with .Values.securityContext.runAsGroup }}
    runAsGroup: {{ . | int64 }}
    {{- end }}
  resources:
    {{- toYaml $sidecar.resources | nindent 4 }}
  volumeMounts:
    {{- include "support-access.sidecar.mount" . | nindent 4 }}
    - name: {{ $sidecar.name }}-config
      mountPath: /etc/support-access/sidecar
      readOnly: true
    {{- if $sidecar.upstreamCa.name }}
    - name: {{ $sidecar.name }}-ca
      mountPath: /etc/support-access/upstream-ca
      readOnly: true
    {{- end }}
    {{- if $sidecar.certificateSecretName }}
    - name: {{ $sidecar.name }}-certificate
      mountPath: /etc/support-access/certificate
      readOnly: true
    {{- end }}
    {{- if $sidecar.tokenAudience }}
    - name: {{ $sidecar.name }}-token
      mountPath: /etc/support-access/token
      readOnly: true
    {{- end }}
{{- end -}}

{{- define "support-access.sidecar.mount" -}}
- name: {{ .Values.sidecar.volumeName }}
  mountPath: {{ .Values.sidecar.socketDirectory }}
{{- end -}}

{{- define "support-access.sidecar.volumes" -}}
{{- $sidecar := .Values.sidecar -}}
- name: {{ $sidecar.volumeName }}
  emptyDir: {}
- name: {{ $sidecar.name }}-config
  configMap:
    name: {{ $sidecar.configMap.name }}
{{- with $sidecar.upstreamCa }}
{{- if .name }}
{{ include "support-access.fileVolume" (dict "name" (printf "%s-ca" $sidecar.name) "kind" .kind "source" .name "key" .key "path" "ca.crt" "mode" 0444) }}
{{- end }}
{{- end }}
{{- with $sidecar.certificateSecretName }}
- name: {{ $sidecar.name }}-certificate
  secret:
    secretName: {{ . }}
    # The pod belongs to another chart and may have no fsGroup, so all users of a mount may read.
    defaultMode: 0444
{{- end }}
{{- with $sidecar.tokenAudience }}
- name: {{ $sidecar.name }}-token
  projected:
    # The pod may have no fsGroup.
    defaultMode: 0444
    sources:
      - serviceAccountToken: {audience: {{ . | quote }}, expirationSeconds: 3600, path: token}
{{- end }}
{{- end -}}

{{- define "support-access.sidecar.config" -}}
{{- $sidecar := .Values.sidecar -}}
{{- if not $sidecar.upstreams -}}
{{- fail "sidecar.upstreams: required; list the URLs of replicas, such as https://support-access.support-access.svc:50051" -}}
{{- end -}}
{{- if not $sidecar.gatewayUsers -}}
{{- fail "sidecar.gatewayUsers: required; list the uids of the containers that may call the sidecar" -}}
{{- end -}}
upstream = {{ mustToRawJson $sidecar.upstreams }}
listen = ["unix:{{ $sidecar.socketDirectory }}/check.sock"]
socket_mode = {{ $sidecar.socketMode | quote }}
metrics_listen = "{{ ternary "[::]" .Values.config.bindAddress (eq .Values.config.bindAddress "::") }}:{{ int64 $sidecar.metricsPort }}"
drain_timeout = "{{ int64 $sidecar.drainTimeoutSeconds }}s"
log = {{ mustToRawJson .Values.config.log }}
log_format = {{ mustToRawJson .Values.config.logFormat }}
insecure = {{ $sidecar.insecure }}
{{- include "support-access.traces" .Values.config }}
{{- if $sidecar.upstreamCa.name }}
upstream_ca = "/etc/support-access/upstream-ca/ca.crt"
{{- end }}
{{- if $sidecar.certificateSecretName }}
upstream_certificate = "/etc/support-access/certificate/tls.crt"
upstream_key = "/etc/support-access/certificate/tls.key"
{{- end }}
{{- if $sidecar.tokenAudience }}
upstream_token_file = "/etc/support-access/token/token"
{{- end }}

[users]
gateway = [{{ range $index, $uid := $sidecar.gatewayUsers }}{{ if $index }}, {{ end }}{{ int64 $uid }}{{ end }}]
{{- end -}}

{{- define "support-access.sidecar.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Values.sidecar.configMap.name }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "support-access.labels" (dict "context" . "component" "sidecar") | nindent 4 }}
data:
  sidecar.toml: |
    {{- include "support-access.sidecar.config" . | nindent 4 }}
{{- end -}}

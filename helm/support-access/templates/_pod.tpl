{{- /* The pod template of a replica. */ -}}
{{- define "support-access.pod" -}}
{{- $isSqlite := eq .Values.database.type "sqlite" -}}
{{- /* With SQLite, the next pod starts when this pod has ended: a pause would prolong the outage. */ -}}
{{- $preStopSeconds := ternary 0 .Values.preStopSeconds $isSqlite -}}
metadata:
  labels:
    {{- include "support-access.podLabels" (dict "context" . "component" "server" "extra" .Values.podLabels) | nindent 4 }}
  annotations:
    checksum/config: {{ include "support-access.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "support-access.serviceAccount" . }}
  automountServiceAccountToken: false
  # The environment variables of the namespace's services are not used.
  enableServiceLinks: false
  # The preStop pause, drain_timeout, and at most 10 s to close connections.
  terminationGracePeriodSeconds: {{ add $preStopSeconds .Values.config.drainTimeoutSeconds 10 }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- include "support-access.podSecurity" . | nindent 4 }}
  containers:
    - name: support-access
      image: {{ include "support-access.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/support-access/config/access.toml]
      {{- if or (not $isSqlite) .Values.extraEnv }}
      env:
        {{- if not $isSqlite }}
        {{- include "support-access.databaseEnv" (dict "context" . "secret" .Values.database.existingSecret) | nindent 8 }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      ports:
        - {name: grpc, containerPort: 50051, protocol: TCP}
        - {name: web, containerPort: 8080, protocol: TCP}
        - {name: metrics, containerPort: 9464, protocol: TCP}
      {{- range $name, $path := dict "startupProbe" "/healthz" "readinessProbe" "/readyz" "livenessProbe" "/healthz" }}
      {{- $probe := index $.Values.probes (trimSuffix "Probe" $name) }}
      {{ $name }}:
        httpGet: {path: {{ $path }}, port: metrics}
        periodSeconds: {{ $probe.periodSeconds }}
        timeoutSeconds: {{ $probe.timeoutSeconds }}
        failureThreshold: {{ $probe.failureThreshold }}
      {{- end }}
      {{- if $preStopSeconds }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ $preStopSeconds }}}
      {{- end }}
      securityContext:
        {{- include "support-access.containerSecurity" . | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/support-access/config
          readOnly: true
        {{- if ne .Values.tls.source "none" }}
        - name: tls
          mountPath: /etc/support-access/tls
          readOnly: true
        {{- end }}
        {{- if .Values.tls.clientCa.name }}
        - name: client-ca
          mountPath: /etc/support-access/client-ca
          readOnly: true
        {{- end }}
        {{- if .Values.checkpointKey.secretName }}
        - name: checkpoint
          mountPath: /etc/support-access/checkpoint
          readOnly: true
        {{- end }}
        {{- if .Values.eventKey.secretName }}
        - name: event-key
          mountPath: /etc/support-access/event-key
          readOnly: true
        {{- end }}
        {{- with include "support-access.databaseMount" . }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- if $isSqlite }}
        - name: data
          mountPath: /var/lib/support-access
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "support-access.fullname" . }}
    {{- if ne .Values.tls.source "none" }}
    - name: tls
      secret:
        secretName: {{ include "support-access.tlsSecret" . }}
        defaultMode: 0440
        items:
          {{- $secret := ternary (dict "certificateKey" "tls.crt" "keyKey" "tls.key") .Values.tls.secret (eq .Values.tls.source "certManager") }}
          - {key: {{ $secret.certificateKey | quote }}, path: tls.crt}
          - {key: {{ $secret.keyKey | quote }}, path: tls.key}
    {{- end }}
    {{- with .Values.tls.clientCa }}
    {{- if .name }}
    {{- include "support-access.fileVolume" (dict "name" "client-ca" "kind" .kind "source" .name "key" .key "path" "ca.crt") | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- with .Values.checkpointKey }}
    {{- if .secretName }}
    {{- include "support-access.fileVolume" (dict "name" "checkpoint" "kind" "Secret" "source" .secretName "key" .key "path" "checkpoint.key") | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- with .Values.eventKey }}
    {{- if .secretName }}
    {{- include "support-access.fileVolume" (dict "name" "event-key" "kind" "Secret" "source" .secretName "key" .key "path" "event.key") | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- with include "support-access.databaseVolume" . }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- if $isSqlite }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ default (printf "%s-data" (include "support-access.fullname" .)) .Values.database.sqlite.existingClaim }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with include "support-access.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- /* Scheduling constraints of the replicas. */ -}}
{{- define "support-access.placement" -}}
{{- $selector := include "support-access.selector" (dict "context" . "component" "server") -}}
{{- $affinity := deepCopy .Values.affinity -}}
{{- if ne .Values.antiAffinity "none" -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" ($selector | fromYaml)) -}}
{{- if eq .Values.antiAffinity "hard" -}}
{{- $_ := set $affinity "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) -}}
{{- else -}}
{{- $weighted := dict "weight" 100 "podAffinityTerm" $term -}}
{{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list $weighted)) -}}
{{- end -}}
{{- end -}}
{{- with $affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
    # Spread each version by itself, not old and new pods together.
    matchLabelKeys: [pod-template-hash]
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

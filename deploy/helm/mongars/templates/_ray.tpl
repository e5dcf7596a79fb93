{{/* Whether Ray adds and removes nodes: "yes" or nothing. */}}
{{- define "mongars.autoscaled" -}}
{{- if lt .ray.workers.nodes_min .ray.workers.nodes_max -}}yes{{- end -}}
{{- end -}}

{{/* The container of a Ray node; the operator adds the command and the health checks. */}}
{{- define "mongars.rayContainer" -}}
name: {{ .component }}
{{ include "mongars.container" .values.ray.image }}
env:
  - name: RAY_USAGE_STATS_ENABLED
    value: "0"
  - name: RAY_USAGE_STATS_REPORT_URL
    value: "off"
  - name: RAY_START_HOOK
    value: mongars.serving.ray_start.without_usage_reports
  - name: RAY_worker_niceness
    value: "0"
  - name: MONGARS_HOME
    value: /tmp/mongars
  - name: LLM_ADAPTER_REGISTRY_PATH
    value: /var/lib/mongars-registry
  - name: RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH
    value: mongars.bootstrap.proxy.guard_proxy
  {{- if .values.serving.haproxy }}
  - name: RAY_SERVE_ENABLE_HA_PROXY
    value: "1"
  {{- end }}
  {{- if eq .component "ray-head" }}
  - name: RAY_health_check_period_ms
    value: "1000"
  - name: RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S
    value: "2"
  {{- else if ne .values.ray.gcs.storage "none" }}
  - name: RAY_gcs_rpc_server_reconnect_timeout_s
    value: "600"
  {{- end }}
  {{- range $key, $value := .values.ray.environment }}
  - name: {{ $key }}
    value: {{ $value | quote }}
  {{- end }}
  {{- include "mongars.secret" (dict "values" .values "key" "RAY_SERVE_TOKEN") | nindent 2 }}
ports:
  {{- if eq .component "ray-head" }}
  - name: gcs-server
    containerPort: 6379
  - name: dashboard
    containerPort: 8265
  {{- end }}
  - name: serve
    containerPort: {{ int .values.serving.port }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: registry, mountPath: /var/lib/mongars-registry, readOnly: true}
{{- end -}}

{{- define "mongars.gcs" -}}
{{- $gcs := .ray.gcs -}}
backend: {{ $gcs.storage }}
{{- if eq $gcs.storage "redis" }}
redisAddress: {{ $gcs.redis_address | quote }}
redisPassword:
  valueFrom:
    secretKeyRef:
      name: {{ .secrets.name }}
      key: REDIS_PASSWORD
{{- else }}
storage:
  size: {{ $gcs.volume_size | quote }}
  accessModes: [ReadWriteOnce]
  {{- with $gcs.storage_class }}
  storageClassName: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The Serve application: what mongars.serving.definition makes of the same values. */}}
{{- define "mongars.serveConfig" -}}
{{- $serving := . -}}
{{- $replica := .replica -}}
{{- $capacity := add $replica.engine.slots $replica.max_waiting -}}
{{- with $replica.coding -}}
{{- $capacity = add $capacity .slots $replica.max_waiting -}}
{{- end -}}
{{- with $replica.embedding -}}
{{- $capacity = add $capacity .slots $replica.max_waiting -}}
{{- end -}}
{{- $most := .replicas -}}
{{- with .autoscaling -}}
{{- $most = .max_replicas -}}
{{- end -}}
proxy_location: EveryNode
http_options:
  host: {{ toJson .host }}
  port: {{ toJson .port }}
  request_timeout_s: {{ addf $replica.answer_timeout 30 | toJson }}
  keep_alive_timeout_s: 90
logging_config:
  encoding: JSON
  enable_access_log: false
applications:
  - name: mongars
    route_prefix: /
    import_path: mongars.bootstrap.replica:application
    args:
      replica:
        {{- omit $replica "sampling" | toYaml | nindent 8 }}
    deployments:
      - name: LLMDeployment
        {{- with .autoscaling }}
        autoscaling_config:
          min_replicas: {{ toJson .min_replicas }}
          initial_replicas: {{ min (max $serving.replicas .min_replicas) .max_replicas }}
          max_replicas: {{ toJson .max_replicas }}
          target_ongoing_requests: {{ .target_ongoing_requests | default $replica.engine.slots | toJson }}
          upscale_delay_s: {{ toJson .upscale_delay }}
          downscale_delay_s: {{ toJson .downscale_delay }}
        {{- else }}
        num_replicas: {{ toJson .replicas }}
        {{- end }}
        max_ongoing_requests: {{ add $capacity 64 }}
        max_queued_requests: {{ mul $capacity $most }}
        backpressure_config:
          status_code: 503
          retry_after_s: 2
        user_config:
          {{- toYaml $replica.sampling | nindent 10 }}
        ray_actor_options:
          num_cpus: {{ toJson .cpus_per_replica }}
          num_gpus: {{ toJson .gpus_per_replica }}
        graceful_shutdown_timeout_s: {{ toJson .drain_seconds }}
        graceful_shutdown_wait_loop_s: 0.2
        health_check_period_s: 5
        health_check_timeout_s: 10
        max_surge_percent: {{ toJson .max_surge_percent }}
        {{- if and .session_affinity (not .haproxy) }}
        request_router_config:
          request_router_class: mongars.serving.router:SessionRouter
          request_router_kwargs:
            busy_at: {{ toJson $replica.engine.slots }}
        {{- end }}
{{- end -}}

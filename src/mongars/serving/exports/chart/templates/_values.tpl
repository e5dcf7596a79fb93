{{/*
The values with every default in place, as JSON. Helm drops keys that are null and leaves what is
missing in an optional part (`coding: {kind: vllm}`) missing; here it is filled in again.
*/}}
{{- define "mongars.values" -}}
{{- $defaults := .Files.Get "files/defaults.json" | fromJson -}}
{{- $values := include "mongars.filled" (dict "given" .Values "defaults" $defaults.values) | fromJson -}}
{{- $replica := $values.serving.replica -}}
{{- if not (hasKey .Values.serving.replica "embedding") -}}
{{- /* values.yaml has it, so somebody wrote `embedding: null`, which switches it off. */ -}}
{{- $_ := set $replica "embedding" nil -}}
{{- end -}}
{{- range list "coding" "embedding" -}}
{{- if kindIs "map" (get $replica .) -}}
{{- $part := include "mongars.filled" (dict "given" (get $replica .) "defaults" $defaults.engine) | fromJson -}}
{{- $_ := set $replica . $part -}}
{{- end -}}
{{- end -}}
{{- if kindIs "map" $values.serving.autoscaling -}}
{{- $part := include "mongars.filled" (dict "given" $values.serving.autoscaling "defaults" $defaults.autoscaling) | fromJson -}}
{{- $_ := set $values.serving "autoscaling" $part -}}
{{- end -}}
{{- include "mongars.possible" $values -}}
{{- toJson $values -}}
{{- end -}}

{{/* `given` with what `defaults` has and it lacks, at any depth, as JSON. */}}
{{- define "mongars.filled" -}}
{{- $filled := deepCopy .given -}}
{{- range $key, $default := .defaults -}}
{{- $value := get $filled $key -}}
{{- if not (hasKey $filled $key) -}}
{{- $_ := set $filled $key $default -}}
{{- else if and (kindIs "map" $value) (kindIs "map" $default) -}}
{{- $_ := set $filled $key (include "mongars.filled" (dict "given" $value "defaults" $default) | fromJson) -}}
{{- end -}}
{{- end -}}
{{- toJson $filled -}}
{{- end -}}

{{/* What a schema cannot say, because it compares two values. */}}
{{- define "mongars.possible" -}}
{{- $workers := .ray.workers -}}
{{- if gt .serving.cpus_per_replica $workers.cpus -}}
{{- fail (printf "serving.cpus_per_replica: a worker has %v CPUs (ray.workers.cpus)" $workers.cpus) -}}
{{- end -}}
{{- if gt .serving.gpus_per_replica $workers.gpus -}}
{{- fail (printf "serving.gpus_per_replica: a worker has %v GPUs (ray.workers.gpus)" $workers.gpus) -}}
{{- end -}}
{{- $most := .serving.replicas -}}
{{- with .serving.autoscaling -}}
{{- $most = .max_replicas -}}
{{- end -}}
{{- $serving := .serving -}}
{{- range list (list $workers.cpus $serving.cpus_per_replica "cpus") (list $workers.gpus $serving.gpus_per_replica "gpus") -}}
{{- $asks := index . 1 -}}
{{- if gt (float64 $asks) 0.0 -}}
{{- $room := mul (floor (divf (index . 0) $asks)) $workers.nodes_max -}}
{{- if gt (int64 $most) (int64 $room) -}}
{{- fail (printf "serving.replicas: %v do not fit on %v workers, which have room for %v; raise ray.workers.nodes_max or %v" $most $workers.nodes_max $room (index . 2)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if lt $workers.nodes_max $workers.nodes_min -}}
{{- fail (printf "ray.workers.nodes_max: must be at least nodes_min (%v)" $workers.nodes_min) -}}
{{- end -}}
{{- if lt .api.replicas_max .api.replicas_min -}}
{{- fail (printf "api.replicas_max: must be at least replicas_min (%v)" .api.replicas_min) -}}
{{- end -}}
{{- with .serving.autoscaling -}}
{{- if lt .max_replicas .min_replicas -}}
{{- fail (printf "serving.autoscaling.max_replicas: must be at least min_replicas (%v)" .min_replicas) -}}
{{- end -}}
{{- end -}}
{{- end -}}

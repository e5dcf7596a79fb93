{{- define "mongars.policy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "mongars.metadata" (dict "root" .root "component" "network" "suffix" (printf "-%s" .suffix)) | nindent 2 }}
{{- end -}}

{{- define "mongars.only" -}}
matchLabels:
  {{- include "mongars.selector" . | nindent 2 }}
{{- end -}}

{{/* One peer: the pods of a component. */}}
{{- define "mongars.peer" -}}
- podSelector:
    {{- include "mongars.only" . | nindent 4 }}
{{- end -}}

{{- define "mongars.rayPods" -}}
matchLabels:
  app.kubernetes.io/instance: {{ include "mongars.name" .root }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [ray-head, ray-worker]}
{{- end -}}

{{/* The egress rule towards the database. */}}
{{- define "mongars.toDatabase" -}}
{{- if .values.database.bundled -}}
- to:
    {{- include "mongars.peer" (dict "root" .root "component" "postgres") | nindent 4 }}
  ports:
    - {protocol: TCP, port: 5432}
{{- else -}}
- ports:
    - {protocol: TCP, port: {{ int .values.database.port }}}
{{- end -}}
{{- end -}}

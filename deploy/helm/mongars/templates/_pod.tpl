{{/* Name of the release, which every object's name starts with. */}}
{{- define "mongars.name" -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$" .Release.Name) -}}
{{- fail "the release's name: at most 40 small letters, digits and dashes, a letter first" -}}
{{- end -}}
{{- .Release.Name -}}
{{- end -}}

{{- define "mongars.selector" -}}
app.kubernetes.io/instance: {{ include "mongars.name" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "mongars.labels" -}}
app.kubernetes.io/name: mongars
{{ include "mongars.selector" . }}
{{- end -}}

{{- define "mongars.metadata" -}}
name: {{ include "mongars.name" .root }}{{ .suffix }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "mongars.labels" . | nindent 2 }}
{{- end -}}

{{- define "mongars.image" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end -}}

{{/* Fields of every pod: an ordinary user, no token for the Kubernetes API. */}}
{{- define "mongars.pod" -}}
serviceAccountName: {{ include "mongars.name" .root }}{{ .account | default "" }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user | default 1000 }}
  runAsGroup: {{ .user | default 1000 }}
  fsGroup: {{ .user | default 1000 }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with (include "mongars.values" .root | fromJson).secrets.image_pull }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Fields of every container: it may write nowhere but into its volumes. */}}
{{- define "mongars.container" -}}
image: {{ include "mongars.image" . | quote }}
imagePullPolicy: IfNotPresent
securityContext:
  {{- include "mongars.lockedDown" . | nindent 2 }}
{{- end -}}

{{- define "mongars.lockedDown" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "mongars.resources" -}}
requests:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory | quote }}
limits:
  memory: {{ .memory | quote }}
{{- end -}}

{{/* A variable from the Secret; the pod does not start while it is missing. */}}
{{- define "mongars.secret" -}}
- name: {{ .key }}
  valueFrom:
    secretKeyRef:
      name: {{ .values.secrets.name }}
      key: {{ .key }}
{{- end -}}

{{- define "mongars.databaseUrl" -}}
{{- if .values.database.bundled -}}
{{ include "mongars.secret" (dict "values" .values "key" "POSTGRES_PASSWORD") }}
- name: DATABASE_URL
  value: postgresql://mongars:$(POSTGRES_PASSWORD)@{{ include "mongars.name" .root }}-postgres:5432/mongars
{{- else -}}
{{ include "mongars.secret" (dict "values" .values "key" "DATABASE_URL") }}
{{- end -}}
{{- end -}}

{{- define "mongars.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "mongars.selector" . | nindent 6 }}
{{- end -}}

{{- define "mongars.registryVolume" -}}
- name: registry
{{- if or .values.registry.claim .values.registry.existing_claim }}
  persistentVolumeClaim:
    claimName: {{ .values.registry.existing_claim | default (printf "%s-registry" (include "mongars.name" .root)) }}
{{- else }}
  emptyDir: {sizeLimit: 1Gi}
{{- end }}
{{- end -}}

{{- define "mongars.claim" -}}
accessModes: [{{ .mode }}]
resources:
  requests:
    storage: {{ .size | quote }}
{{- with .class }}
storageClassName: {{ . }}
{{- end }}
{{- end -}}

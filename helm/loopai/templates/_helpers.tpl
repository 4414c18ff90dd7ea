{{- define "loopai.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Room is left for the longest suffix of a service, `-generator-proxy`. */}}
{{- define "loopai.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" }}
{{- else }}
{{- $name := include "loopai.name" . }}
{{- contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) | trunc 46 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What all pods of this release have, and none of the charts it brings along. */}}
{{- define "loopai.selector" -}}
app.kubernetes.io/name: {{ include "loopai.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "loopai.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "loopai.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: loopai
{{- end }}

{{/* The services that are deployed, as JSON: the name of each and where its values are. */}}
{{- define "loopai.services" -}}
{{- $services := dict "api" "api" "executor" "executor" "generator-proxy" "generatorProxy" "artifact-store" "artifactStore" }}
{{- if .Values.generator.enabled }}{{ $_ := set $services "generator" "generator" }}{{ end }}
{{- toJson $services }}
{{- end }}

{{- define "loopai.port" -}}
{{- eq . "api" | ternary 8080 9090 }}
{{- end }}

{{/* .root, .service, .image */}}
{{- define "loopai.image" -}}
{{- $own := printf "loopai/%s:%s" .service (.root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- .image | default (list .root.Values.image.registry $own | compact | join "/") }}
{{- end }}

{{/* A number of values.yaml is a float to Helm, and a large one would be written with an exponent. */}}
{{- define "loopai.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* Whether the artifact store keeps data on a volume of its own, which one pod at a time can use. */}}
{{- define "loopai.storeIsLocal" -}}
{{- if or (eq .Values.artifactStore.catalog "sqlite") (eq .Values.artifactStore.programs "files") }}yes{{ end }}
{{- end }}

{{- define "loopai.storeUsesMongo" -}}
{{- if or (eq .Values.artifactStore.catalog "mongodb") (eq .Values.artifactStore.programs "mongodb") }}yes{{ end }}
{{- end }}

{{/* The full name that the charts of NATS and Valkey give their services. .root, .chart */}}
{{- define "loopai.broughtAlong" -}}
{{- contains .chart .root.Release.Name | ternary .root.Release.Name (printf "%s-%s" .root.Release.Name .chart) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "loopai.natsUrl" -}}
{{- if .Values.nats.enabled }}nats://{{ include "loopai.broughtAlong" (dict "root" . "chart" "nats") }}:4222
{{- else }}{{ .Values.connections.nats.url }}
{{- end }}
{{- end }}

{{- define "loopai.redisUrl" -}}
{{- if .Values.valkey.enabled }}redis://{{ include "loopai.broughtAlong" (dict "root" . "chart" "valkey") }}:6379/0
{{- else }}{{ .Values.connections.redis.url }}
{{- end }}
{{- end }}

{{/* An environment variable from a secret. .name, .secret, .key */}}
{{- define "loopai.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end }}

{{/* LOOPAI_NATS_URL of one service. .root, .service */}}
{{- define "loopai.natsEnv" -}}
{{- $nats := .root.Values.connections.nats }}
{{- $secret := $nats.existingSecret | default (printf "%s-nats" (include "loopai.fullname" .root)) }}
{{- include "loopai.secretEnv" (dict "name" "LOOPAI_NATS_URL" "secret" $secret "key" ($nats.perService | ternary .service "url")) }}
{{- end }}

{{- define "loopai.keysSecret" -}}
{{- .Values.api.keys.existingSecret | default (printf "%s-api-keys" (include "loopai.fullname" .)) }}
{{- end }}

{{/* The secret with the key that `helm test` uses; empty where nobody said one. */}}
{{- define "loopai.smokeTestSecret" -}}
{{- if .Values.smokeTest.existingSecret }}{{ .Values.smokeTest.existingSecret }}
{{- else if not .Values.api.keys.existingSecret }}{{ include "loopai.fullname" . }}-admin-key
{{- end }}
{{- end }}

{{/* How others in the cluster reach the api. */}}
{{- define "loopai.apiUrl" -}}
{{- .Values.api.tls.existingSecret | empty | ternary "http" "https" }}://{{ include "loopai.fullname" . }}-api.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "loopai.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "loopai.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
{{- end }}

{{/*
One service: service account, config map, deployment and service.
  .root, .service (its name), .values (its values)
  .settings       settings by the field's name, beside the ones that all services have
  .env            list of further entries of `env`
  .volumes, .mounts   lists, beside /tmp
  .recreate       the old pod ends before the new one starts
  .https          the pods serve HTTPS
*/}}
{{- define "loopai.service" -}}
{{- $root := .root }}
{{- $values := .values }}
{{- $name := printf "%s-%s" (include "loopai.fullname" $root) .service }}
{{- $prefix := printf "LOOPAI_%s_" (.service | upper | replace "-" "_") }}
{{- $port := include "loopai.port" .service }}
{{- $grace := int $values.shutdownGraceSeconds }}
{{- $preStop := int ($values.preStopSeconds | default 0) }}
{{- $settings := merge (dict "host" "0.0.0.0" "port" $port "shutdown_grace_seconds" $grace) (.settings | default dict) $values.settings }}
{{- $scheme := .https | ternary "HTTPS" "HTTP" }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  labels:
    {{- include "loopai.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .service }}
  {{- with $values.serviceAccountAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels:
    {{- include "loopai.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .service }}
data:
  LOOPAI_LOG_FORMAT: json
  LOOPAI_LOG_LEVEL: {{ $root.Values.logLevel }}
  {{- with $root.Values.traces.endpoint }}
  OTEL_EXPORTER_OTLP_ENDPOINT: {{ . | quote }}
  OTEL_TRACES_SAMPLER_ARG: {{ $root.Values.traces.share | quote }}
  {{- end }}
  {{- range $field, $value := $settings }}
  {{ $prefix }}{{ upper $field }}: {{ include "loopai.text" $value | quote }}
  {{- end }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels:
    {{- include "loopai.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .service }}
spec:
  {{- if not (or ($values.autoscaling | default dict).enabled ($values.keda | default dict).enabled) }}
  replicas: {{ $values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  strategy:
    {{- if .recreate }}
    type: Recreate
    {{- else }}
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
    {{- end }}
  selector:
    matchLabels:
      {{- include "loopai.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .service }}
  template:
    metadata:
      labels:
        {{- include "loopai.labels" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .service }}
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        # New settings start new pods.
        loopai/settings: {{ toJson (list $settings $root.Values.logLevel $root.Values.traces $root.Values.connections) | sha256sum }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: false
      # Else the cluster sets variables like LOOPAI_API_PORT of its own, which the services refuse as unknown or bad.
      enableServiceLinks: false
      {{- with $root.Values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      {{- with $values.runtimeClassName }}
      runtimeClassName: {{ . }}
      {{- end }}
      # The pause before the end, uvicorn's time for requests, the bus's for messages, and a margin.
      terminationGracePeriodSeconds: {{ add $preStop (mul 2 $grace) 10 }}
      securityContext:
        {{- include "loopai.podSecurity" $root | nindent 8 }}
        seccompProfile:
          {{- toYaml ($values.seccompProfile | default (dict "type" "RuntimeDefault")) | nindent 10 }}
      containers:
        - name: {{ .service }}
          image: {{ include "loopai.image" (dict "root" $root "service" .service "image" $values.image) }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          command: [loopai-{{ .service }}]
          securityContext:
            {{- include "loopai.containerSecurity" $root | nindent 12 }}
          envFrom:
            - configMapRef:
                name: {{ $name }}
          {{- if or .env $values.secretSettings }}
          env:
            {{- range .env }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- range $field, $place := $values.secretSettings }}
            {{- include "loopai.secretEnv" (dict "name" (printf "%s%s" $prefix (upper $field)) "secret" $place.secret "key" $place.key) | nindent 12 }}
            {{- end }}
          {{- end }}
          ports:
            - name: http
              containerPort: {{ $port }}
          # A service waits for NATS before it answers.
          startupProbe:
            httpGet: {path: /health/live, port: http, scheme: {{ $scheme }}}
            periodSeconds: 2
            timeoutSeconds: 3
            failureThreshold: 150
          livenessProbe:
            httpGet: {path: /health/live, port: http, scheme: {{ $scheme }}}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          # The checks of a service are given two seconds.
          readinessProbe:
            httpGet: {path: /health/ready, port: http, scheme: {{ $scheme }}}
            periodSeconds: 5
            timeoutSeconds: 4
            failureThreshold: 2
          {{- if $preStop }}
          lifecycle:
            preStop:
              sleep:
                seconds: {{ $preStop }}
          {{- end }}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - name: tmp
              mountPath: /tmp
            {{- range .mounts }}
            {{- toYaml (list .) | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir:
            sizeLimit: 256Mi
        {{- range .volumes }}
        {{- toYaml (list .) | nindent 8 }}
        {{- end }}
      topologySpreadConstraints:
        {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
        - maxSkew: 1
          topologyKey: {{ . }}
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "loopai.selector" $root | nindent 14 }}
              app.kubernetes.io/component: {{ $.service }}
        {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels:
    {{- include "loopai.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .service }}
  {{- with ($values.service | default dict).annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ ($values.service | default dict).type | default "ClusterIP" }}
  selector:
    {{- include "loopai.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .service }}
  ports:
    - name: {{ lower $scheme }}
      port: {{ ne .service "api" | ternary $port (.https | ternary 443 80) }}
      targetPort: http
{{- end }}

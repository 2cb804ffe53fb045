{{/* Names, labels and the parts of pods that several templates share. */}}

{{- define "maskclip.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 48 characters, to which the names of Services and Jobs add up to 15. */}}
{{- define "maskclip.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "maskclip.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "maskclip.selector" -}}
app.kubernetes.io/name: {{ include "maskclip.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{/* Labels of the pod of `helm test`. */}}
{{- define "maskclip.testSelector" -}}
app.kubernetes.io/name: {{ include "maskclip.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end -}}

{{- define "maskclip.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "maskclip.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of pods, but for their selector, and annotations. */}}
{{- define "maskclip.podLabels" -}}
{{- with merge (deepCopy .Values.podLabels) .Values.commonLabels -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{- define "maskclip.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "maskclip.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* Whether something else than replicaCount decides how many pods there are; empty if not. */}}
{{- define "maskclip.scaled" -}}
{{- if and .Values.autoscaling.enabled .Values.keda.enabled -}}
{{- fail "autoscaling.enabled and keda.enabled are both set, and two would decide on the replicas" -}}
{{- end -}}
{{- if or .Values.autoscaling.enabled .Values.keda.enabled -}}yes{{- end -}}
{{- end -}}

{{- define "maskclip.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- $tag := .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" .Values.gpu.enabled)) -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end -}}

{{/* The settings: the values', with what other values imply. */}}
{{- define "maskclip.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if .Values.access.keysSecret -}}
{{- $_ := set $config "access" (merge (dict "keys_file" "/etc/maskclip/keys/keys.yaml") (default dict $config.access)) -}}
{{- end -}}
{{- if .Values.tls.secret -}}
{{- $files := dict "certificate" "/etc/maskclip/tls/tls.crt" "key" "/etc/maskclip/tls/tls.key" -}}
{{- $_ := set $config.server "tls" $files -}}
{{- end -}}
{{- if and .Values.gpu.enabled (not (dig "model" "device" "" $config)) -}}
{{- $_ := set $config "model" (merge (dict "device" "cuda:0") (default dict $config.model)) -}}
{{- end -}}
{{- with .Values.shared -}}
{{- if or .url .urlSecret -}}
{{- $shared := dict -}}
{{- if .url -}}{{- $_ := set $shared "url" .url -}}{{- end -}}
{{- if .passwordSecret -}}{{- $_ := set $shared "password_file" "/etc/maskclip/redis/password" -}}{{- end -}}
{{- if .caSecret -}}{{- $_ := set $shared "ca_file" "/etc/maskclip/redis-ca/ca.crt" -}}{{- end -}}
{{- $_ := set $config "shared" (merge $shared (default dict $config.shared)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* The port of Redis, whose default is 6379; empty without a Redis. */}}
{{- define "maskclip.redisPort" -}}
{{- with .Values.shared -}}
{{- if or .url .urlSecret -}}
{{- $ofUrl := regexFind ":[0-9]+$" (urlParse .url).host | trimPrefix ":" -}}
{{- .port | default $ofUrl | default 6379 -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "maskclip.port" -}}
{{- regexFind "[0-9]+$" .Values.config.server.listen -}}
{{- end -}}

{{- define "maskclip.scheme" -}}
{{- ternary "HTTPS" "HTTP" (not (empty .Values.tls.secret)) -}}
{{- end -}}

{{/* Seconds from SIGTERM to SIGKILL, which the server's own two phases must fit. */}}
{{- define "maskclip.grace" -}}
{{- $server := .Values.config.server -}}
{{- $phases := addf $server.unready_seconds $server.drain_seconds | ceil | int -}}
{{- $given := int .Values.terminationGracePeriodSeconds -}}
{{- if and $given (le $given $phases) -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, and must be above config.server.unready_seconds and drain_seconds together, which are %d" $given $phases) -}}
{{- end -}}
{{- $given | default (add $phases 10) -}}
{{- end -}}

{{/* The image sets these variables, which go before the file of settings. */}}
{{- define "maskclip.environment" -}}
- name: MASKCLIP_CONFIG
  value: /etc/maskclip/config.yaml
- name: MASKCLIP_SERVER__LISTEN
  value: {{ .Values.config.server.listen | quote }}
- name: MASKCLIP_MODEL__FOLDER
  value: {{ .Values.config.model.folder | quote }}
- name: MASKCLIP_VOCABULARY__STORE_PATH
  value: {{ .Values.config.vocabulary.store_path | quote }}
# In X-MaskCLIP-Replica of replies.
- name: MASKCLIP_SERVER__REPLICA
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- with .Values.shared.urlSecret }}
- name: MASKCLIP_SHARED__URL
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: url
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The variables of a container, its own and those of other objects. */}}
{{- define "maskclip.variables" -}}
env:
  {{- include "maskclip.environment" . | nindent 2 }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "maskclip.mounts" -}}
- name: config
  mountPath: /etc/maskclip/config.yaml
  subPath: config.yaml
  readOnly: true
- name: state
  mountPath: /var/lib/maskclip
{{- if ne .Values.weights.source "embedded" }}
- name: weights
  mountPath: {{ .Values.config.model.folder }}
  readOnly: true
{{- end }}
{{- if .Values.access.keysSecret }}
- name: keys
  mountPath: /etc/maskclip/keys
  readOnly: true
{{- end }}
{{- if .Values.tls.secret }}
- name: tls
  mountPath: /etc/maskclip/tls
  readOnly: true
{{- end }}
{{- if .Values.shared.passwordSecret }}
- name: redis
  mountPath: /etc/maskclip/redis
  readOnly: true
{{- end }}
{{- if .Values.shared.caSecret }}
- name: redis-ca
  mountPath: /etc/maskclip/redis-ca
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Volumes, but for those that a StatefulSet claims for each pod. Takes the root and whether pods claim. */}}
{{- define "maskclip.volumes" -}}
{{- $root := index . 0 -}}
{{- $claims := index . 1 -}}
{{- with $root -}}
- name: config
  configMap:
    name: {{ include "maskclip.fullname" . }}
{{- if not $claims }}
- name: state
  emptyDir:
    sizeLimit: {{ .Values.state.size }}
{{- end }}
{{- if eq .Values.weights.source "claim" }}
- name: weights
  persistentVolumeClaim:
    claimName: {{ required "weights.claim names the claim with the weights" .Values.weights.claim }}
    readOnly: true
{{- else if and (eq .Values.weights.source "fetch") (not $claims) }}
- name: weights
  emptyDir:
    sizeLimit: {{ .Values.weights.size }}
{{- end }}
{{- if .Values.access.keysSecret }}
- name: keys
  secret:
    secretName: {{ .Values.access.keysSecret }}
    defaultMode: 0440
{{- end }}
{{- if .Values.tls.secret }}
- name: tls
  secret:
    secretName: {{ .Values.tls.secret }}
    defaultMode: 0440
{{- end }}
{{- if .Values.shared.passwordSecret }}
- name: redis
  secret:
    secretName: {{ .Values.shared.passwordSecret }}
    defaultMode: 0440
{{- end }}
{{- if .Values.shared.caSecret }}
- name: redis-ca
  secret:
    secretName: {{ .Values.shared.caSecret }}
    defaultMode: 0440
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Init containers: those that bring the weights, one after the other, and the values' own. */}}
{{- define "maskclip.initContainers" -}}
{{- if or (eq .Values.weights.source "fetch") .Values.extraInitContainers -}}
initContainers:
  {{- if eq .Values.weights.source "fetch" }}
  {{- range $number, $name := required "weights.fetch names the models to bring" .Values.weights.fetch }}
  - name: fetch-{{ $number }}
    image: {{ include "maskclip.image" $ | quote }}
    imagePullPolicy: {{ $.Values.image.pullPolicy }}
    args: [fetch, {{ $name | quote }}]
    {{- include "maskclip.variables" $ | nindent 4 }}
    resources:
      requests: {cpu: 100m, memory: 64Mi}
      limits: {memory: 256Mi}
    securityContext:
      {{- toYaml $.Values.securityContext | nindent 6 }}
    volumeMounts:
      - name: config
        mountPath: /etc/maskclip/config.yaml
        subPath: config.yaml
        readOnly: true
      - name: state
        mountPath: /var/lib/maskclip
      - name: weights
        mountPath: {{ $.Values.config.model.folder }}
      {{- with $.Values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  {{- end }}
  {{- end }}
  {{- with .Values.extraInitContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The parts of a pod that a server and a labelling job have in common. */}}
{{- define "maskclip.pod" -}}
serviceAccountName: {{ include "maskclip.serviceAccount" . }}
automountServiceAccountToken: false
# A Service's variables, such as MASKCLIP_PORT, would look like settings.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- if and .Values.gpu.enabled .Values.gpu.runtimeClassName }}
runtimeClassName: {{ .Values.gpu.runtimeClassName }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := .Values.tolerations }}
{{- if .Values.gpu.enabled }}
{{- $tolerations = append $tolerations (dict "key" .Values.gpu.resource "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "maskclip.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if .Values.gpu.enabled -}}
{{- $limits := merge (dict .Values.gpu.resource .Values.gpu.count) (default dict $resources.limits) -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* The pods of a Deployment or StatefulSet. Takes the root and whether pods have claims of their own. */}}
{{- define "maskclip.template" -}}
{{- $root := index . 0 -}}
{{- with $root -}}
metadata:
  labels:
    {{- include "maskclip.selector" . | nindent 4 }}
    {{- with include "maskclip.podLabels" . }}
    {{- . | nindent 4 }}
    {{- end }}
  annotations:
    # A change of the settings rolls the pods.
    checksum/config: {{ include "maskclip.config" . | sha256sum }}
    kubectl.kubernetes.io/default-container: maskclip
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "maskclip.pod" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "maskclip.grace" . }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if .Values.spread }}
  topologySpreadConstraints:
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "maskclip.selector" $root | nindent 10 }}
      matchLabelKeys: [{{ ternary "pod-template-hash" "controller-revision-hash" (eq $root.Values.workload "Deployment") }}]
    {{- end }}
  {{- end }}
  {{- with include "maskclip.initContainers" . }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: maskclip
      image: {{ include "maskclip.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      {{- include "maskclip.variables" . | nindent 6 }}
      ports:
        - name: http
          containerPort: {{ include "maskclip.port" . }}
          protocol: TCP
      {{- range list "startup" "liveness" "readiness" }}
      {{ . }}Probe:
        httpGet:
          path: /health/{{ ternary "ready" "live" (eq . "readiness") }}
          port: http
          scheme: {{ include "maskclip.scheme" $root }}
        {{- toYaml (get $root.Values (printf "%sProbe" .)) | nindent 8 }}
      {{- end }}
      resources:
        {{- include "maskclip.resources" . | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        {{- include "maskclip.mounts" . | nindent 8 }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "maskclip.volumes" $ | nindent 4 }}
{{- end -}}
{{- end -}}

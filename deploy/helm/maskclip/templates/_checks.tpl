{{/* Refuses values that fit values.schema.json each by itself, and together would give a release that does not work. */}}
{{- define "maskclip.check" -}}
{{- include "maskclip.checkAddress" . -}}
{{- include "maskclip.checkRedis" . -}}
{{- include "maskclip.checkModels" . -}}
{{- include "maskclip.checkPods" . -}}
{{- include "maskclip.checkScaling" . -}}
{{- end -}}

{{- define "maskclip.checkAddress" -}}
{{- $listen := .Values.config.server.listen -}}
{{- if regexMatch "^(127\\.|localhost:|\\[::1\\])" $listen -}}
{{- fail (printf "config.server.listen is %s, which neither the probes nor the Service reach: use 0.0.0.0:PORT or [::]:PORT" $listen) -}}
{{- end -}}
{{- if gt (include "maskclip.port" . | int) 65535 -}}
{{- fail (printf "config.server.listen is %s, and no port is above 65535" $listen) -}}
{{- end -}}
{{- end -}}

{{- define "maskclip.checkRedis" -}}
{{- range $key := list "url" "password_file" "ca_file" -}}
{{- if dig "shared" $key "" $.Values.config -}}
{{- fail (printf "config.shared.%s is set: name Redis and its Secrets by the values under shared, which also open its port in the NetworkPolicy and mount the Secrets" $key) -}}
{{- end -}}
{{- end -}}
{{- with .Values.shared -}}
{{- if regexMatch "^rediss?://[^/@]*:[^/@]*@" .url -}}
{{- fail "shared.url has a password, which would be in a ConfigMap: put the password into a Secret that shared.passwordSecret names, or the address into one that shared.urlSecret names" -}}
{{- end -}}
{{- if not (or .url .urlSecret) -}}
{{- range $key := list "passwordSecret" "caSecret" "port" -}}
{{- if get $.Values.shared $key -}}
{{- fail (printf "shared.%s is set, and neither shared.url nor shared.urlSecret: pods would share nothing" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .caSecret (hasPrefix "redis://" .url) -}}
{{- fail "shared.caSecret is of use with rediss:// alone, and shared.url begins with redis://" -}}
{{- end -}}
{{- end -}}
{{- if gt (include "maskclip.redisPort" . | int) 65535 -}}
{{- fail "shared.url has a port above 65535" -}}
{{- end -}}
{{- end -}}

{{/* Without a source of weights, model.folder is one of the image or of another volume, or an empty one. */}}
{{- define "maskclip.checkModels" -}}
{{- $folder := .Values.config.model.folder -}}
{{- if and (eq .Values.weights.source "embedded") (hasPrefix "/var/lib/maskclip/" $folder) (not .Values.extraVolumeMounts) -}}
{{- $models := .Values.config.models | default list -}}
{{- range kindIs "slice" $models | ternary $models (list $models) -}}
{{- $name := kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") . -}}
{{- if not (or (has $name (list "demo" "demo-vit")) (hasPrefix "/" $name)) -}}
{{- fail (printf "config.models has %s, whose weights are not part of the program, and %s is empty: set weights.source to fetch or claim" $name $folder) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "maskclip.checkPods" -}}
{{- range $key := include "maskclip.selector" . | fromYaml | keys -}}
{{- range $values := list "podLabels" "commonLabels" -}}
{{- if hasKey (get $.Values $values | default dict) $key -}}
{{- fail (printf "%s has %s, by which the chart finds its pods: leave it out" $values $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $key := list "podSecurityContext" "securityContext" -}}
{{- $context := get $.Values $key -}}
{{- if or (eq (toString (get $context "runAsNonRoot")) "false") (eq (toString (get $context "runAsUser")) "0") -}}
{{- fail (printf "%s lets the server run as root: it needs no root, and namespaces of the standard restricted refuse such pods" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "maskclip.checkScaling" -}}
{{- range $key := list "autoscaling" "keda" -}}
{{- $scaler := get $.Values $key -}}
{{- if and $scaler.enabled (gt (int $scaler.minReplicas) (int $scaler.maxReplicas)) -}}
{{- fail (printf "%s.minReplicas is %d, above maxReplicas, which is %d" $key (int $scaler.minReplicas) (int $scaler.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- $cpu := or (dig "requests" "cpu" "" .Values.resources) (dig "limits" "cpu" "" .Values.resources) -}}
{{- if and .Values.autoscaling.enabled (not $cpu) -}}
{{- fail "autoscaling.enabled is set, and resources.requests.cpu is not, of which autoscaling.targetCPUUtilizationPercentage is a share" -}}
{{- end -}}
{{- end -}}

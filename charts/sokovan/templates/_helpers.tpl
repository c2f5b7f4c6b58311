{{- define "sokovan.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- define "sokovan.labels" -}}
app.kubernetes.io/name: sokovan
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- define "sokovan.selector" -}}
app.kubernetes.io/name: sokovan
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "sokovan.serviceAccount" -}}
{{ .Release.Name }}-operator
{{- end }}
{{- define "sokovan.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "sokovan.serviceAccount" . }}
{{- end }}
{{- /* Those who may write what is the operator's alone, as a list of CEL. */}}
{{- define "sokovan.operatorUsers" -}}
{{ concat (list (include "sokovan.user" .)) .Values.operatorUsers | toJson }}
{{- end }}
{{- /* Binds a policy: (list . "name"). */}}
{{- define "sokovan.binding" -}}
{{- $root := index . 0 }}
{{- $name := printf "%s-%s" $root.Release.Name (index . 1) -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ $name }}
  labels: {{- include "sokovan.labels" $root | nindent 4 }}
spec:
  policyName: {{ $name }}
  validationActions: [Deny]
{{- end }}

{{/* What containers of the operator's pods may be given, as a list in CEL: the baseline, and locking memory. */}}
{{- define "sokovan.capabilities" -}}
['AUDIT_WRITE', 'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'IPC_LOCK', 'KILL', 'MKNOD', 'NET_BIND_SERVICE', 'SETFCAP', 'SETGID', 'SETPCAP', 'SETUID', 'SYS_CHROOT']
{{- end -}}

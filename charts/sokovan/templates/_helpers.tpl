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

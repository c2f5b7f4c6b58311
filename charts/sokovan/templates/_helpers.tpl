{{- /* The prefix of every name that the chart gives. */}}
{{- define "sokovan.fullname" -}}
{{ .Values.fullnameOverride | default .Release.Name }}
{{- end }}
{{- define "sokovan.image" -}}
{{- $registry := .Values.global.imageRegistry | default .Values.image.registry -}}
{{ with $registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .Values.image.repository }}
{{- with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}
{{- define "sokovan.labels" -}}
app.kubernetes.io/name: sokovan
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- define "sokovan.selector" -}}
app.kubernetes.io/name: sokovan
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "sokovan.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (print (include "sokovan.fullname" .) "-operator") }}
{{- end }}
{{- /* Whether the hooks can run: they use the operator's image, and simulated clusters run no containers. */}}
{{- define "sokovan.hooks" -}}
{{ if int .Values.replicas }}yes{{ end }}
{{- end }}
{{- /* The security context of the chart's own containers. */}}
{{- define "sokovan.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
{{- /* The annotations of an object of a hook: (list "event" "weight"). It is removed once the hook has succeeded. */}}
{{- define "sokovan.hook" -}}
helm.sh/hook: {{ index . 0 }}
helm.sh/hook-weight: {{ index . 1 | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
{{- /* The pod of a hook: (list . "name" (list "argument" …)). */}}
{{- define "sokovan.hookPod" -}}
{{- $root := index . 0 }}
serviceAccountName: {{ include "sokovan.fullname" $root }}-{{ index . 1 }}
restartPolicy: Never
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
containers:
- name: {{ index . 1 }}
  image: {{ include "sokovan.image" $root }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args: {{ index . 2 | toJson }}
  securityContext: {{- include "sokovan.containerSecurity" $root | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 32Mi}
    limits: {memory: 128Mi}
{{- with $root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- define "sokovan.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "sokovan.serviceAccount" . }}
{{- end }}
{{- /* The users that may write the operator's own objects, as a CEL list. */}}
{{- define "sokovan.operatorUsers" -}}
{{ concat (list (include "sokovan.user" .)) .Values.operatorUsers | toJson }}
{{- end }}
{{- /* Binds a policy: (list . "name"). */}}
{{- define "sokovan.binding" -}}
{{- $root := index . 0 }}
{{- $name := printf "%s-%s" (include "sokovan.fullname" $root) (index . 1) -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ $name }}
  labels: {{- include "sokovan.labels" $root | nindent 4 }}
spec:
  policyName: {{ $name }}
  validationActions: [Deny]
{{- end }}

{{/* The capabilities that containers of the operator's pods may add, as a CEL list: the baseline, and locking memory. */}}
{{- define "sokovan.capabilities" -}}
['AUDIT_WRITE', 'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'IPC_LOCK', 'KILL', 'MKNOD', 'NET_BIND_SERVICE', 'SETFCAP', 'SETGID', 'SETPCAP', 'SETUID', 'SYS_CHROOT']
{{- end -}}

{{/* Whether the labels that only the operator sets are unchanged, in CEL. */}}
{{- define "sokovan.ownLabels" -}}
['session', 'session-uid', 'kernel', 'allocation-generation', 'scaling-group',
  'deployment', 'deployment-uid', 'revision', 'traffic'].all(name,
  object.metadata.?labels['sokovan.dev/' + name]
  == (request.operation == 'CREATE' ? optional.none() : oldObject.metadata.?labels['sokovan.dev/' + name]))
{{- end -}}

{{/* Kernels as comparable CEL lists, with defaults filled in for absent fields. Argument: "object.spec.kernels". */}}
{{- define "sokovan.kernelsInFull" -}}
{{ . }}.map(k, [
  dyn(k.?role.orValue('main')), dyn(k.?replicas.orValue(1)), dyn(k.?image), dyn(k.?imagePullPolicy.orValue('IfNotPresent')),
  dyn(k.?architecture.orValue('')), dyn(k.?resources), dyn(string(k.?sharedMemory.orValue('64Mi'))),
  dyn(k.?command.orValue([])), dyn(k.?args.orValue([])), dyn(k.?env.orValue([])), dyn(k.?designatedNodes.orValue([])),
  dyn(k.?ports.orValue([]).map(p, [dyn(p.name), dyn(p.containerPort), dyn(p.?protocol.orValue('TCP'))])),
  dyn(k.?volumes.orValue([]).map(v,
    [dyn(v.claimName), dyn(v.mountPath), dyn(v.?subPath.orValue('')), dyn(v.?readOnly.orValue(false))])),
  dyn(k.?files.orValue([]).map(f, [dyn(f.path), dyn(f.?configMapKeyRef), dyn(f.?secretKeyRef), dyn(f.?executable.orValue(false))])),
  dyn(k.?scratch.orValue([]).map(s, [dyn(s.mountPath), dyn(string(s.size))]))])
{{- end -}}

{{/* Claims as comparable CEL lists, with defaults filled in for absent fields. Argument: "object.spec". */}}
{{- define "sokovan.claimsInFull" -}}
{{ . }}.?claims.orValue([]).map(c, [dyn(c.name), dyn(string(c.size)), dyn(c.?storageClassName.orValue('')),
  dyn(c.?accessMode.orValue('ReadWriteOnce')), dyn(c.?retention.orValue('Delete'))])
{{- end -}}

{{/* The texts of an object in CEL, each with the number of times it is stored. Argument: (list "object" "variables.spec"). */}}
{{- define "sokovan.texts" -}}
{{- $object := index . 0 }}{{ $spec := index . 1 -}}
{{ $spec }}.kernels.map(k, {'times': dyn(k.?replicas.orValue(1)), 'text': dyn((
  [k.?role.orValue('main'), k.?image.orValue(''), k.?architecture.orValue('')] + k.?resources.orValue({}).map(name, name)
  + k.?command.orValue([]) + k.?args.orValue([])
  + k.?env.orValue([]).map(e, e.name + e.?value.orValue('') + e.?secretKeyRef.name.orValue('') + e.?secretKeyRef.key.orValue(''))
  + k.?ports.orValue([]).map(p, p.name)
  + k.?volumes.orValue([]).map(v, v.claimName + v.mountPath + v.?subPath.orValue(''))
  + k.?files.orValue([]).map(f, f.path + f.?configMapKeyRef.name.orValue('') + f.?configMapKeyRef.key.orValue('')
    + f.?secretKeyRef.name.orValue('') + f.?secretKeyRef.key.orValue(''))
  + k.?scratch.orValue([]).map(s, s.mountPath + string(s.size))
  + k.?designatedNodes.orValue([])).join(''))})
+ [{'times': dyn(1), 'text': dyn((
  [{{ $spec }}.accessKey, {{ $spec }}.?scalingGroup.orValue('')] + {{ $spec }}.?dependsOn.orValue([])
  + {{ $spec }}.?imagePullSecrets.orValue([]) + [{{ $spec }}.?serviceAccountName.orValue('')]
  + {{ $spec }}.?template.parameters.orValue({}).transformList(key, value, key + value)
  + {{ $spec }}.?claims.orValue([]).map(c, c.name + c.?storageClassName.orValue(''))
  + {{ $object }}.metadata.?labels.orValue({}).transformList(key, value, key + value)
  + {{ $object }}.metadata.?annotations.orValue({}).transformList(key, value, key != variables.lastApplied, key + value)
  + {{ $object }}.metadata.?finalizers.orValue([]).filter(name, name != 'sokovan.dev/session')
  + {{ $object }}.metadata.?ownerReferences.orValue([]).map(o, o.apiVersion + o.kind + o.name + o.uid)).join(''))}]
{{- end -}}

{{/* The bytes that JSON escapes add to a text in etcd: each of these characters takes six bytes, some others two. */}}
{{- define "sokovan.escapes" -}}
5 * {{ . }}.findAll(r'[<>&\x00-\x08\x0b\x0c\x0e-\x1f\x{2028}\x{2029}]').size() + {{ . }}.findAll(r'["\\\n\t\r]').size()
{{- end -}}

{{/* The approximate size of managedFields in bytes, in CEL. It repeats names for each field manager. The numbers are the
overhead of an entry, a kernel and a manager. */}}
{{- define "sokovan.managedBytes" -}}
{{ . }}.metadata.?managedFields.orValue([]).map(manager, manager.?fieldsV1.orValue({})).map(fields, 512
  + ['f:labels', 'f:annotations', 'f:finalizers', 'f:ownerReferences'].map(name, fields[?'f:metadata'][?name].orValue({})
    .map(key, {{ include "sokovan.escapes" "key" }} + bytes(key).size() + 8).sum()).sum()
  + (request.kind.kind == 'Deployment' ? fields[?'f:spec'][?'f:template'][?'f:kernels'] : fields[?'f:spec'][?'f:kernels']).orValue({})
    .transformList(role, kernel, 256 + ['f:env', 'f:ports', 'f:volumes'].map(name, kernel[?name].orValue({})
      .map(key, {{ include "sokovan.escapes" "key" }} + bytes(key).size() + 64).sum()).sum()).sum()).sum()
{{- end -}}

{{/* A value as the text of a quantity, in CEL. A value that is neither a number nor a string becomes an invalid quantity. */}}
{{- define "sokovan.quantityText" -}}
type({{ . }}) == string || type({{ . }}) == int || type({{ . }}) == double ? string({{ . }}) : 'of another type'
{{- end -}}

{{/* Whether a text is a quantity above zero that the operator can count, in CEL. */}}
{{- define "sokovan.positive" -}}
{{ . }}.size() <= 32 && isQuantity({{ . }}) && quantity({{ . }}).isGreaterThan(quantity('0')) && quantity({{ . }}).isLessThan(quantity('9P'))
{{- end -}}

{{/* The first invalid amount of each list, as a message, in CEL. Argument: (list "amounts" "condition on a" "message about a"). */}}
{{- define "sokovan.wrong" -}}
variables.{{ index . 0 }}.map(amounts, amounts.filter(a, {{ index . 1 }})
  .map(a, {{ index . 2 }})).filter(messages, messages.size() > 0).map(messages, messages[0])
{{- end -}}

{{/* Whether the chart creates the first tenant's quota of sessions. The quota controller learns a new CRD within half a minute. A
quota created earlier refuses every session until the controller's next round, up to five minutes later. */}}
{{- define "sokovan.countsSessions" -}}
{{- $made := dig "metadata" "creationTimestamp" "" (lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "sessions.sokovan.dev") }}
{{- $age := 0 }}
{{- with $made }}{{ $age = sub (now | unixEpoch) (toDate "2006-01-02T15:04:05Z07:00" . | unixEpoch) }}{{ end }}
{{- if and (int .Values.firstTenant.maxSessions) (or (not $made) (ge (int $age) 120)) }}yes{{ end }}
{{- end -}}

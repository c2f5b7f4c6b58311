# The metrics server, which HorizontalPodAutoscalers read the CPU and memory of pods from. Only some tests start it.

start_metrics_server() {
  local config="$STATE/pki/metrics-server.kubeconfig"
  # The certificate of the kubelet is its own, and 10 s is the shortest time between two readings.
  start_process metrics-server "$KIT_BIN/metrics-server" --kubeconfig "$config" \
    --authentication-kubeconfig "$config" --authorization-kubeconfig "$config" \
    --bind-address "$ADDRESS" --secure-port "$PORT_METRICS" --cert-dir "$STATE/metrics-server" \
    --kubelet-insecure-tls --kubelet-preferred-address-types InternalIP --kubelet-request-timeout 5s --metric-resolution 10s
  metrics_api | K8S apply -f - >/dev/null || exit 1
  wait_until 60 "the API of the metrics server (its log: $STATE/log/metrics-server.log)" \
    K8S wait --for=condition=Available apiservice/v1beta1.metrics.k8s.io --timeout=1s || exit 1
}

metrics_api() {
  cat <<YAML
apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: kube-system}
spec:
  ports: [{port: 443, targetPort: $PORT_METRICS}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: metrics-server
  namespace: kube-system
  labels: {kubernetes.io/service-name: metrics-server}
addressType: IPv4
endpoints: [{addresses: [$ADDRESS], conditions: {ready: true}}]
ports: [{port: $PORT_METRICS, protocol: TCP}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  service: {name: metrics-server, namespace: kube-system}
  insecureSkipTLSVerify: true
  groupPriorityMinimum: 100
  versionPriority: 100
YAML
}

# Simulated nodes: kwok plays their kubelets by the rules in stages.yaml. Only pods that tolerate their taint run there.

wanted_nodes() { cat "$STATE/nodes" 2>/dev/null || echo 0; }

simulated_node() { # NUMBER
  cat <<YAML
---
apiVersion: v1
kind: Node
metadata:
  name: sim-$1
  annotations: {kwok.x-k8s.io/node: fake}
  labels: {kubernetes.io/hostname: sim-$1, kubernetes.io/arch: amd64, kubernetes.io/os: linux, sokovan.dev/simulated: "true"}
spec:
  taints: [{key: kwok.x-k8s.io/node, value: fake, effect: NoSchedule}]
status:
  allocatable: {cpu: "32", memory: 256Gi, pods: "110"}
  capacity: {cpu: "32", memory: 256Gi, pods: "110"}
YAML
}

simulated_up() {
  local wanted number present leases
  wanted=$(wanted_nodes)
  [ "$wanted" -gt 0 ] || return 0
  # An earlier kwok still holds their leases for minutes.
  leases=$(K8S -n kube-node-lease get leases -o name | grep '/sim-')
  # shellcheck disable=SC2086
  [ -z "$leases" ] || K8S -n kube-node-lease delete $leases >/dev/null || exit 1
  start_process kwok "$KIT_BIN/kwok" --kubeconfig "$STATE/pki/kwok.kubeconfig" --config "$KIT_DIR/stages.yaml" \
    --manage-nodes-with-annotation-selector kwok.x-k8s.io/node=fake --node-ip 127.0.0.1 --cidr 10.200.0.0/16 \
    --node-lease-duration-seconds $(($(monitor_grace) * 2)) -v WARN
  present=$(K8S get nodes -l sokovan.dev/simulated=true -o name | sed 's/.*sim-//')
  say "making $wanted simulated nodes"
  for number in $(seq "$wanted"); do
    grep -qx "$number" <<<"$present" || simulated_node "$number"
  done >"$STATE/nodes.yaml"
  [ -s "$STATE/nodes.yaml" ] && { K8S create -f "$STATE/nodes.yaml" >/dev/null || exit 1; }
  wait_until 120 "$wanted simulated nodes to be Ready" simulated_ready || exit 1
}

simulated_ready() {
  local ready
  ready=$(K8S get nodes -l sokovan.dev/simulated=true --no-headers 2>/dev/null | awk '$2 == "Ready"' | wc -l)
  [ "$ready" -ge "$(wanted_nodes)" ]
}

# etcd, the API server, the controller manager, the scheduler, the registry and DNS.

K8S() { "$KIT_BIN/kubectl" --kubeconfig "$STATE/pki/admin.kubeconfig" "$@"; }

control_plane_certificates() {
  [ -e "$STATE/pki/complete" ] && return 0
  "$KIT_BIN/certs" "$STATE/pki" "https://$ADDRESS:$PORT_API" "$NODE" \
    127.0.0.1 localhost "$ADDRESS" 10.96.0.1 kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local
  touch "$STATE/pki/complete"
}

start_etcd() {
  # No fsync: a local cluster may lose its data when the machine loses power.
  start_process etcd "$KIT_BIN/etcd" --data-dir "$STATE/etcd" --unsafe-no-fsync --quota-backend-bytes 8589934592 \
    --listen-client-urls "http://127.0.0.1:$PORT_ETCD" --advertise-client-urls "http://127.0.0.1:$PORT_ETCD" \
    --listen-peer-urls "http://127.0.0.1:$PORT_ETCD_PEER" --initial-advertise-peer-urls "http://127.0.0.1:$PORT_ETCD_PEER" \
    --initial-cluster "default=http://127.0.0.1:$PORT_ETCD_PEER" --log-level warn
}

start_apiserver() { # [NAME PORT]
  local name="${1:-kube-apiserver}" port="${2:-$PORT_API}"
  local flags=(
    --etcd-servers "http://127.0.0.1:$PORT_ETCD" --bind-address "$ADDRESS" --secure-port "$port"
    --tls-cert-file "$STATE/pki/apiserver.crt" --tls-private-key-file "$STATE/pki/apiserver.key"
    --client-ca-file "$STATE/pki/ca.crt" --service-cluster-ip-range 10.96.0.0/16
    --service-account-issuer https://kubernetes.default.svc.cluster.local
    --service-account-key-file "$STATE/pki/service-account.pub" --service-account-signing-key-file "$STATE/pki/service-account.key"
    --authorization-mode "Node,RBAC" --enable-admission-plugins NodeRestriction --allow-privileged
    --kubelet-client-certificate "$STATE/pki/apiserver-kubelet-client.crt"
    --kubelet-client-key "$STATE/pki/apiserver-kubelet-client.key" --kubelet-preferred-address-types InternalIP
    # The API server names the user of a request that it passes on to another API, such as the metrics of pods.
    --requestheader-client-ca-file "$STATE/pki/ca.crt" --requestheader-allowed-names front-proxy-client
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group
    --requestheader-extra-headers-prefix X-Remote-Extra-
    --proxy-client-cert-file "$STATE/pki/front-proxy-client.crt" --proxy-client-key-file "$STATE/pki/front-proxy-client.key"
  )
  if [ -n "$NETNS" ]; then
    flags+=(--advertise-address "$ADDRESS")
  else
    flags+=(--endpoint-reconciler-type none) # no endpoint may be a loopback address
  fi
  # shellcheck disable=SC2086 # extra flags are words
  # A higher GOGC collects garbage less often: on two cores, collection takes a third of the API server's time. Near the limit of memory
  # it collects more often instead of growing.
  GOGC="${KIT_APISERVER_GOGC:-400}" GOMEMLIMIT="${KIT_APISERVER_MEMORY:-2600MiB}" start_process "$name" "$KIT_BIN/kube-apiserver" "${flags[@]}" ${KIT_APISERVER_FLAGS:-}
}

# Starts a second API server on the same store, which failure tests stop. Prints the path of its kubeconfig.
start_second_apiserver() {
  local kubeconfig="$STATE/pki/admin-2.kubeconfig"
  sed "s/:$PORT_API\b/:$PORT_API_2/" "$STATE/pki/admin.kubeconfig" >"$kubeconfig"
  start_apiserver kube-apiserver-2 "$PORT_API_2"
  wait_until 90 "the second API server" "$KIT_BIN/kubectl" --kubeconfig "$kubeconfig" get --raw /readyz || exit 1
  echo "$kubeconfig"
}

start_controllers() {
  local grace
  grace="$(monitor_grace)"
  start_process kube-controller-manager "$KIT_BIN/kube-controller-manager" \
    --kubeconfig "$STATE/pki/kube-controller-manager.kubeconfig" --use-service-account-credentials \
    --root-ca-file "$STATE/pki/ca.crt" --service-account-private-key-file "$STATE/pki/service-account.key" \
    --cluster-signing-cert-file "" --leader-elect=false --bind-address 127.0.0.1 --secure-port "$PORT_KCM" \
    --node-monitor-grace-period "${grace}s" --kube-api-qps 1000 --kube-api-burst 2000 \
    --horizontal-pod-autoscaler-sync-period 3s
  cat >"$STATE/scheduler.yaml" <<YAML
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: "$STATE/pki/kube-scheduler.kubeconfig", qps: 2000, burst: 4000}
leaderElection: {leaderElect: false}
YAML
  start_process kube-scheduler "$KIT_BIN/kube-scheduler" --config "$STATE/scheduler.yaml" \
    --bind-address 127.0.0.1 --secure-port "$PORT_SCHEDULER"
}

# Prints how many seconds a node may be silent. The more simulated nodes there are, the less often each renews its lease. In
# benchmarks with thousands of pods on a few cores, kwok falls behind by minutes, and its nodes would count as lost.
monitor_grace() {
  local nodes
  nodes="$(wanted_nodes)"
  if [ "$nodes" -gt 100 ]; then echo 600; elif [ "$nodes" -gt 50 ]; then echo 80; else echo 20; fi
}

start_registry() {
  mkdir -p "$STATE/registry"
  start_process registry "$KIT_BIN/crane" registry serve --address "127.0.0.1:$PORT_REGISTRY" --disk "$STATE/registry"
}

start_dns() {
  cat >"$STATE/Corefile" <<CONF
.:53 {
  bind $ADDRESS
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $STATE/pki/coredns.kubeconfig kit
    ttl 0
  }
}
CONF
  start_process coredns "$KIT_BIN/coredns" -conf "$STATE/Corefile"
}

apiserver_ready() { K8S get --raw /readyz; }

control_plane_up() {
  control_plane_certificates
  start_etcd
  start_apiserver
  wait_until 90 "the API server to be ready (its log: $STATE/log/kube-apiserver.log)" apiserver_ready || exit 1
  start_controllers
  wait_until 60 "the default service account" K8S -n default get serviceaccount default || exit 1
}

# The real node: containerd, kubelet, CNI and kube-proxy. Needs root and a network namespace.

NODE_TOOLS="ip nsenter iptables runc mount umount"

containerd_config() {
  mkdir -p "$STATE/node/cni-conf" "$STATE/node/registry/docker.io"
  cat >"$STATE/node/containerd.toml" <<CONF
version = 3
root = '$STATE/node/containerd'
state = '$RUN/containerd'
[grpc]
  address = '$RUN/containerd.sock'
[ttrpc]
  address = '$RUN/containerd.sock.ttrpc'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['$KIT_BIN']
    conf_dir = '$STATE/node/cni-conf'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '127.0.0.1:$PORT_REGISTRY/pause:1'
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '$STATE/node/registry'
CONF
  # Images without a registry come from the kit's own registry.
  cat >"$STATE/node/registry/docker.io/hosts.toml" <<CONF
server = "http://127.0.0.1:$PORT_REGISTRY"
[host."http://127.0.0.1:$PORT_REGISTRY"]
  capabilities = ["pull", "resolve"]
CONF
  cat >"$STATE/node/cni-conf/10-kit.conflist" <<CONF
{"cniVersion": "1.0.0", "name": "kit", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$STATE/node/ipam", "ranges": [[{"subnet": "10.244.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
CONF
}

kubelet_config() {
  local cgroup_v1=true
  [ -e /sys/fs/cgroup/cgroup.controllers ] && cgroup_v1=false
  cat >"$STATE/node/kubelet.yaml" <<CONF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: "$STATE/pki/ca.crt"}
authorization: {mode: Webhook}
address: "$ADDRESS"
healthzPort: 0
readOnlyPort: 0
clusterDNS: ["$ADDRESS"]
clusterDomain: cluster.local
containerRuntimeEndpoint: "unix://$RUN/containerd.sock"
cgroupDriver: cgroupfs
cgroupRoot: "$CGROUP"
cgroupsPerQOS: true
failCgroupV1: $([ "$cgroup_v1" = true ] && echo false || echo true)
failSwapOn: false
enforceNodeAllocatable: []
podLogsDir: "$STATE/node/pod-logs"
volumePluginDir: "$STATE/node/volume-plugins"
nodeLeaseDurationSeconds: 20
nodeStatusUpdateFrequency: 5s
nodeStatusReportFrequency: 1m
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 0
evictionHard: {memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
CONF
}

make_cgroup() {
  local root
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup$CGROUP"
    sed 's/\(^\| \)/ +/g' "/sys/fs/cgroup/cgroup.controllers" >"/sys/fs/cgroup/cgroup.subtree_control" 2>/dev/null
    sed 's/\(^\| \)/ +/g' "/sys/fs/cgroup$CGROUP/cgroup.controllers" >"/sys/fs/cgroup$CGROUP/cgroup.subtree_control"
    return 0
  fi
  for root in /sys/fs/cgroup/*/; do
    mkdir -p "$root$CGROUP" 2>/dev/null || continue
    [ -e "$root/cpuset.cpus" ] || continue # a new cpuset is empty, and accepts no process until it has cpus and mems
    cat "$root/cpuset.cpus" >"$root$CGROUP/cpuset.cpus"
    cat "$root/cpuset.mems" >"$root$CGROUP/cpuset.mems"
  done
}

remove_cgroup() {
  local root dir
  [ -n "$CGROUP" ] || return 0
  for root in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ -d "$root$CGROUP" ] || continue
    for _ in 1 2 3 4 5; do
      find "$root$CGROUP" -depth -type d 2>/dev/null | while read -r dir; do rmdir "$dir" 2>/dev/null; done
      [ -d "$root$CGROUP" ] || break
      sleep 0.2
    done
  done
}

start_kubelet() {
  start_process kubelet "$KIT_BIN/kubelet" --config "$STATE/node/kubelet.yaml" --kubeconfig "$STATE/pki/kubelet.kubeconfig" \
    --containerd "$RUN/containerd.sock" \
    --root-dir "$STATE/node/kubelet" --cert-dir "$STATE/node/kubelet-pki" --hostname-override "$NODE" --node-ip "$ADDRESS"
}

node_up() {
  mkdir -p "$RUN" "$STATE/node"
  containerd_config
  kubelet_config
  make_cgroup
  start_process containerd env "PATH=$KIT_BIN:$PATH" "$KIT_BIN/containerd" --config "$STATE/node/containerd.toml" --log-level warn
  wait_until 30 "containerd (its log: $STATE/log/containerd.log)" test -S "$RUN/containerd.sock" || exit 1
  start_kubelet
  cat >"$STATE/node/proxy.yaml" <<CONF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: "$STATE/pki/kube-proxy.kubeconfig"}
hostnameOverride: "$NODE"
clusterCIDR: 10.244.0.0/16
healthzBindAddress: "127.0.0.1:10256"
metricsBindAddress: "127.0.0.1:10249"
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
CONF
  start_process kube-proxy "$KIT_BIN/kube-proxy" --config "$STATE/node/proxy.yaml"
  wait_until 90 "node $NODE to be Ready (its log: $STATE/log/kubelet.log)" \
    K8S wait --for=condition=Ready "node/$NODE" --timeout=1s || exit 1
}

node_down() { # after its processes are gone
  local mount link
  # Unmounts overlays, tmpfs volumes and network namespaces of pods, the deepest first. Repeats for mounts that appeared since.
  for _ in 1 2 3; do
    for mount in $(awk -v a="$STATE/" -v b="$RUN/" 'index($2,a)==1||index($2,b)==1{print $2}' /proc/mounts | sort -r); do
      umount -l "$mount" 2>/dev/null
    done
  done
  remove_cgroup
  for link in /var/log/containers/*; do
    case "$(readlink "$link" 2>/dev/null)" in "$STATE"/*) rm -f "$link" ;; esac
  done
  rm -rf "$RUN"
}

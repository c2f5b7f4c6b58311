# The node image of a kind cluster, built from Debian packages and the kit's own programs, without a container registry.

NODE_PACKAGES=systemd,dbus,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,runc,libseccomp2,bash,ca-certificates,jq,procps,socat,hostname

# A minimal Debian of this machine's release.
debian() { # DIRECTORY PACKAGES
  mmdebstrap --quiet --variant=minbase --mode=root --include="$2" --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$1" >>"$STATE/log/node-image.log" 2>&1 ||
    die "could not build a Debian of $2 (see $STATE/log/node-image.log)"
}

# Prints the name under which kubeadm wants a component's image.
wanted_image() { "$KIT_BIN/kubeadm" config images list --kubernetes-version "$(kubernetes_version)" 2>/dev/null | grep "/$1:"; }

import_tree() { # DIRECTORY IMAGE [CHANGE...]
  local tree="$1" image="$2" change changes=()
  shift 2
  for change in "$@"; do changes+=(--change "$change"); done
  tar -c --owner=0 --group=0 -C "$tree" . | docker import "${changes[@]}" - "$image" >/dev/null || die "could not import $image"
}

# The images that kubeadm wants, as one archive.
component_images() { # ARCHIVE
  local work="$STATE/components" name images=()
  mkdir -p "$work/kubernetes/usr/local/bin" "$work/coredns" "$work/pause"
  program kubectl "$work/kubernetes/usr/local/bin/kubernetes"
  for name in kube-apiserver kube-controller-manager kube-scheduler etcd; do
    ln -s kubernetes "$work/kubernetes/usr/local/bin/$name"
  done
  import_tree "$work/kubernetes" kit/kubernetes 'ENV PATH=/usr/local/bin:/usr/bin:/bin'
  for name in kube-apiserver kube-controller-manager kube-scheduler etcd; do
    docker tag kit/kubernetes "$(wanted_image "$name")" && images+=("$(wanted_image "$name")")
  done
  program coredns "$work/coredns/coredns"
  import_tree "$work/coredns" "$(wanted_image coredns)" 'ENTRYPOINT ["/coredns"]'
  program pause "$work/pause/pause"
  import_tree "$work/pause" "$(wanted_image pause)" 'ENTRYPOINT ["/pause"]'
  debian "$work/proxy" iptables,nftables,conntrack,kmod
  program kube-proxy "$work/proxy/usr/local/bin/kube-proxy"
  import_tree "$work/proxy" "$(wanted_image kube-proxy)"
  images+=("$(wanted_image coredns)" "$(wanted_image pause)" "$(wanted_image kube-proxy)")
  docker save -o "$1" "${images[@]}" || die "could not save the images of the components"
  rm -rf "$work"
}

# The file system of a node, with systemd, containerd and the kubelet.
node_tree() { # DIRECTORY
  local tree="$1" name files="$KIT_DIR/kind-node" system
  debian "$tree" "$NODE_PACKAGES"
  program kubelet "$tree/usr/bin/kubernetes"
  for name in kubelet kubectl kubeadm; do ln -s kubernetes "$tree/usr/bin/$name"; done
  for name in containerd ctr containerd-shim-runc-v2; do program "$name" "$tree/usr/local/bin/$name"; done
  for name in bridge host-local loopback portmap; do program "$name" "$tree/opt/cni/bin/$name"; done
  mkdir -p "$tree/kind/manifests" "$tree/etc/kubernetes/manifests" "$tree/etc/cni/net.d" "$tree/etc/containerd" \
    "$tree/etc/systemd/journald.conf.d" "$tree/etc/systemd/system/multi-user.target.wants"
  kubernetes_version >"$tree/kind/version"
  cp "$files/storage.yaml" "$tree/kind/manifests/default-storage.yaml"
  cp "$files/cni.conflist" "$tree/etc/cni/net.d/10-kit.conflist"
  cp "$files/containerd.toml" "$tree/etc/containerd/config.toml"
  install -m 755 "$files/entrypoint" "$tree/usr/local/bin/entrypoint"
  ln -sf /lib/systemd/systemd "$tree/sbin/init"
  echo 'net.ipv4.conf.all.route_localnet=1' >"$tree/etc/sysctl.d/99-kit.conf"
  printf '[Journal]\nReadKMsg=no\n' >"$tree/etc/systemd/journald.conf.d/kit.conf"
  system="$tree/lib/systemd/system"
  rm -f "$system"/multi-user.target.wants/* "$system"/local-fs.target.wants/* "$system"/basic.target.wants/* \
    "$system"/sockets.target.wants/*udev* "$tree"/etc/systemd/system/*.wants/*
  ln -sf multi-user.target "$system/default.target"
  for name in containerd kubelet; do
    cp "$files/$name.service" "$tree/etc/systemd/system/"
    ln -s "../$name.service" "$tree/etc/systemd/system/multi-user.target.wants/$name.service"
  done
}

# Puts an archive of images into the containerd of a node that does not run yet.
preload() { # TREE ARCHIVE
  local config="$STATE/preload.toml" socket="$RUN/preload.sock"
  cat >"$config" <<CONF
version = 3
root = '$1/var/lib/containerd'
state = '$RUN/preload'
disabled_plugins = ['io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri']
[grpc]
  address = '$socket'
[ttrpc]
  address = '$socket.ttrpc'
CONF
  start_process preload "$KIT_BIN/containerd" --config "$config" --log-level warn
  wait_until 30 "containerd (its log: $STATE/log/preload.log)" test -S "$socket" || exit 1
  "$KIT_BIN/ctr" -a "$socket" -n k8s.io images import --no-unpack "$2" >>"$STATE/log/node-image.log" 2>&1 || die "could not preload the images"
  stop_process preload
}

# Loads the node image into the engine, and builds it first unless that was done before from the same parts.
node_image() { # NAME
  local key file tree="$STATE/tree" image="$1"
  build_programs
  key=$(program_key "$(cat "$KIT_DIR"/kind-node/* "$KIT_DIR/lib/kind-image.sh")" "$(realpath "$KIT_BIN/kubelet" "$KIT_BIN/containerd" "$KIT_BIN/coredns")")
  file="$KIT_CACHE/kind/node-$key.tar"
  if [ ! -e "$file" ]; then
    say "building the image of a kind node"
    need_tools mmdebstrap jq
    mkdir -p "$KIT_CACHE/kind"
    component_images "$STATE/components.tar"
    node_tree "$tree"
    preload "$tree" "$STATE/components.tar"
    import_tree "$tree" kit/node-tree
    printf 'FROM kit/node-tree\nENV container=docker\nSTOPSIGNAL SIGRTMIN+3\nENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]\n' |
      docker build -q -t "$image" - >/dev/null || die "could not build $image"
    docker save -o "$file.partial" "$image" && mv "$file.partial" "$file" || die "could not save $image"
    rm -rf "$tree" "$STATE/components.tar"
  fi
  docker image inspect "$image" >/dev/null 2>&1 || docker load -q -i "$file" >/dev/null || die "could not load $image"
}

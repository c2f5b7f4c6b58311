# The cluster's network namespace, and the pair of interfaces that connects it to the host.

# Takes the lowest free number for the cluster. Its addresses and ports derive from that number.
take_index() {
  local index
  mkdir -p "$KIT_CACHE/indexes"
  for index in $(seq 1 60); do
    if mkdir "$KIT_CACHE/indexes/$index" 2>/dev/null; then
      echo "$NAME" >"$KIT_CACHE/indexes/$index/name"
      echo "$index" >"$STATE/index"
      return 0
    fi
  done
  die "60 clusters already exist: stop one with KIT_NAME=<name> kit/cluster down"
}

release_index() {
  local index
  index=$(cat "$STATE/index" 2>/dev/null) || return 0
  if [ "$(cat "$KIT_CACHE/indexes/$index/name" 2>/dev/null)" = "$NAME" ]; then
    rm -rf "${KIT_CACHE:?}/indexes/$index"
  fi
}

network_up() {
  local host="sok${INDEX}h" inside="sok${INDEX}n"
  [ -n "$NETNS" ] || return 0
  ip netns list | grep -qw "$NETNS" || ip netns add "$NETNS"
  in_cluster ip link set lo up
  if ! ip link show "$host" >/dev/null 2>&1; then
    ip link add "$host" type veth peer name "$inside" netns "$NETNS"
  fi
  ip addr replace "10.213.$INDEX.1/30" dev "$host"
  ip link set "$host" up
  in_cluster ip addr replace "$ADDRESS/30" dev "$inside"
  in_cluster ip link set "$inside" up
  in_cluster ip route replace default via "10.213.$INDEX.1"
  in_cluster sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
}

network_down() {
  [ -n "$NETNS" ] || return 0
  ip link del "sok${INDEX}h" 2>/dev/null
  ip netns list 2>/dev/null | grep -qw "$NETNS" && ip netns del "$NETNS"
  return 0
}

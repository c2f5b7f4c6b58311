# The Docker engine of a kind cluster: this machine's, or one of the kit's own inside the cluster's network namespace. With the namespace
# goes everything that the engine changes in a network: its firewall rules, its bridges and its sysctls.

DOCKER_SOCKET="$RUN/docker.sock"

own_engine() { [ -e "$STATE/own-engine" ]; }

# Lets docker and kind talk to the cluster's engine.
use_engine() {
  own_engine || return 0
  export DOCKER_HOST="unix://$DOCKER_SOCKET"
}

# Whether this process lacks CAP_SYS_RESOURCE (bit 24), as in some sandboxes. kind runs nodes with all capabilities.
lacks_sys_resource() {
  local bounding
  bounding=$(sed -n 's/^CapBnd:\t//p' /proc/self/status)
  [ $(((0x$bounding >> 24) & 1)) = 0 ]
}

# A runc that asks for every capability but the one that is missing.
write_runc_wrapper() { # FILE
  cat >"$1" <<'WRAPPER'
#!/usr/bin/env bash
drop() { # FILTER FILE
  [ -f "$2" ] || return 0
  jq "$1 |= map_values(map(select(. != \"CAP_SYS_RESOURCE\")))" "$2" >"$2.less" && mv -f "$2.less" "$2"
}
previous=""
for argument in "$@"; do
  case "$previous" in
    --bundle | -b) drop .process.capabilities "$argument/config.json" ;;
    --process | -p) drop .capabilities "$argument" ;;
  esac
  previous="$argument"
done
exec runc "$@"
WRAPPER
  chmod +x "$1"
}

# Decides for an engine of the cluster's own where none runs.
choose_engine() {
  if own_engine || docker info >/dev/null 2>&1; then return 0; fi
  is_root || die "kind needs a running Docker"
  touch "$STATE/own-engine"
}

engine_up() {
  local runtime=()
  own_engine || return 0
  need_tools ip nsenter iptables runc dockerd docker jq umount
  network_up
  mkdir -p "$RUN" "$STATE/docker"
  if lacks_sys_resource; then
    write_runc_wrapper "$RUN/runc-less"
    runtime=(--add-runtime "less=$RUN/runc-less" --default-runtime less)
  fi
  start_process dockerd dockerd --data-root "$STATE/docker" --exec-root "$RUN/docker" -H "unix://$DOCKER_SOCKET" \
    -p "$RUN/docker.pid" "${runtime[@]}"
  wait_until 60 "Docker (its log: $STATE/log/dockerd.log)" docker info || exit 1
}

# Removes what the engine mounted, after its processes are gone.
engine_down() {
  local mount
  own_engine || return 0
  awk -v run="$RUN/" -v state="$STATE/" 'index($2, run) == 1 || index($2, state) == 1 {print $2}' /proc/mounts | sort -r |
    while read -r mount; do umount -l "$mount" 2>/dev/null; done
  rm -rf "$RUN"
}

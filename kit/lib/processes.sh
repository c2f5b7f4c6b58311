# Starts and stops the cluster's processes. Each is identified by its pid and start time, so no other process is ever killed.

started_at() { sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

in_cluster() { # command...: runs it in the cluster's network namespace, if there is one
  if [ -n "$NETNS" ]; then nsenter --net="/run/netns/$NETNS" -- "$@"; else "$@"; fi
}

alive() { # NAME
  local pid start
  read -r pid start 2>/dev/null <"$STATE/run/$1.pid" || return 1
  [ -n "$pid" ] && [ "$(started_at "$pid")" = "$start" ]
}

start_process() { # NAME command...: does nothing if the process already runs
  local name="$1" pid
  shift
  alive "$name" && return 0
  # With setsid, Ctrl-C at the terminal stops `make up` but not the cluster. 8 and 9 are the kit's lock files.
  if [ -n "$NETNS" ]; then
    setsid nsenter --net="/run/netns/$NETNS" -- "$@" >>"$STATE/log/$name.log" 2>&1 </dev/null 8>&- 9>&- &
  else
    setsid "$@" >>"$STATE/log/$name.log" 2>&1 </dev/null 8>&- 9>&- &
  fi
  pid=$!
  disown "$pid"
  printf '%s %s\n' "$pid" "$(started_at "$pid")" >"$STATE/run/$name.pid"
}

stop_process() { # NAME [SIGNAL [SECONDS]]: stops it, with SIGKILL after SECONDS
  local name="$1" signal="${2:-TERM}" seconds="${3:-10}" pid
  alive "$name" || { rm -f "$STATE/run/$name.pid"; return 0; }
  read -r pid _ <"$STATE/run/$name.pid"
  kill -s "$signal" "$pid" 2>/dev/null
  for _ in $(seq $((seconds * 10))); do
    alive "$name" || break
    sleep 0.1
  done
  alive "$name" && kill -s KILL "$pid" 2>/dev/null
  while alive "$name"; do sleep 0.1; done
  rm -f "$STATE/run/$name.pid"
}

# Prints every process of the cluster: the recorded ones, the ones in its network namespace, and all their descendants.
cluster_pids() {
  local pid file children all=""
  local todo=()
  for file in "$STATE"/run/*.pid; do
    [ -e "$file" ] || continue
    alive "$(basename "$file" .pid)" && todo+=("$(cut -d' ' -f1 "$file")")
  done
  if [ -n "$NETNS" ] && [ -e "/run/netns/$NETNS" ]; then
    for pid in $(ip netns pids "$NETNS" 2>/dev/null); do todo+=("$pid"); done
  fi
  while [ "${#todo[@]}" -gt 0 ]; do
    pid="${todo[0]}"
    todo=("${todo[@]:1}")
    case " $all " in *" $pid "*) continue ;; esac
    all="$all $pid"
    children=$(cat "/proc/$pid"/task/*/children 2>/dev/null)
    for child in $children; do todo+=("$child"); done
  done
  printf '%s\n' $all
}

kill_cluster() {
  local pids
  for _ in $(seq 50); do
    pids=$(cluster_pids)
    [ -n "$pids" ] || return 0
    # shellcheck disable=SC2086 # one word each
    kill -s KILL $pids 2>/dev/null
    sleep 0.1
  done
  die "could not kill some processes of the cluster: $pids"
}

# Shared by every part of the kit: paths, messages and waiting.

KIT_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
REPO_DIR="$(cd "$KIT_DIR/.." && pwd)"
KIT_CACHE="${SOKOVAN_KIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sokovan-kit}"
# KUBERNETES=1.34 takes that minor version instead of the newest. Its programs have a folder of their own.
KUBERNETES="${KUBERNETES:-}"
KIT_BIN="$KIT_CACHE/bin${KUBERNETES:+-$KUBERNETES}"

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
warn() { printf 'kit: %s\n' "$*" >&2; }
die() { printf 'kit: %s\n' "$*" >&2; exit 1; }
is_root() { [ "$(id -u)" = 0 ]; }

# wait_until SECONDS "what" command...: polls the command until it succeeds; fails loudly after SECONDS.
wait_until() {
  local seconds="$1" what="$2" end
  shift 2
  end=$(($(date +%s) + seconds))
  until "$@" >/dev/null 2>&1; do
    if [ "$(date +%s)" -ge "$end" ]; then
      warn "gave up after ${seconds} s waiting for $what"
      return 1
    fi
    sleep 0.2
  done
}

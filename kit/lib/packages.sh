# System packages that a real node needs. The kit installs them where it can, and otherwise prints the command.

missing_tools() {
  local tool
  for tool in "$@"; do command -v "$tool" >/dev/null || printf '%s ' "$tool"; done
}

install_command() { # package...
  if command -v apt-get >/dev/null; then echo "apt-get install -y $*"
  elif command -v dnf >/dev/null; then echo "dnf install -y $*"
  elif command -v zypper >/dev/null; then echo "zypper install -y $*"
  elif command -v pacman >/dev/null; then echo "pacman -S $*"
  elif command -v apk >/dev/null; then echo "apk add $*"
  else echo "(your package manager) install $*"; fi
}

package_of() {
  case "$1" in
    ip) echo iproute2 ;;
    nsenter | flock | setsid) echo util-linux ;;
    dockerd | docker) echo docker.io ;;
    *) echo "$1" ;;
  esac
}

need_tools() { # tool...: installs missing tools, or exits with the command that would
  local missing packages
  missing=$(missing_tools "$@")
  [ -n "$missing" ] || return 0
  packages=$(for tool in $missing; do package_of "$tool"; done | sort -u | tr '\n' ' ')
  if is_root && command -v apt-get >/dev/null; then
    say "installing system packages that the node needs: $packages"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages; } >"$KIT_CACHE/apt.log" 2>&1 ||
      { tail -n 20 "$KIT_CACHE/apt.log" >&2; die "could not install $packages; try: $(install_command $packages)"; }
  fi
  missing=$(missing_tools "$@")
  [ -z "$missing" ] || die "missing: $missing; install with: $(install_command $packages)"
}

# Builds the cluster's programs. Each is built again only when its sources, version or compiler change.

# A program's file name is a hash of everything it was built from, so a changed version or source is a new file.
program_key() { printf '%s' "$*" | sha256sum | cut -c1-16; }

go_version() { go env GOVERSION; }

# publish FILE NAME...: links a built file under its names, atomically, so an interrupted build leaves nothing behind.
publish() {
  local file="$1" name
  shift
  for name in "$@"; do
    ln -sfn "$file" "$KIT_BIN/.$name.new"
    mv -Tf "$KIT_BIN/.$name.new" "$KIT_BIN/$name"
  done
}

build_with() { # FILE what command...: runs the command with OUT set, unless FILE exists
  local file="$1" what="$2" started
  shift 2
  [ -x "$file" ] && return 0
  started=$(date +%s)
  say "building $what"
  mkdir -p "$(dirname "$file")"
  if ! OUT="$file.partial" "$@" >"$file.log" 2>&1; then
    tail -n 30 "$file.log" >&2
    die "building $what failed (full output: $file.log)"
  fi
  rm -f "$file.log"
  mv -f "$file.partial" "$file"
  say "built $what in $(($(date +%s) - started)) s"
}

KUBERNETES_NAMES="etcd kube-apiserver kube-controller-manager kube-scheduler kubeadm kubelet kube-proxy kubectl metrics-server"

# The newest patch version of each minor version, besides the one in programs/kubernetes/go.mod.
kubernetes_version() {
  case "$KUBERNETES" in
    "") sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\)$/\1/p' "$KIT_DIR/programs/kubernetes/go.mod" ;;
    1.33) echo v1.33.13 ;;
    1.34) echo v1.34.4 ;;
    1.35) echo v1.35.4 ;;
    *) die "unknown KUBERNETES: choose 1.33, 1.34, 1.35, or none for $(KUBERNETES="" kubernetes_version)" ;;
  esac
}

# Writes the program of another minor version: with the dependencies that this Kubernetes itself has, and without the metrics server.
other_kubernetes() { # VERSION DIRECTORY
  local version="$1" directory="$2" module staging
  module=$(cd "$KIT_DIR/programs/kubernetes" && go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  [ -n "$module" ] || return 1
  staging="v0.${version#v1.}"
  {
    sed -e 's/^module .*/module sokovan.dev\/kit\/kubernetes/' -e '/^replace (/,/^)/d' "$module/go.mod"
    echo "require k8s.io/kubernetes $version"
    echo "replace ("
    sed -n 's/^\t\(k8s.io\/[a-z-]*\) => .*/\1/p' "$module/go.mod" | while read -r name; do echo "$name => $name $staging"; done
    echo ")"
  } >"$directory/go.mod"
  cp "$module/go.sum" "$directory/go.sum"
  chmod u+w "$directory/go.sum"
  sed -e '/case "metrics-server":/,+1d' "$KIT_DIR/programs/kubernetes/main.go" >"$directory/main.go"
  if grep -q '^func NewKubeletCommand()' "$module/cmd/kubelet/app/server.go"; then # 1.33
    sed -i -e 's/NewKubeletCommand(.*))/NewKubeletCommand())/' -e '/^\t"context"$/d' "$directory/main.go"
  fi
}

compile_kubernetes() {
  local version minor flags directory="$KIT_DIR/programs/kubernetes"
  version=$(kubernetes_version)
  minor=$(printf '%s' "$version" | cut -d. -f2)
  flags="-s -w"
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags="$flags -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$minor"
    flags="$flags -X $package.gitCommit=kit -X $package.gitTreeState=clean -X $package.buildDate=1970-01-01T00:00:00Z"
  done
  if [ -n "$KUBERNETES" ]; then
    directory="$KIT_CACHE/kubernetes-$KUBERNETES"
    rm -rf "$directory" && mkdir -p "$directory" && other_kubernetes "$version" "$directory" || return 1
  fi
  (cd "$directory" && CGO_ENABLED=0 go build ${KUBERNETES:+-mod=mod} -trimpath -ldflags "$flags" -o "$OUT" .)
}

compile_local() { (cd "$KIT_DIR/programs/$1" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$OUT" .); }

compile_package() { # PACKAGE VERSION CGO TAGS
  local bin
  bin=$(mktemp -d "$KIT_CACHE/install.XXXXXX")
  GOBIN="$bin" CGO_ENABLED="$3" go install -trimpath -tags "$4" -ldflags "-s -w" "$1@$2" && mv -f "$bin"/* "$OUT"
  local result=$?
  rm -rf "$bin"
  return $result
}

# cargo-deny runs for a second, so it is built without optimization, which takes minutes.
build_cargo_deny() {
  local version=0.20.2
  mkdir -p "$KIT_BIN"
  build_with "$KIT_CACHE/programs/cargo-deny-$version" "cargo-deny $version" compile_crate cargo-deny "$version"
  publish "$KIT_CACHE/programs/cargo-deny-$version" cargo-deny
}

compile_crate() { # CRATE VERSION
  local root result
  root=$(mktemp -d "$KIT_CACHE/install.XXXXXX")
  (cd "$root" && CARGO_TARGET_DIR="$root/target" cargo install --quiet --debug --locked --root "$root" "$1@$2") && mv -f "$root/bin/$1" "$OUT"
  result=$?
  rm -rf "$root"
  return $result
}

build_programs() { # [NAME...]: the named programs of `versions` and programs/; without a name, all except those with a purpose of their own
  local wanted=" $* " name package version use tags cgo file
  command -v go >/dev/null || die "Go is needed to build the cluster's programs: https://go.dev/dl"
  mkdir -p "$KIT_BIN"
  exec 8>"$KIT_CACHE/build.lock"
  flock 8 # two kits started together build once
  if [ "$#" = 0 ] || [[ "$wanted" == *" kubernetes "* ]]; then
    file="$KIT_CACHE/programs/kubernetes-$(program_key "$(cat "$KIT_DIR"/programs/kubernetes/*)" "$(declare -f compile_kubernetes ${KUBERNETES:+other_kubernetes})" "$(kubernetes_version)" "$(go_version)")"
    build_with "$file" "Kubernetes and etcd (the largest: 4 to 8 minutes on 2 cores)" compile_kubernetes
    # shellcheck disable=SC2086 # one word each
    publish "$file" $KUBERNETES_NAMES
  fi
  for name in pause certs server crddocs; do
    { [ "$#" = 0 ] && [ "$name" != crddocs ]; } || [[ "$wanted" == *" $name "* ]] || continue
    file="$KIT_CACHE/programs/$name-$(program_key "$(cat "$KIT_DIR/programs/$name"/*)" "$(go_version)")"
    build_with "$file" "$name" compile_local "$name"
    publish "$file" "$name"
  done
  while read -r name package version use tags; do
    case "$name" in '' | '#'*) continue ;; esac
    cgo=0
    [ "$use" = lint ] && cgo=1
    { [ "$#" = 0 ] && [ -z "$use" ]; } || [[ "$wanted" == *" $name "* ]] || continue
    # shellcheck disable=SC2086 # no tags are no word
    file="$KIT_CACHE/programs/$name-$(program_key "$package" "$version" $tags "$(go_version)")"
    build_with "$file" "$name $version" compile_package "$package" "$version" "$cgo" "$tags"
    publish "$file" "$name"
  done <"$KIT_DIR/versions"
  flock -u 8
  exec 8>&-
}

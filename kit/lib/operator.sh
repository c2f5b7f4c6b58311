# Builds the operator as a static binary, puts it into an image and installs it by its chart.

TARGET="$(uname -m)-unknown-linux-gnu"
OPERATOR_BINARY="$REPO_DIR/target/$TARGET/release/sokovan"
GATE_BINARY="$REPO_DIR/target/$TARGET/gate/gate"
REPOSITORY=sokovan/sokovan
KUBECTL="$KIT_BIN/kubectl"
HELM="$KIT_BIN/helm"

build_operator() {
  say "building the operator"
  (cd "$REPO_DIR" && export RUSTFLAGS="-C target-feature=+crt-static" &&
    cargo build --locked --release --target "$TARGET" --bin sokovan &&
    cargo build --locked --profile gate --target "$TARGET" -p sokovan-gate) || die "the operator could not be built"
}

operator_tag() { cat "$OPERATOR_BINARY" "$GATE_BINARY" | sha256sum | cut -c1-16; }

# Makes a directory with the files of the operator's image, and prints its path.
operator_tree() {
  local tree
  tree=$(mktemp -d "$KIT_CACHE/image.XXXXXX")
  cp "$OPERATOR_BINARY" "$tree/sokovan"
  cp "$GATE_BINARY" "$tree/gate"
  echo "$tree"
}

# Pushes the operator to the kit's registry, unless the same content is already there.
push_operator() {
  local layer
  has_operator_image "$(operator_tag)" && return 0
  layer=$(operator_tree)
  tar -cf "$layer.tar" --owner=0 --group=0 --mtime=@0 --sort=name -C "$layer" .
  "$KIT_DIR/cluster" push "$REPOSITORY:$(operator_tag)" "$layer.tar" --entrypoint /sokovan --user 65532:65532 || exit 1
  rm -rf "$layer" "$layer.tar"
}

has_operator_image() { "$KIT_DIR/cluster" has "$REPOSITORY:$1"; }

# Loads the operator into the kind cluster. Without Rust, Docker builds it. Sets LOADED_TAG.
load_operator() {
  local layer
  if ! command -v cargo >/dev/null; then
    LOADED_TAG=dev
    "$KIT_DIR/kind" docker build -t "$REPOSITORY:dev" "$REPO_DIR" || die "the operator could not be built"
    "$KIT_DIR/kind" load "$REPOSITORY:dev" "" || exit 1
    return 0
  fi
  build_operator
  LOADED_TAG=$(operator_tag)
  layer=$(operator_tree)
  "$KIT_DIR/kind" load "$REPOSITORY:$LOADED_TAG" "$layer" 'ENTRYPOINT ["/sokovan"]' 'USER 65532:65532' || exit 1
  rm -rf "$layer"
}

# install_chart REPOSITORY TAG [helm options...]
install_chart() {
  local repository="$1" tag="$2"
  shift 2
  say "installing the chart"
  "$KUBECTL" apply --server-side --force-conflicts -f "$REPO_DIR/crds" >/dev/null || die "the CRDs could not be applied"
  "$HELM" upgrade --install sokovan "$REPO_DIR/charts/sokovan" --namespace sokovan-system --create-namespace \
    --set "image.repository=$repository,image.tag=$tag" --wait --timeout 5m "$@" >/dev/null || {
    "$KUBECTL" -n sokovan-system get pods -o wide >&2
    "$KUBECTL" -n sokovan-system describe pods >&2
    die "the chart could not be installed"
  }
  wait_until 60 "the API server to accept sessions" accepts_sessions || exit 1
}

# Admission policies know a new CRD only after some seconds. Until then the API server refuses its objects with 503.
accepts_sessions() {
  ! "$KUBECTL" create --dry-run=server -f "$REPO_DIR/samples/hello.yaml" 2>&1 | grep -q ServiceUnavailable
}

# Installs the chart without an operator: simulated nodes run no containers, so the operator is a process of this machine.
install_simulated() {
  install_chart "$REPOSITORY" none --set replicas=0,idle.traffic=true \
    --set-json 'firstTenant.scalingGroupSpec={"pod":{"tolerations":[{"key":"kwok.x-k8s.io/node","operator":"Exists"}]}}' \
    --set-json "operatorUsers=[\"$("$KUBECTL" auth whoami -o jsonpath='{.status.userInfo.username}')\"]"
}

# The operators under test use a second API server, so its restart affects only them.
second_apiserver() {
  SOKOVAN_STRUCK_KUBECONFIG=$("$KIT_DIR/cluster" start kube-apiserver-2) || exit 1
  export SOKOVAN_STRUCK_KUBECONFIG
}

must() { "$@" || die "failed: $*"; }

# with_cluster NAME REAL NODES command...: runs the command with a cluster of its own, removes the cluster, and exits.
# Call it in a subshell.
with_cluster() {
  export KIT_NAME="$1" KIT_REAL="$2"
  local nodes="$3"
  shift 3
  "$KIT_DIR/cluster" down
  trap '"$KIT_DIR/cluster" down' EXIT
  "$KIT_DIR/cluster" up "$nodes" || exit 1
  KUBECONFIG=$("$KIT_DIR/cluster" kubeconfig)
  export KUBECONFIG SOKOVAN_TEST_KUBECONFIG="$KUBECONFIG"
  "$@"
  exit
}

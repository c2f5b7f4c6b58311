# Builds images for the cluster's registry from plain files, without Docker.

crane() { in_cluster "$KIT_BIN/crane" "$@" --insecure; }

has_image() { crane digest "127.0.0.1:$PORT_REGISTRY/$1" >/dev/null 2>&1; }

push_image() { # NAME:TAG LAYER.tar [crane mutate options...]
  local image="127.0.0.1:$PORT_REGISTRY/$1" layer="$2"
  shift 2
  crane append --oci-empty-base --platform "linux/$(image_arch)" -f "$layer" -t "$image" >/dev/null 2>>"$STATE/log/images.log" &&
    crane mutate "$image" -t "$image" --set-platform "linux/$(image_arch)" "$@" >/dev/null 2>>"$STATE/log/images.log" ||
    die "could not push $image (see $STATE/log/images.log)"
}

image_arch() { case "$(uname -m)" in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) uname -m ;; esac; }

# Prints the path of a static busybox: the installed one if it is static, else the one of Debian's package.
find_busybox() {
  local file="$KIT_CACHE/busybox/busybox" dir
  if [ ! -x "$file" ]; then
    mkdir -p "$KIT_CACHE/busybox"
    if command -v busybox >/dev/null && ldd "$(command -v busybox)" 2>&1 | grep -q 'not a dynamic'; then
      cp "$(command -v busybox)" "$file"
    elif command -v apt-get >/dev/null; then
      dir=$(mktemp -d "$KIT_CACHE/busybox/deb.XXXXXX")
      { is_root && apt-get update -qq; (cd "$dir" && apt-get download -qq busybox-static); } >"$KIT_CACHE/apt.log" 2>&1
      dpkg-deb -x "$dir"/busybox-static_*.deb "$dir/x" && cp "$dir/x/bin/busybox" "$file"
      rm -rf "$dir"
    fi
    [ -x "$file" ] || die "the samples' image needs a static busybox; install it with: $(install_command busybox-static)"
  fi
  echo "$file"
}

program() { # NAME DESTINATION: copies one of the kit's programs
  mkdir -p "$(dirname "$2")" && cp "$(realpath "$KIT_BIN/$1")" "$2" || die "the program $1 is not built"
}

# Pushes an image that holds one of the kit's programs and runs it.
program_image() { # NAME:TAG PROGRAM
  local root="$STATE/image-$2"
  has_image "$1" && return 0
  rm -rf "$root"
  program "$2" "$root/$2"
  tar -cf "$root.tar" --owner=0 --group=0 -C "$root" .
  push_image "$1" "$root.tar" --entrypoint "/$2" --user 65535:65535
}

busybox_tree() { # BUSYBOX DIRECTORY
  local applet
  rm -rf "$2" && mkdir -p "$2/bin" "$2/tmp" "$2/etc" "$2/root"
  chmod 1777 "$2/tmp"
  cp "$1" "$2/bin/busybox"
  for applet in $("$1" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$2/bin/$applet"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/false\n' >"$2/etc/passwd"
}

base_images() {
  local root busybox
  program_image pause:1 pause
  program_image library/server:1 server
  if ! has_image library/busybox:1; then
    busybox=$(find_busybox)
    root="$STATE/image-busybox"
    busybox_tree "$busybox" "$root"
    tar -cf "$STATE/busybox.tar" --owner=0 --group=0 -C "$root" .
    push_image library/busybox:1 "$STATE/busybox.tar" --cmd sh --env PATH=/bin
  fi
}

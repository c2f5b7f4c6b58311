# Builds the same image as `make up`: two static binaries and nothing else.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN TARGET="$(uname -m)-unknown-linux-gnu" && export RUSTFLAGS="-C target-feature=+crt-static" && \
    cargo build --locked --release --target "$TARGET" --bin sokovan && \
    cargo build --locked --profile gate --target "$TARGET" -p sokovan-gate && \
    mkdir /out && cp "target/$TARGET/release/sokovan" "target/$TARGET/gate/gate" /out/

FROM scratch
COPY --from=build /out/ /
USER 65532:65532
ENTRYPOINT ["/sokovan"]

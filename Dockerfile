# The image is the static binary and nothing else.
#
#   docker build -t hostmount .                          with a registry
#   docker buildx build --platform linux/arm64 .         for the other architecture, cross-compiled
#   image/build                                          without a registry (buildah), and the archive to load on nodes
#
# The same commit gives the same bytes, if the image of the build stage is the same and the builder takes the times of
# files from outside: `buildah build --timestamp`, or SOURCE_DATE_EPOCH and rewrite-timestamp=true with BuildKit.
ARG BUILD_IMAGE=docker.io/library/rust:1.95.0-bookworm

FROM --platform=$BUILDPLATFORM ${BUILD_IMAGE} AS build
# The toolchain of the image is the pinned one; without this rustup would look for another.
ENV RUSTUP_TOOLCHAIN=1.95.0
ARG TARGETARCH
# Crates may be given by the builder as a volume; then nothing is asked of the network.
ARG CARGO_NET_OFFLINE=false
WORKDIR /src
COPY . .
RUN set -eu; \
    case "${TARGETARCH:-$(uname -m)}" in \
      amd64 | x86_64) machine=x86_64 ;; \
      arm64 | aarch64) machine=aarch64 ;; \
      *) echo "no target for the architecture ${TARGETARCH}" >&2; exit 1 ;; \
    esac; \
    target=$machine-unknown-linux-gnu; \
    if [ "$machine" != "$(uname -m)" ]; then \
      package=$(echo "$machine" | tr _ -); \
      apt-get update -qq; \
      apt-get install -y -qq --no-install-recommends "gcc-$package-linux-gnu" "libc6-dev-$TARGETARCH-cross"; \
      rustup target add "$target"; \
      export "CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_LINKER=$machine-linux-gnu-gcc" \
             "CC_$(echo "$target" | tr - _)=$machine-linux-gnu-gcc"; \
    fi; \
    cargo build --release --locked --target "$target"; \
    install -D "target/$target/release/hostmount" /out/hostmount; \
    rm -rf target

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hostmount" \
      org.opencontainers.image.description="Kubernetes CSI node plugin: node directories in pods, with exactly the mount propagation they ask for" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/hostmount /hostmount
# No USER: mounting in the node's namespace is root's, and the DaemonSet leaves root three capabilities. Commands that
# need none of it (validate, schema, version) run as anybody: docker run --user 65534 ...
ENTRYPOINT ["/hostmount"]
CMD ["serve"]

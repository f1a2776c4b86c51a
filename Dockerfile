# The image is the static binary and nothing else.
#   docker build -t hostmount .
# BuildKit builds for other platforms with --platform; the binary is linked for whatever the build stage runs on.
FROM docker.io/library/rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# The toolchain of the image is the pinned one; without this rustup would look for updates of it.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN cargo build --release --locked \
 && install -D "target/$(rustc -vV | sed -n 's/^host: //p')/release/hostmount" /out/hostmount

FROM scratch
LABEL org.opencontainers.image.title="hostmount" \
      org.opencontainers.image.description="Kubernetes CSI node plugin: node directories with exact mount propagation" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/hostmount /hostmount
# Root: CAP_SYS_ADMIN in the node's mount namespace is the job. The DaemonSet drops every other capability.
ENTRYPOINT ["/hostmount"]
CMD ["serve"]

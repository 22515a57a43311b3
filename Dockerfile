# Builds with the classic builder and with BuildKit; nothing but the program and its start script
# goes into the last image. The Rust image brings all that the build needs: a toolchain, gcc, libc.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" --tag syncmesh .

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# The dependencies alone, in a layer of their own: they change seldom and take most of the time.
# Cargo wants every source that the manifest names to exist, the benches too.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src benches \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && awk -F'"' '/^\[/ { bench = ($0 == "[[bench]]") } bench && /^name/ { print "benches/" $2 ".rs" }' Cargo.toml \
       | xargs -r touch \
    && cargo build --release --locked --bin syncmesh \
    && rm -r src

# Cargo compares times of modification, and the sources may be older than the layer above.
COPY src src
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --bin syncmesh

FROM debian:bookworm-slim

# A volume that is mounted over one of the directories for the first time takes its owner and mode.
RUN groupadd --gid 10001 syncmesh \
    && useradd --uid 10001 --gid syncmesh --no-create-home --home-dir /var/lib/syncmesh --shell /usr/sbin/nologin syncmesh \
    && install --directory --owner=syncmesh --group=syncmesh --mode=0700 /var/lib/syncmesh /bundle

COPY --from=build /build/target/release/syncmesh /usr/local/bin/syncmesh
COPY bootstrap/start /usr/local/bin/syncmesh-bootstrap

USER 10001:10001
WORKDIR /var/lib/syncmesh

# Inside a container loopback is nobody's address: who reaches the API is decided by what is published.
ENV API_ADDR=0.0.0.0:8080 \
    DATA_DIR=/var/lib/syncmesh

# 4001: the mesh. 8080: HTTP API, dashboard, metrics.
EXPOSE 4001 8080

# Whether it can serve its roles now. `syncmesh health` without `--ready` asks only whether the process lives.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["syncmesh", "health", "--ready"]

# Last, so that a build of another revision has all layers above in common.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="syncmesh" \
      org.opencontainers.image.description="A peer-to-peer node that gives applications distributed locks, queues and a coherent cache" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

# SIGTERM, Docker's default, drains the node; it is handled by the program, which needs no init.
ENTRYPOINT ["syncmesh"]
CMD ["node"]

# The image that takes edgeHub's place: one binary, the C library that it names, an empty storage folder.
#
#   docker build -t sphere-gateway:0.1.0 .
#
# BUILDER: an image with Rust, gcc and binutils; its glibc must not be newer than needed (bookworm: 2.36).
# RUNTIME: what the files are put on. `scratch` is enough: no shell, no package manager, nothing to update but this.
# ROOTFS: where the files come from; `build` makes them. packaging/image names an image with files that were built before.
# Needs BuildKit only to leave out `build` where ROOTFS names another image.
ARG BUILDER=rust:1-bookworm
ARG RUNTIME=scratch
ARG ROOTFS=build

FROM ${BUILDER} AS build
WORKDIR /src
# Dependencies in a layer of their own: they are built anew only when a manifest changes.
COPY Cargo.toml Cargo.lock ./
COPY hub-double/Cargo.toml hub-double/
RUN mkdir -p src hub-double/src tests/it \
    && echo 'fn main() {}' | tee src/main.rs hub-double/src/main.rs tests/it/main.rs >/dev/null \
    && touch src/lib.rs hub-double/src/lib.rs \
    && cargo build --locked --profile dist --bin sphere-gateway
COPY src src
COPY packaging/rootfs packaging/rootfs
# The stand-ins must be older than what they stood for.
RUN touch src/main.rs src/lib.rs \
    && cargo build --locked --profile dist --bin sphere-gateway \
    && packaging/rootfs target/dist/sphere-gateway /rootfs

FROM ${ROOTFS} AS rootfs

FROM ${RUNTIME}
# edgeHub's user. Another one: `--build-arg USER_ID=..`, or `User` in createOptions.
ARG USER_ID=13623
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sphere-gateway" \
      org.opencontainers.image.description="Transparent IoT Edge gateway: a durable drop-in for edgeHub" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=rootfs /rootfs/ /
# A named volume that is mounted here takes this owner.
COPY --from=rootfs --chown=${USER_ID}:${USER_ID} /rootfs/iotedge/ /iotedge/
# One arena of the allocator instead of one a thread: less memory that nobody uses.
ENV MALLOC_ARENA_MAX=2 \
    StorageFolder=/iotedge/storage
USER ${USER_ID}:${USER_ID}
EXPOSE 8883/tcp 9600/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 CMD ["/sphere-gateway", "health"]
ENTRYPOINT ["/sphere-gateway"]
CMD ["run"]

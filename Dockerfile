# The image of support-access, for replicas, sidecars and commands. README.md explains how to build
# and run it. tests/image parses this file and runs its commands without a container engine.

# The Debian release of the builder must not be newer than that of the image, or the binary could
# need a newer C library. tests/image verifies this and rust-version of Cargo.toml.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /build
# Link-time optimization, and no debug information. Function names remain, for the backtraces of
# panics.
ENV CARGO_PROFILE_RELEASE_LTO=thin \
    CARGO_PROFILE_RELEASE_DEBUG=none \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo
# .dockerignore admits only the files that the build needs.
COPY . .
# The builder caches downloads and the target directory, so that a change does not recompile the
# dependencies. Cargo compares modification times, and the cached output of another checkout may be
# newer than this checkout. So all source files are touched.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    find build.rs migrations proto src -type f -exec touch {} + \
    && cargo build --release --locked --bin support-access \
    && cp target/release/support-access /usr/local/bin/support-access \
    && mkdir /var/lib/support-access

# Contains the C library, libgcc_s, CA certificates and the user nonroot, but no shell and no
# package manager. Distroless images of Debian 12 receive no fixes from a year after the release of
# Debian 13.
FROM gcr.io/distroless/cc-debian13:nonroot
LABEL org.opencontainers.image.title="support-access" \
      org.opencontainers.image.description="Customers decide when the vendor's support staff may enter their tenant" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE /usr/share/doc/support-access/copyright
COPY --from=build /usr/local/bin/support-access /usr/local/bin/support-access
# The mount point of the volume for SQLite. A new volume inherits this owner. The service writes to
# no other directory.
COPY --from=build --chown=65532:65532 /var/lib/support-access /var/lib/support-access
WORKDIR /var/lib/support-access
# Numeric, so that Kubernetes can verify runAsNonRoot.
USER 65532:65532
EXPOSE 50051 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/support-access", "health", "check"]
ENTRYPOINT ["/usr/local/bin/support-access"]
CMD ["serve"]

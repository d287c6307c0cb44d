# The image of support-access: servers and sidecars, and the commands that ask them. README.md says how to build and run it;
# tests/image takes from here what it runs, and proves it without a container engine.

# The builder's Debian is no newer than the image's, so that the binary asks for nothing that the image's C library has not.
# tests/image holds this, and rust-version in Cargo.toml, to it.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /build
# Without debug information; the names of functions stay, for the log of a panic.
ENV CARGO_PROFILE_RELEASE_DEBUG=none \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo
# .dockerignore lets in what the build needs, and nothing else.
COPY . .
# What cargo has downloaded and compiled stays with the builder: after a change of ours, no dependency is compiled again. Cargo
# goes by the times of files, and those of a checkout may be older than what another one has left there: so all of ours are new.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    find build.rs migrations proto src -type f -exec touch {} + \
    && cargo build --release --locked --bin support-access \
    && cp target/release/support-access /usr/local/bin/support-access \
    && mkdir /var/lib/support-access

# The C library, libgcc_s, certificates of authorities, and the user nonroot: no shell, no package manager. Of Debian 13, since
# the images of Debian 12 are no longer mended a year after Debian 13 came out.
FROM gcr.io/distroless/cc-debian13:nonroot
LABEL org.opencontainers.image.title="support-access" \
      org.opencontainers.image.description="Customers decide when the vendor's support staff may enter their tenant" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE /usr/share/doc/support-access/copyright
COPY --from=build /usr/local/bin/support-access /usr/local/bin/support-access
# Where a volume belongs, if the database is SQLite: a new one takes its owner from here. Nothing else is ever written to.
COPY --from=build --chown=65532:65532 /var/lib/support-access /var/lib/support-access
WORKDIR /var/lib/support-access
# As a number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 50051 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/support-access", "health", "check"]
ENTRYPOINT ["/usr/local/bin/support-access"]
CMD ["serve"]

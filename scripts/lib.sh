# shellcheck shell=bash
# Functions of the other scripts: steps with durations, and the installation of missing tools.

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

# step NAME COMMAND…: runs the command with a heading, and exits if the command fails.
step() {
  local name=$1 began=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  "$@" || {
    printf '== %s: FAILED after %d s\n' "$name" $((SECONDS - began))
    exit 1
  }
  printf '== %s: ok, %d s\n' "$name" $((SECONDS - began))
}

# apt_install REASON PACKAGE…
apt_install() {
  local reason=$1 as_root=()
  shift
  command -v apt-get >/dev/null ||
    fail "missing: $reason. Without apt-get, install the equivalent of Debian's packages: $*"
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      fail "missing: $reason. Without sudo, run as root: apt-get install $*"
    as_root=(sudo)
  fi
  printf '\n-- Installing %s with apt-get: %s\n' "$*" "$reason"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update --quiet
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --quiet --no-install-recommends "$@"
}

# Installs the Python and Rust tools of scripts/requirements.txt in .venv.
need_tools() {
  # Debian's python3 cannot create virtual environments without python3-venv.
  python3 -c 'import ensurepip, venv' 2>/dev/null ||
    apt_install 'Python, for tests and tools' python3 python3-venv
  if ! cmp --silent scripts/requirements.txt .venv/installed.txt; then
    printf '\n-- Installing scripts/requirements.txt with pip into .venv: tests and tools\n'
    python3 -m venv --clear .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes \
      --requirement scripts/requirements.txt
    cp scripts/requirements.txt .venv/installed.txt
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}

# need_environment NAME REASON: installs scripts/requirements-NAME.txt in .venv/NAME. The .in file
# states why the packages are in a separate environment.
need_environment() {
  local directory=.venv/$1 requirements=scripts/requirements-$1.txt
  cmp --silent "$requirements" "$directory/installed.txt" && return
  printf '\n-- Installing %s with pip into %s: %s\n' "$requirements" "$directory" "$2"
  python3 -m venv --clear "$directory"
  "$directory/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
    --requirement "$requirements"
  cp "$requirements" "$directory/installed.txt"
}

need_cargo() {
  command -v cargo >/dev/null || fail 'missing: Rust. Install it with rustup'
}

# A C compiler and linker for crates with C or assembly (SQLite, AWS-LC), and for rustc.
need_compiler() {
  command -v cc >/dev/null || apt_install 'a C compiler, for SQLite' gcc libc6-dev
}

need_rust_components() {
  local component
  for component in rustfmt clippy; do
    "cargo-${component/rustfmt/fmt}" --version >/dev/null 2>&1 && continue
    command -v rustup >/dev/null ||
      fail "missing: $component. Install it from the same source as Rust"
    printf '\n-- Installing %s with rustup: a check uses it\n' "$component"
    rustup component add "$component"
  done
}

# A test sets the clock of one process.
need_faketime() {
  compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null ||
    apt_install 'libfaketime, to set the clock of a process' libfaketime
}

# Counts the instructions of a check.
need_valgrind() {
  command -v valgrind >/dev/null || apt_install 'Valgrind, to count instructions' valgrind
}

# The README creates certificates with openssl, and a test runs the README.
need_openssl() {
  command -v openssl >/dev/null ||
    apt_install 'openssl, to create certificates as in the README' openssl
}

# Tests start private clusters. They do not use the cluster that Debian's package starts.
need_postgres() {
  if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null &&
    ! command -v initdb >/dev/null; then
    apt_install 'PostgreSQL, to test this database' postgresql
  fi
  # PostgreSQL does not run as root.
  if ((EUID == 0)) && ! id postgres >/dev/null 2>&1; then
    fail 'missing: the user postgres, which runs PostgreSQL for tests as root. Create this user'
  fi
}

# need_pgbouncer RELEASE PACKAGE…: unpacks PgBouncer of a release of Debian in .venv/pgbouncer, with
# its C library, so that the program runs on every release. A package would start a service.
need_pgbouncer() {
  local release=$1 directory=.venv/pgbouncer/$1 work mirror loader libraries
  shift
  [[ -x $directory/run ]] && return
  printf '\n-- Unpacking PgBouncer of Debian %s in %s: tests connect through a pooler\n' \
    "$release" "$directory"
  rm --recursive --force "$directory"
  mkdir --parents "$directory"
  work=$(mktemp --directory)
  mkdir --parents "$work"/{lists,archives}/partial
  touch "$work/status"
  # shellcheck disable=SC2016 # apt-get replaces the variable
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
    "Codename: $(. /etc/os-release && printf '%s' "$VERSION_CODENAME")" | head --lines 1)
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
    "$mirror" "$release" > "$work/sources.list"
  cat > "$work/apt.conf" << EOF
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
Acquire::Languages "none";
APT::Sandbox::User "";
EOF
  (
    export APT_CONFIG=$work/apt.conf
    cd "$work" || exit
    apt-get update --quiet=2
    apt-get download --quiet=2 pgbouncer libc6 libpam0g libsystemd0 libaudit1 libcap-ng0 libcap2 \
      libgcrypt20 libgpg-error0 liblz4-1 liblzma5 libzstd1 "$@"
  )
  find "$work" -maxdepth 1 -name '*.deb' -exec dpkg-deb --extract {} "$directory" \;
  rm --recursive --force "$work"
  directory=$(realpath "$directory")
  loader=$(find "$directory" -name 'ld-linux*.so.*' -path '*-linux-gnu/*' -print -quit)
  libraries=$(find "$directory" -type d -name '*-linux-gnu' -printf '%p:')
  printf '#!/bin/sh\nexec %q --library-path %q %q "$@"\n' \
    "$loader" "${libraries%:}" "$directory/usr/sbin/pgbouncer" > "$directory/run"
  chmod +x "$directory/run"
}

# PgBouncer 1.18 and 1.24.
need_pgbouncers() {
  command -v apt-get >/dev/null || fail 'missing: apt-get, to download PgBouncer of two releases'
  need_pgbouncer bookworm libevent-2.1-7 libssl3 libc-ares2
  need_pgbouncer trixie libevent-2.1-7t64 libssl3t64 libcares2 zlib1g
}

# Tests check the alerts with promtool, and start a Prometheus. The server that Debian's package
# starts is stopped.
need_prometheus() {
  command -v prometheus >/dev/null && command -v promtool >/dev/null && return
  apt_install 'Prometheus, to test the alerts and the dashboard' prometheus
  local as_root=()
  ((EUID == 0)) || as_root=(sudo)
  if [[ -d /run/systemd/system ]]; then
    "${as_root[@]}" systemctl disable --quiet --now prometheus
  else
    "${as_root[@]}" service prometheus stop
  fi
}

# at_least WANTED FOUND: whether the version FOUND is WANTED or a later one. Empty: not installed.
at_least() {
  printf '%s\n' "$1" "$2" | sort --version-sort --check=quiet
}

# need_toolchain NAME REASON PROGRAM…: need_environment, with links to the programs in .venv/bin.
need_toolchain() {
  local name=$1 reason=$2 program
  shift 2
  need_environment "$name" "$reason"
  for program; do
    ln --symbolic --force "../$name/bin/$program" ".venv/bin/$program"
  done
}

# tests/stubs compiles and runs generated clients with Go, Node.js and Java. The machine's own
# version suffices if the pinned libraries support that version. A toolchain in .venv stays in use,
# so that a change of the requirements takes effect.
need_go() {
  [[ ! -d .venv/go ]] && at_least go1.26 "$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null)" &&
    return
  need_toolchain go 'Go 1.26 or later, to compile generated clients' go
}

need_node() {
  [[ ! -d .venv/node ]] && command -v npm >/dev/null &&
    at_least v20 "$(node --version 2>/dev/null)" && return
  need_toolchain node 'Node.js 20 or later, to compile generated clients' node npm
}

# Debian 12 has Java 17, and Debian 13 has Java 21.
need_java() {
  command -v mvn >/dev/null && at_least 'javac 17' "$(javac -version 2>/dev/null)" && return
  apt_install 'Java 17 or later and Maven, to compile generated clients' \
    default-jdk-headless maven
}

# need_keycloak VERSION: an identity provider. Unpacked once in the user's cache directory.
need_keycloak() {
  local version=$1 cache=${XDG_CACHE_HOME:-$HOME/.cache}/support-access
  [[ -d $cache/keycloak-$version ]] && return
  printf '\n-- Downloading Keycloak %s with Maven into %s: tests use its tokens\n' \
    "$version" "$cache"
  local work artifact=org.keycloak:keycloak-quarkus-dist:$version:zip
  mkdir --parents "$cache"
  work=$(mktemp --directory --tmpdir="$cache")
  (
    cd "$work" || exit
    mvn --batch-mode --no-transfer-progress --strict-checksums --quiet \
      dependency:get "-Dartifact=$artifact" -Dtransitive=false
    mvn --batch-mode --no-transfer-progress --quiet \
      dependency:copy "-Dartifact=$artifact" -DoutputDirectory="$work"
    python3 -m zipfile --extract "$work/keycloak-quarkus-dist-$version.zip" "$work"
    chmod +x "$work/keycloak-$version/bin/"*.sh
  )
  mv "$work/keycloak-$version" "$cache"
  rm --recursive --force "$work"
}

# A gateway that asks at the web listener. Debian's package starts a server, which is stopped.
need_nginx() {
  command -v nginx >/dev/null || [[ -x /usr/sbin/nginx ]] && return
  apt_install 'nginx, to test forward-auth' nginx-light
  local as_root=()
  ((EUID == 0)) || as_root=(sudo)
  if [[ -d /run/systemd/system ]]; then
    "${as_root[@]}" systemctl disable --quiet --now nginx
  else
    "${as_root[@]}" service nginx stop
  fi
}

# need_caddy VERSION: built once in the user's cache directory.
need_caddy() {
  local version=$1 cache=${XDG_CACHE_HOME:-$HOME/.cache}/support-access
  [[ -x $cache/caddy-$version/caddy ]] && return
  printf '\n-- Building Caddy %s with Go in %s: tests ask as its forward_auth\n' "$version" "$cache"
  GOBIN=$cache/caddy-$version go install "github.com/caddyserver/caddy/v2/cmd/caddy@v$version"
}

# Every tool of scripts/test.
need_everything() {
  need_cargo
  need_rust_components
  need_compiler
  need_postgres
  need_faketime
  need_openssl
  need_valgrind
  need_prometheus
  need_nginx
  need_java
  need_keycloak 26.6.4
  need_tools
  need_pgbouncers
  need_go
  need_caddy 2.11.9
  need_node
  need_environment checkov 'to check the chart'
  need_environment models 'to check the custom resources of the chart'
  need_environment web 'to call the JSON API'
}

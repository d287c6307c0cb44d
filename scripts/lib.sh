# shellcheck shell=bash
# Shared by the scripts beside it: headings with times, and the installation of what is missing.

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

# step NAME COMMAND…: runs the command under a heading, and ends the script if it fails.
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

# apt_install WHY PACKAGE…
apt_install() {
  local why=$1 as_root=()
  shift
  command -v apt-get >/dev/null ||
    fail "missing: $why. This is not Debian: install what Debian calls $*"
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      fail "missing: $why. There is no sudo: as root, run: apt-get install $*"
    as_root=(sudo)
  fi
  printf '\n-- Installing %s with apt-get: %s\n' "$*" "$why"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update --quiet
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --quiet --no-install-recommends "$@"
}

# Python and Rust tools, at the versions and hashes of scripts/requirements.txt, in .venv.
need_tools() {
  # Debian's python3 comes without what makes a virtual environment.
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

# need_apart NAME WHY: what scripts/requirements-NAME.txt says, in an environment of its own, since it would change the others.
need_apart() {
  local place=.venv/$1 listed=scripts/requirements-$1.txt
  cmp --silent "$listed" "$place/installed.txt" && return
  printf '\n-- Installing %s with pip into %s: %s\n' "$listed" "$place" "$2"
  python3 -m venv --clear "$place"
  "$place/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "$listed"
  cp "$listed" "$place/installed.txt"
}

need_cargo() {
  command -v cargo >/dev/null || fail 'Rust is missing: install it with rustup'
}

# What the crates that bring C or assembly (SQLite, AWS-LC) and rustc itself compile and link with.
need_compiler() {
  command -v cc >/dev/null || apt_install 'a C compiler, for SQLite' gcc libc6-dev
}

need_rust_components() {
  local component
  for component in rustfmt clippy; do
    "cargo-${component/rustfmt/fmt}" --version >/dev/null 2>&1 && continue
    command -v rustup >/dev/null || fail "$component is missing: install it as you installed Rust"
    printf '\n-- Installing %s with rustup: a check needs it\n' "$component"
    rustup component add "$component"
  done
}

# So that a test can set the clock of one process.
need_faketime() {
  compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null ||
    apt_install 'libfaketime, to set the clock of a process' libfaketime
}

# The README makes certificates with it, and a test plays the README.
need_openssl() {
  command -v openssl >/dev/null || apt_install 'openssl, to make certificates as the README does' openssl
}

# Tests start private clusters of their own. (Debian's package starts one too, which they leave alone.)
need_postgres() {
  if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! command -v initdb >/dev/null; then
    apt_install 'PostgreSQL, to test that back end' postgresql
  fi
  # PostgreSQL refuses to run as root.
  if ((EUID == 0)) && ! id postgres >/dev/null 2>&1; then
    fail 'as root, the tests run PostgreSQL as the user postgres, which does not exist: create it'
  fi
}

# promtool reads the alerts, and a Prometheus that the tests start fires them. Debian's package starts one, too: nobody wants that here.
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

# need_toolchain NAME REASON: need_apart, and adds the programs to PATH. Those of .venv stay first,
# because both directories contain python3.
need_toolchain() {
  need_apart "$1" "$2"
  export PATH="$PWD/.venv/bin:$PWD/.venv/$1/bin:$PATH"
}

# tests/stubs compiles generated clients with Go, Java and Node.js. An installed version suffices if
# the pinned libraries support it. Run need_tools first, because need_tools recreates .venv.
need_go() {
  at_least go1.26 "$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null)" && return
  need_toolchain go 'Go 1.26 or later, to compile generated clients'
}

need_node() {
  command -v npm >/dev/null && at_least v20 "$(node --version 2>/dev/null)" && return
  need_toolchain node 'Node.js 20 or later and npm, to compile generated clients'
}

# Debian 12 has Java 17, and Debian 13 has Java 21.
need_java() {
  command -v mvn >/dev/null && at_least 'javac 17' "$(javac -version 2>/dev/null)" && return
  apt_install 'Java 17 or later and Maven, to compile generated clients' \
    default-jdk-headless maven
}

"""The Dockerfile agrees with the sources that it builds and with the chart that runs the image."""

import os
import re
import shutil
import subprocess
import tomllib

import yaml
from dockerfile import BUILD, IMAGE, ROOT, copy_context

PACKAGE = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
CHART = ROOT / "helm/support-access"


def test_build_context_is_complete_and_minimal():
    # A fixed directory, because a build in each temporary directory would fill the target.
    target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
    context = target / "image-context"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir(parents=True)
    names = copy_context(context)
    build = re.search(r"\bcargo build --release (--locked --bin support-access)", BUILD.one("RUN"))
    # A check reports missing files as a build does, and is faster.
    environment = os.environ | {"CARGO_TARGET_DIR": str(target), "CARGO_INCREMENTAL": "0"}
    done = subprocess.run(["cargo", "check", "--offline", *build[1].split()], cwd=context,
                          env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    excluded = {path.name for path in ROOT.iterdir()} - set(names)
    assert {"docs", "helm", "scripts"} <= excluded
    assert not {".git", "target", ".venv"} & set(names)


def test_sources_are_newer_than_the_cached_target_directory(tmp_path):
    """Cargo rebuilds files that are newer than their output. The builder keeps the output."""
    names = copy_context(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in files:
        os.utime(path, (0, 0))
    run = BUILD.one("RUN")
    assert "--mount=type=cache,target=/build/target" in run
    before_build, *rest = re.sub(r"--mount=\S+", "", run).split("&& cargo build")
    assert rest
    subprocess.run(["sh", "-ec", before_build], cwd=tmp_path, check=True)
    # Cargo always reads its own files. The binary contains neither the license, the benchmarks nor
    # the members of the workspace.
    not_compiled = {"Cargo.toml", "Cargo.lock", "LICENSE", "benches",
                    "tests/simulation", "tests/tidy"}
    assert not_compiled < set(names)
    unchanged = [path for path in files if path.stat().st_mtime == 0]
    old = {name for name in names
           if any(path.is_relative_to(tmp_path / name) for path in unchanged)}
    assert old == not_compiled


def test_rust_and_debian_versions_of_the_stages_are_compatible():
    version, release = re.fullmatch(r"rust:(\d+\.\d+)\.\d+-slim-(\w+)", BUILD.base).groups()
    required = PACKAGE["rust-version"].split(".")
    assert tuple(map(int, version.split("."))) >= tuple(map(int, required))
    image_debian = int(re.search(r"-debian(\d+):", IMAGE.base)[1])
    assert {"bookworm": 12, "trixie": 13}[release] <= image_debian, \
        "the binary must not need a newer C library than the image has"


def test_labels_match_the_crate():
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): text for name, text in IMAGE.labels.items()}
    assert labels == {"title": PACKAGE["name"], "description": PACKAGE["description"],
                      "version": PACKAGE["version"], "licenses": PACKAGE["license"]}
    assert any(copy.source == "LICENSE" for copy in IMAGE.copies)


def test_health_check_timeout_is_longer_than_that_of_the_command():
    options, command = IMAGE.healthcheck
    assert command == [*IMAGE.entrypoint, "health", "check"]
    source = (ROOT / "src/cli/health.rs").read_text()
    timeout = re.search(r"\bTIMEOUT: Duration = Duration::from_secs\((\d+)\)", source)[1]
    assert int(options["timeout"].removesuffix("s")) > int(timeout)


def test_image_matches_the_chart():
    context = yaml.safe_load((CHART / "values.yaml").read_text())["securityContext"]
    assert IMAGE.user == (context["runAsUser"], context["runAsGroup"]) == (65532, 65532)
    files = [path for path in (CHART / "templates").iterdir() if path.is_file()]
    templates = "".join(path.read_text() for path in files)
    data = IMAGE.one("WORKDIR")
    assert f"mountPath: {data}\n" in templates, "the volume for SQLite"
    ports = set(re.findall(r"name: (?:grpc|metrics), containerPort: (\d+)", templates))
    assert set(IMAGE.one("EXPOSE").split()) == ports
    [copy] = [copy for copy in IMAGE.copies if copy.target == data]
    assert copy.owner == ":".join(map(str, IMAGE.user))
    # The chart's arguments replace CMD.
    assert "args: [serve," in templates and "command:" not in templates

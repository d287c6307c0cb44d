"""The Dockerfile agrees with what it is built from, and with the chart that runs it."""

import os
import re
import shutil
import subprocess
import tomllib

import yaml
from dockerfile import BUILD, IMAGE, ROOT, copy_context

CARGO = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
CHART = ROOT / "helm/support-access"


def test_the_context_has_all_that_the_build_needs_and_no_more():
    # Always at the same place, or else each run would leave much behind.
    target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
    context = target / "image-context"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    names = copy_context(context)
    command = re.search(r"\bcargo build --release (--locked --bin support-access)", BUILD.one("RUN"))
    # The same with less work: what is missing is missed by this, too.
    done = subprocess.run(["cargo", "check", "--offline", *command[1].split()], cwd=context, capture_output=True, text=True,
                          env=os.environ | {"CARGO_TARGET_DIR": str(target), "CARGO_INCREMENTAL": "0"}, check=False)
    assert done.returncode == 0, done.stderr
    ignored = {path.name for path in ROOT.iterdir()} - set(names)
    assert {"tests", "docs", "helm", "scripts"} <= ignored and not {".git", "target", ".venv"} & set(names)


def test_what_another_checkout_has_left_is_never_taken_for_ours(tmp_path):
    """Cargo compiles a file again if it is newer than what was made of it; the directory for that is the builder's, and stays."""
    names = copy_context(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in files:
        os.utime(path, (0, 0))
    run = re.sub(r"--mount=\S+", "", BUILD.one("RUN"))
    assert "--mount=type=cache,target=/build/target" in BUILD.one("RUN")
    before, *_ = run.split("&& cargo build")
    assert before != run
    subprocess.run(["sh", "-ec", before], cwd=tmp_path, check=True)
    # Cargo reads its own files each time; licence and benchmarks are no part of the program.
    others = {"Cargo.toml", "Cargo.lock", "LICENSE", "benches"}
    assert others < set(names)
    old = {path.relative_to(tmp_path).parts[0] for path in files if path.stat().st_mtime == 0}
    assert old == others


def test_the_builder_is_new_enough_and_its_debian_no_newer_than_that_of_the_image():
    version, name = re.fullmatch(r"rust:(\d+\.\d+)\.\d+-slim-(\w+)", BUILD.base).groups()
    assert tuple(map(int, version.split("."))) >= tuple(map(int, CARGO["rust-version"].split(".")))
    image = int(re.search(r"-debian(\d+):", IMAGE.base)[1])
    assert {"bookworm": 12, "trixie": 13}[name] <= image


def test_it_says_what_it_is():
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): text for name, text in IMAGE.labels.items()}
    assert labels == {"title": CARGO["name"], "description": CARGO["description"], "version": CARGO["version"],
                      "licenses": CARGO["license"]}
    assert any(copy.source == "LICENSE" for copy in IMAGE.copies)


def test_the_health_check_can_say_why_before_it_is_ended():
    options, command = IMAGE.healthcheck
    assert command == [*IMAGE.entrypoint, "health", "check"]
    limit = re.search(r"TIME_LIMIT: Duration = Duration::from_secs\((\d+)\)", (ROOT / "src/cli/health.rs").read_text())[1]
    assert int(options["timeout"].removesuffix("s")) > int(limit)


def test_it_is_what_the_chart_expects():
    given = yaml.safe_load((CHART / "values.yaml").read_text())["securityContext"]
    assert IMAGE.user == (given["runAsUser"], given["runAsGroup"]) == (65532, 65532)
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir() if path.is_file())
    assert f"mountPath: {IMAGE.one('WORKDIR')}\n" in templates, "the volume for SQLite"
    ports = set(re.findall(r"name: (?:grpc|http), containerPort: (\d+)", templates))
    assert set(IMAGE.one("EXPOSE").split()) == ports
    data = next(copy for copy in IMAGE.copies if copy.target == IMAGE.one("WORKDIR"))
    assert data.owner == ":".join(map(str, IMAGE.user))
    # The chart gives arguments, which take the place of CMD.
    assert "args: [serve," in templates and "command:" not in templates

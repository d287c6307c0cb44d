"""Stubs for Go, Java, Python and TypeScript, generated from proto/ with each language's own
generator. The generated code compiles, and every language encodes a request to the same bytes. Each
language's gRPC library calls a replica and a sidecar at Unix sockets, with its default settings."""

# Each language has a directory with a program and the pinned versions of generator and libraries. A
# test copies the directory, so that the source tree stays unchanged. The tools cache their
# downloads in the user's directories.
#
# To change a version in go.mod or package.json, copy the directory, generate the stubs in the copy,
# and run `go mod tidy` or `npm install --package-lock-only`. Then copy the lock file back.

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import grpc_tools
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from harness import Server, Sidecar

HERE = Path(__file__).parent
PROTO = HERE.parents[1] / "proto"
# Clients need no stubs for Envoy's API.
FILES = sorted(str(file.relative_to(PROTO)) for file in PROTO.glob("supportaccess/**/*.proto"))
WELL_KNOWN_TYPES = Path(grpc_tools.__file__).parent / "_proto"
DIRECTORIES = {"supportaccess/v1", "supportaccess/replication/v1"}
GO_MODULE = "github.com/support-access/support-access/clients/go"


def run(*command, cwd, **environment):
    """Runs the command in the directory and returns the standard output."""
    finished = subprocess.run(command, cwd=cwd, env=os.environ | environment, text=True,
                              capture_output=True)
    assert finished.returncode == 0, f"{command} failed:\n{finished.stdout}{finished.stderr}"
    return finished.stdout


def protoc(*arguments, cwd):
    """Compiles all files of proto/, including the replication protocol."""
    run(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{WELL_KNOWN_TYPES}",
        *arguments, *FILES, cwd=cwd)


def directories(root, suffix):
    """The directories below the root that contain files with the suffix."""
    return {str(file.parent.relative_to(root)) for file in root.rglob(f"*{suffix}")}


def field(number, value):
    """The protobuf encoding of a field: a short text or message, or a small enum value."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    value = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(value)]) + value


CHECK = (field(1, "acme") + field(2, "dana") + field(3, "billing") + field(3, "größe")
         + field(4, 2) + field(5, 3) + field(6, "erin"))
REQUEST = field(1, CHECK) + field(2, "token")
# The output of the program in each language, which sends three checks to two nodes.
OUTPUT = (f"supportaccess.v1.SupportAccess/CheckAccess\n{REQUEST.hex()}\n"
          + 6 * "DECISION_DENIED\n")


@pytest.fixture(scope="module")
def descriptors(tmp_path_factory):
    directory = tmp_path_factory.mktemp("descriptors")
    protoc("--descriptor_set_out=all", cwd=directory)
    return FileDescriptorSet.FromString((directory / "all").read_bytes()).file


@pytest.fixture
def project(request, tmp_path):
    """A copy of the directory of the language that the test is named after."""
    language = request.node.name.split("_")[1]
    return Path(shutil.copytree(HERE / language, tmp_path / language))


@pytest.fixture(scope="module")
def sockets():
    """The paths of the sockets of a replica and a sidecar. The second path has characters that are
    escaped in URIs, and others that have a meaning there."""
    # In a directory with a short name, because the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="support-access-") as directory:
        replica, sidecar = (Path(directory, "run/support-access", name, "check.sock")
                            for name in ["replica", "50% [a:b]@ü"])
        for socket in [replica, sidecar]:
            socket.parent.mkdir(parents=True)
        with (Server("memory:", f"--listen=unix:{replica}"),
              Sidecar(f"unix:{replica}", f"--listen=unix:{sidecar}")):
            yield replica, sidecar


@pytest.fixture
def targets(sockets):
    return [f"unix:{quote(str(socket))}" for socket in sockets]


def test_every_file_states_the_package_names_of_all_languages(descriptors):
    names = {}
    for file in descriptors:
        options = file.options
        names.setdefault(file.package, set()).add((
            options.go_package, options.java_package, options.java_multiple_files,
            options.csharp_namespace))
    assert names == {
        "supportaccess.v1": {(
            f"{GO_MODULE}/supportaccess/v1;supportaccessv1", "io.github.supportaccess.v1", True,
            "SupportAccess.V1")},
        "supportaccess.replication.v1": {(
            f"{GO_MODULE}/supportaccess/replication/v1;replicationv1",
            "io.github.supportaccess.replication.v1", True, "SupportAccess.Replication.V1")},
    }


def test_clients_do_not_need_the_replication_protocol(descriptors):
    imports = {imported for file in descriptors if file.package == "supportaccess.v1"
               for imported in file.dependency}
    foreign = {name for name in imports
               if not name.startswith(("google/protobuf/", "supportaccess/v1/"))}
    assert not foreign, "supportaccess.v1 must import only itself and well-known types"


def test_go_stubs_compile_encode_and_call(project, targets):
    # An installed toolchain that is too old fails here, and does not download a newer one.
    go = {"GOTOOLCHAIN": "local", "GOWORK": "off"}
    run("go", "build", "-o", "bin/", "tool", cwd=project, **go)
    protoc("--plugin=bin/protoc-gen-go", "--go_out=.", f"--go_opt=module={GO_MODULE}",
           "--plugin=bin/protoc-gen-go-grpc", "--go-grpc_out=.",
           f"--go-grpc_opt=module={GO_MODULE}", cwd=project)
    packages = run("go", "list", "-f", "{{.ImportPath}} {{.Name}}", "./...", cwd=project, **go)
    assert set(packages.splitlines()) == {
        f"{GO_MODULE} main",
        f"{GO_MODULE}/supportaccess/v1 supportaccessv1",
        f"{GO_MODULE}/supportaccess/replication/v1 replicationv1",
    }
    run("go", "build", "./...", cwd=project, **go)
    assert run("go", "run", ".", *targets, cwd=project, **go) == OUTPUT


def test_java_stubs_compile_encode_and_call(project, targets):
    # The directory where the Maven plugin expects the files.
    shutil.copytree(PROTO / "supportaccess", project / "src/main/proto/supportaccess")
    # Maven is faster without the optimizing compiler, because the process is short.
    run("mvn", "--batch-mode", "--no-transfer-progress", "--strict-checksums", "--quiet",
        f"-Dreplica={targets[0]}", f"-Dsidecar={targets[1]}", "compile", "exec:exec", cwd=project,
        MAVEN_OPTS="-XX:TieredStopAtLevel=1")
    generated = {f"io/github/{directory}" for directory in DIRECTORIES}
    for generator in ["java", "grpc-java"]:
        root = project / "target/generated-sources/protobuf" / generator
        assert directories(root, ".java") == generated
    assert directories(project / "target/classes", ".class") == generated | {"stubs"}
    assert (project / "target/output").read_text() == OUTPUT


def test_python_stubs_import_encode_and_call(project, targets):
    protoc("--python_out=.", "--grpc_python_out=.", cwd=project)
    assert directories(project, "_pb2.py") == directories(project, "_pb2_grpc.py") == DIRECTORIES
    modules = [str(file.relative_to(project)).removesuffix(".py").replace("/", ".")
               for file in project.rglob("*_pb2*.py")]
    run(sys.executable, "-W", "error", "-c", f"import {', '.join(modules)}", cwd=project)
    assert run(sys.executable, "-W", "error", "round_trip.py", *targets, cwd=project) == OUTPUT


def test_typescript_stubs_compile_encode_and_call(project, sockets):
    # ts-proto is the usual generator for grpc-js whose messages and clients are typed at compile
    # time. proto-loader reads the .proto files at run time, and protoc-gen-es has no grpc-js
    # clients.
    run("npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund",
        cwd=project)
    (project / "generated").mkdir()
    protoc("--plugin=node_modules/.bin/protoc-gen-ts_proto", "--ts_proto_out=generated",
           "--ts_proto_opt=outputServices=grpc-js,forceLong=bigint,importSuffix=.js,env=node",
           cwd=project)
    assert directories(project / "generated", ".ts") == DIRECTORIES | {"google/protobuf"}
    run("node_modules/.bin/tsc", "--strict", cwd=project)
    # grpc-js does not unescape paths.
    targets = [f"unix:{socket}" for socket in sockets]
    assert run("node", "compiled/round_trip.js", *targets, cwd=project) == OUTPUT

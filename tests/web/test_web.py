"""The JSON API with curl, the Connect clients of Python and Node.js, and schemathesis."""

# `scripts/setup` installs the Python packages in .venv/web. The directory `node` has the
# pinned versions of the packages of Node.js. To change a version in package.json, copy the
# directory, run `npm install --package-lock-only` in the copy, and copy the lock file back.

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import grpc_tools
import pytest
from harness import ROOT, Server, Sidecar

HERE = Path(__file__).parent
PROTO = ROOT / "proto"
FILES = sorted(str(file.relative_to(PROTO)) for file in PROTO.glob("supportaccess/v1/*.proto"))
WELL_KNOWN_TYPES = Path(grpc_tools.__file__).parent / "_proto"
ADMIN = "/supportaccess.v1.SupportAccessAdmin"
CHECK = "/supportaccess.v1.SupportAccess/CheckAccess"
GRANT = {
    "tenantId": "acme",
    "groupId": "support",
    "accessLevel": "ACCESS_LEVEL_READ_ONLY",
    "untilRevoked": True,
}
QUESTION = {"check": {
    "tenantId": "acme",
    "agentId": "ada",
    "groupIds": ["support"],
    "requiredLevel": "ACCESS_LEVEL_READ_ONLY",
    "agentKind": "AGENT_KIND_HUMAN",
}}
# Each client prints the decision of a check, its own error for a missing grant, and the reason.
OUTPUT = "DECISION_ALLOWED\nnot_found\nGRANT_NOT_FOUND\n"


def run(*command, cwd):
    """Runs the command in the directory and returns the standard output."""
    finished = subprocess.run(command, cwd=cwd, text=True, capture_output=True)
    assert finished.returncode == 0, f"{command} failed:\n{finished.stdout}{finished.stderr}"
    return finished.stdout


def protoc(*arguments, cwd):
    run(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{WELL_KNOWN_TYPES}",
        *arguments, *FILES, cwd=cwd)


def curl(url, *arguments):
    """The status, the content type and the body of the response."""
    text = run("curl", "--silent", "--show-error", "--max-time", "30", *arguments,
               "--write-out", "\n%{http_code} %{content_type}", url, cwd=HERE)
    body, _, end = text.rpartition("\n")
    status, content_type = end.split(" ", 1)
    return int(status), content_type, body


def post(url, message, *arguments):
    content = ("--header", "Content-Type: application/json", "--data", json.dumps(message))
    return curl(url, *content, *arguments)


@pytest.fixture(scope="module")
def server():
    with Server("memory:", "--web-listen", "127.0.0.1:0") as server:
        yield server


@pytest.fixture(scope="module")
def url(server):
    return f"http://127.0.0.1:{server.ports['web']}"


@pytest.fixture(scope="module")
def web_python():
    python = ROOT / os.environ.get("WEB_PYTHON", ".venv/web/bin/python")
    assert python.exists(), (f"{python} does not exist; run scripts/setup, which installs "
                             "scripts/requirements-web.txt into a virtual environment at "
                             ".venv/web")
    return python


@pytest.fixture(scope="module")
def grant(url):
    status, _, body = post(f"{url}{ADMIN}/GrantAccess", GRANT)
    assert status == 200, body
    return json.loads(body)["grant"]


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_curl_grants_checks_and_revokes(url, version):
    status, content_type, body = post(f"{url}{ADMIN}/GrantAccess", GRANT, version)
    assert (status, content_type) == (200, "application/json"), body
    grant_id = json.loads(body)["grant"]["grantId"]
    request = {"tenantId": "acme", "grantId": grant_id}
    status, _, body = post(f"{url}{ADMIN}/RevokeAccess", request, version)
    assert status == 200, body
    assert json.loads(body)["enforcement"]["state"] == "ENFORCEMENT_STATE_COMPLETE"
    status, content_type, body = post(f"{url}{ADMIN}/ExportHistory", {"tenantId": "acme"}, version)
    assert (status, content_type) == (200, "application/x-ndjson")
    records = [record for line in body.splitlines() for record in json.loads(line)["records"]]
    assert any(grant_id in record for record in records)


def test_a_sidecar_answers_json(server, url, grant):
    with Sidecar(f"http://{server.target}", "--web-listen", "127.0.0.1:0") as sidecar:
        answers = f"http://127.0.0.1:{sidecar.ports['web']}"
        asked = QUESTION | {"consistencyToken": ""}
        while json.loads(post(answers + CHECK, asked)[2])["reason"] == "DECISION_REASON_STALE":
            pass
        assert json.loads(post(answers + CHECK, asked)[2])["grantId"] == grant["grantId"]
        status, _, body = post(f"{answers}{ADMIN}/GrantAccess", GRANT)
        assert (status, json.loads(body)["code"]) == (501, "unimplemented")


@pytest.mark.parametrize("codec", ["proto", "json"])
def test_the_connect_client_of_python(url, web_python, grant, tmp_path, codec):
    protoc(f"--python_out={tmp_path}", cwd=tmp_path)
    output = run(web_python, "-W", "error", HERE / "connect_client.py", url, codec, cwd=tmp_path)
    assert output == OUTPUT


@pytest.mark.parametrize("arguments", [
    ("1.1", "proto"), ("1.1", "json"), ("2", "proto"),
])
def test_the_connect_client_of_node(url, grant, node_project, arguments):
    assert run("node", "client.js", url, *arguments, cwd=node_project) == OUTPUT


@pytest.fixture(scope="module")
def node_project(tmp_path_factory):
    project = tmp_path_factory.mktemp("node") / "node"
    shutil.copytree(HERE / "node", project)
    run("npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund",
        cwd=project)
    protoc("--plugin=node_modules/.bin/protoc-gen-es", "--es_out=.",
           "--es_opt=target=js,import_extension=js", cwd=project)
    return project


def test_the_openapi_document_describes_the_responses(url, web_python, tmp_path):
    seed = secrets.randbelow(2**32)
    print(f"schemathesis --seed {seed}")
    # A call without time for an answer fails.
    settings = tmp_path / "schemathesis.toml"
    settings.write_text('[parameters]\n"header.Connect-Timeout-Ms" = "10000"\n')
    # Requests that fit the document are often rejected: the rules of fields are in texts.
    run(web_python, "-m", "schemathesis.cli", "--config-file", settings, "run",
        f"{url}/openapi.json",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
        "response_schema_conformance,unsupported_method,allow_header_conformance",
        "--max-examples", "20", "--seed", str(seed), "--no-color", "--exclude-path",
        f"{ADMIN}/ExportHistory", cwd=tmp_path)

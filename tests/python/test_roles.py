"""The documented privileges of the database roles suffice, and allow nothing else.

The tests execute the documented SQL.
"""

import re
import subprocess

import pytest
from client import Client, allowed
from harness import (
    BINARY,
    DEADLINE_S,
    ROOT,
    Server,
    database_arguments,
    plain_environment,
    program,
)

OWNER, SERVER = "access_owner", "access_server"


class Database:
    """The database that the text names, in a cluster of the tests."""

    def __init__(self, cluster):
        self.directory = cluster.directory

    def sql(self, text, role="postgres", name="access"):
        """Runs SQL with psql."""
        arguments = [
            program("psql"),
            "--host",
            self.directory,
            "--username",
            role,
            "--dbname",
            name,
            "--no-psqlrc",
            "--quiet",
            "--set",
            "ON_ERROR_STOP=1",
            "--file",
            "-",
        ]
        return subprocess.run(
            arguments, input=text, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )

    def url(self, role):
        return f"postgres://{role}@localhost/access?host={self.directory}"

    def run(self, command, role):
        arguments = [BINARY, *command.split(), *database_arguments(self.url(role))]
        return subprocess.run(
            arguments,
            env=plain_environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )


@pytest.fixture(name="database")
def make_database(postgres):
    text = (ROOT / "docs/operations.md").read_text()
    (given,) = (it for it in re.findall(r"```sql\n(.*?)```", text, re.S) if "CREATE ROLE" in it)
    database = Database(postgres)
    done = database.sql(given, name="postgres")
    assert done.returncode == 0, done.stderr
    yield database
    done = database.sql(
        f"DROP DATABASE access WITH (FORCE); DROP ROLE {OWNER}; DROP ROLE {SERVER};",
        name="postgres",
    )
    assert done.returncode == 0, done.stderr


def test_the_documented_privileges_suffice_for_a_server(database):
    early = database.run("serve", SERVER)
    assert early.returncode == 1 and "permission denied for schema public" in early.stderr, (
        early.stderr
    )

    done = database.run("database migrate", OWNER)
    assert done.returncode == 0, done.stderr
    with Server(database.url(SERVER)) as server, Client(server.target, tenant_id="roles") as client:
        granted = client.granted()
        assert allowed(client.check(token=granted.consistency_token))
        client.revoke(granted.grant, reason="solved")
        assert not allowed(client.check())
        assert server.terminate() == 0, server.log()

    # A table of a later version.
    assert database.sql("CREATE TABLE later (number bigserial)", OWNER).returncode == 0
    done = database.sql(
        "INSERT INTO later DEFAULT VALUES; UPDATE later SET number = 7; DELETE FROM later;", SERVER
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE more ()",
        "DROP TRIGGER events_are_permanent ON events",
        "DROP TRIGGER events_are_never_updated ON events",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "DROP TABLE events",
        "TRUNCATE events",
        "SET session_replication_role = replica",
        "CREATE OR REPLACE FUNCTION history_is_permanent() RETURNS trigger LANGUAGE sql AS ''",
    ],
)
def test_a_server_cannot_change_the_schema(database, text):
    done = database.run("database migrate", OWNER)
    assert done.returncode == 0, done.stderr
    done = database.sql(text, SERVER)
    assert done.returncode != 0 and re.search("permission denied|must be owner", done.stderr), (
        done.stderr
    )


def test_the_tables_of_a_server_can_be_reassigned_to_the_owner(database):
    assert database.sql(f"GRANT CREATE ON SCHEMA public TO {SERVER}").returncode == 0
    done = database.run("database migrate", SERVER)
    assert done.returncode == 0, done.stderr
    given = re.search(r"`(REASSIGN OWNED BY .+?)`", (ROOT / "docs/operations.md").read_text())[1]
    done = database.sql(f"""{given};
        REVOKE CREATE ON SCHEMA public FROM {SERVER};
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {SERVER};""")
    assert done.returncode == 0, done.stderr
    assert "must be owner" in database.sql("DROP TABLE events", SERVER).stderr
    with Server(database.url(SERVER)) as server, Client(server.target, tenant_id="roles") as client:
        assert allowed(client.check(token=client.granted().consistency_token))

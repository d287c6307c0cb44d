"""Parses the Dockerfile and .dockerignore, so that the tests run what these files state."""

import json
import re
import shlex
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def instructions(text):
    """Each instruction with its argument, without comments and line continuations."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def parse_options(words):
    """The options of an instruction, written as --NAME=VALUE."""
    return dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))


class Copy:
    """A COPY instruction."""

    def __init__(self, argument):
        words = argument.split()
        options = parse_options(words)
        self.stage, self.owner = options.get("from"), options.get("chown", "0:0")
        self.source, self.target = (word for word in words if not word.startswith("--"))


class Stage:
    """A FROM instruction, and the instructions that follow."""

    def __init__(self, base):
        self.base, self.instructions = base.split()[0], []

    def all(self, name):
        return [argument for instruction, argument in self.instructions if instruction == name]

    def one(self, name):
        argument, = self.all(name)
        return argument

    @property
    def copies(self):
        return [Copy(argument) for argument in self.all("COPY")]

    @property
    def labels(self):
        words = [word for argument in self.all("LABEL") for word in shlex.split(argument)]
        return dict(word.split("=", 1) for word in words)

    @property
    def entrypoint(self):
        return json.loads(self.one("ENTRYPOINT"))

    @property
    def command(self):
        return json.loads(self.one("CMD"))

    @property
    def healthcheck(self):
        """The options and the command."""
        options, command = self.one("HEALTHCHECK").split("CMD", 1)
        return parse_options(options.split()), json.loads(command)

    @property
    def user(self):
        """The numeric user and group."""
        return tuple(int(number) for number in self.one("USER").split(":"))


def stages():
    parsed = []
    for instruction, argument in instructions((ROOT / "Dockerfile").read_text()):
        if instruction == "FROM":
            parsed.append(Stage(argument))
        else:
            parsed[-1].instructions.append((instruction, argument))
    return parsed


BUILD, IMAGE = stages()


def copy_context(directory):
    """Copies the files that a builder receives. Returns their names in the root directory."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    excluded, *included = [line for line in lines if line and not line.startswith("#")]
    assert excluded == "*", "this parser expects to exclude everything first"
    assert all(re.fullmatch(r"![\w.-]+", line) for line in included), \
        "this parser supports only names in the root directory"
    names = [line.removeprefix("!") for line in included]
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, directory / name)
    return names

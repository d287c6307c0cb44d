"""What the Dockerfile and .dockerignore say, so that the tests run that, and nothing which only looks like it."""

import json
import re
import shlex
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def instructions(text):
    """Each instruction and its argument, comments and continued lines undone."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


class Copy:
    """COPY: from which stage, if any, what, whereto, and whose it is then."""

    def __init__(self, argument):
        words = argument.split()
        options = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))
        self.stage, self.owner = options.get("from"), options.get("chown", "0:0")
        self.source, self.target = (word for word in words if not word.startswith("--"))


class Stage:
    """FROM, and what follows it."""

    def __init__(self, base, found):
        self.base, self.found = base.split()[0], found

    def all(self, name):
        return [argument for instruction, argument in self.found if instruction == name]

    def one(self, name):
        argument, = self.all(name)
        return argument

    @property
    def copies(self):
        return [Copy(argument) for argument in self.all("COPY")]

    @property
    def labels(self):
        return dict(word.split("=", 1) for argument in self.all("LABEL") for word in shlex.split(argument))

    @property
    def entrypoint(self):
        return json.loads(self.one("ENTRYPOINT"))

    @property
    def command(self):
        return json.loads(self.one("CMD"))

    @property
    def healthcheck(self):
        """The options, and the command."""
        options, command = self.one("HEALTHCHECK").split("CMD", 1)
        return dict(word.removeprefix("--").split("=", 1) for word in options.split()), json.loads(command)

    @property
    def user(self):
        """User and group, which are numbers."""
        return tuple(int(it) for it in self.one("USER").split(":"))


def stages():
    """The builder, and the image."""
    found, made = instructions((ROOT / "Dockerfile").read_text()), []
    for instruction, argument in found:
        if instruction == "FROM":
            made.append(Stage(argument, []))
        else:
            made[-1].found.append((instruction, argument))
    return made


BUILD, IMAGE = stages()


def copy_context(directory):
    """What a builder would be sent."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    everything, *allowed = [line for line in lines if line and not line.startswith("#")]
    assert everything == "*" and all(re.fullmatch(r"![\w./-]+", line) for line in allowed), "nothing more is understood here"
    for name in (line[1:] for line in allowed):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        (directory / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, directory / name)
    return [line[1:] for line in allowed]

"""A Prometheus server, and the rules in a form that tests can wait for."""

import json
import re
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import yaml
from harness import DEADLINE_S, eventually
from monitoring import RUNBOOK_URL


def shortened(rules):
    """The rules with shorter times.

    In `for` and in ranges, a minute or an hour becomes a second, and subqueries have a step of one
    second. The limit of the sweep lag becomes 5 s, and the limit of the last verification 10 s. Two
    slow revocations are enough instead of five. Everything else is unchanged."""
    text = re.sub(r"\[(\d+)[mh]\]", r"[\1s]", yaml.safe_dump(rules, width=10_000))
    text = re.sub(r"\bfor: (\d+)[mh]$", r"for: \1s", text, flags=re.MULTILINE)
    for pattern, replacement, expected in (
        (r"\[10m:30s\]", "[10s:1s]", 1),
        (r"\[1d:1m\]", "[300s:1s]", 2),
        (r"(sweep_lag_seconds\{[^}]*\}\)) > 300", r"\1 > 5", 1),
        (r"(sweep_lag_seconds\{[^}]*\}\)\\n\)) > 86400", r"\1 > 10", 1),
        (r"(duration_seconds_sum\{[^}]*\}\[15s\]\)\)) > \((\w+)\) \* 5", r"\1 > (\2) * 2", 1),
    ):
        text, count = re.subn(pattern, replacement, text)
        assert count == expected, pattern
    assert not re.search(r"for: \d+[mh]|\[\d+[mh]\]", text)
    return text


class Prometheus:
    """The server of Debian's package, which scrapes and evaluates every half second."""

    def __init__(self, directory, rules, targets):
        self.directory = directory
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self.port = unused.getsockname()[1]
        (directory / "rules.yaml").write_text(rules)
        intervals = {"scrape_interval": "500ms", "scrape_timeout": "500ms",
                     "evaluation_interval": "500ms"}
        (directory / "prometheus.yaml").write_text(json.dumps({
            "global": intervals,
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "all", "static_configs": targets}],
        }))
        self.log = open(directory / "prometheus.log", "wb")
        self.process = subprocess.Popen(
            ["prometheus", "--config.file=prometheus.yaml", "--log.level=warn",
             f"--storage.tsdb.path={directory / 'data'}",
             f"--web.listen-address=127.0.0.1:{self.port}"],
            cwd=directory, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            eventually(self._is_ready, "Prometheus is ready")
        except AssertionError:
            self.close()
            raise

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def _is_ready(self):
        assert self.process.poll() is None, (self.directory / "prometheus.log").read_text()
        try:
            url = f"http://127.0.0.1:{self.port}/-/ready"
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as response:
                return response.status == 200
        except urllib.error.URLError:
            return False

    def get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression):
        return self.get("query", query=expression)["result"]

    def firing(self, name, **labels):
        """The firing alerts with this name and these labels."""
        labels = labels | {"alertname": name}
        return [alert for alert in self.get("alerts")["alerts"]
                if alert["state"] == "firing" and labels.items() <= alert["labels"].items()]

    def until_firing(self, name, meanwhile=lambda: None, **labels):
        """Waits for the alert, checks its texts and returns it. Calls `meanwhile` repeatedly."""
        def probe():
            meanwhile()
            return self.firing(name, **labels)

        [alert] = eventually(probe, f"{name} fires for {labels}")
        annotations = alert["annotations"]
        assert annotations["runbook_url"] == f"{RUNBOOK_URL}{name}.md"
        for text in annotations.values():
            assert text and not re.search(r"\{\{|<no value>|<error|%!|  |\( ?\)", text), text
        print(f"{name} {labels}: {annotations['summary']} {annotations['description']}")
        return alert

    def until_resolved(self, name, meanwhile=lambda: None, **labels):
        """Waits until the alert no longer fires. Calls `meanwhile` repeatedly."""
        def probe():
            meanwhile()
            return not self.firing(name, **labels)

        eventually(probe, f"{name} is resolved for {labels}")

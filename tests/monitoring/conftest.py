"""One service and one Prometheus for all tests."""

import tempfile
from pathlib import Path

import pytest
from monitoring import rendered_rules
from prometheus import Prometheus, shortened
from service import MAX_STALENESS, Service


@pytest.fixture(scope="session", name="directory")
def make_directory():
    """The path of a socket must be short."""
    with tempfile.TemporaryDirectory(prefix="watch-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session", name="service")
def start_service(directory):
    service = Service(directory)
    yield service
    service.close()


@pytest.fixture(scope="session", name="prometheus")
def start_prometheus(directory, service):
    rules = shortened(rendered_rules(max_staleness=MAX_STALENESS, replicas=2))
    prometheus = Prometheus(directory, rules, service.targets())
    yield prometheus
    prometheus.close()

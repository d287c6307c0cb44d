"""One set of processes for all tests: a service, and the Prometheus that watches it."""

import tempfile
from pathlib import Path

import pytest
from monitoring import rendered_rules
from parts import MAX_STALENESS, Prometheus, Service, shortened


@pytest.fixture(scope="session", name="place")
def make_place():
    """The name is short, since there are sockets in it."""
    with tempfile.TemporaryDirectory(prefix="watch-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session", name="service")
def start_service(place):
    service = Service(place)
    yield service
    service.close()


@pytest.fixture(scope="session", name="prometheus")
def start_prometheus(place, service):
    prometheus = Prometheus(place, shortened(rendered_rules(max_staleness=MAX_STALENESS, replicas=2)), service.targets())
    yield prometheus
    prometheus.close()

"""A check costs hardly more than the same call of a bare gRPC server.

callgrind counts instructions, allocations and system calls, which depend on neither the machine's
speed nor its load. `scripts/test` builds the binaries with optimization, on the dependencies of the
debug build. In a release build, the difference in instructions is at most twice as large."""

import cost
import pytest
from programs import Servers

# The most that a check may cost above a bare call.
INSTRUCTIONS, ALLOCATIONS = 7_500, 8
# Below one: the numbers of reads and writes depend on how many calls arrive together.
SYSTEM_CALLS = 0.25


@pytest.fixture(scope="module", name="above_bare")
def make_above_bare(tmp_path_factory):
    with Servers() as servers:
        costs = cost.compare(tmp_path_factory.mktemp("cost"), servers)
    print(costs)
    return costs["ours"] - costs["bare"]


def test_a_check_takes_hardly_more_instructions_than_a_bare_call(above_bare):
    assert above_bare.instructions <= INSTRUCTIONS


def test_a_check_allocates_hardly_more_than_a_bare_call(above_bare):
    assert above_bare.allocations <= ALLOCATIONS


def test_a_check_makes_hardly_more_system_calls_than_a_bare_call(above_bare):
    assert above_bare.system_calls <= SYSTEM_CALLS

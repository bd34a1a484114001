"""A test of a tier starts nothing that its tier doesn't have; and each has the tier of what its fixtures start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.kit.servers import redis_server
from tests.kit.tiers import TIERS, tier_of


def test_a_unit_test_starts_no_process():
    with pytest.raises(AssertionError, match=r"of the tier unit starts python.*: mark it"):
        subprocess.run([sys.executable, "-c", ""], check=True)
    with pytest.raises(AssertionError, match="of the tier unit starts redis-server"), redis_server():
        pass
    with pytest.raises(AssertionError, match="of the tier unit starts a process"):
        os.fork()


@pytest.mark.redis
def test_a_test_of_the_tier_redis_starts_servers_and_no_other_process():
    with redis_server():
        pass
    with pytest.raises(AssertionError, match=r"of the tier redis starts python.*: mark it"):
        subprocess.run([sys.executable, "-c", ""], check=True)


@pytest.mark.process
def test_a_test_of_the_tier_process_starts_any():
    subprocess.run([sys.executable, "-c", ""], check=True)


def test_a_test_has_the_tier_of_what_its_fixtures_start(request):
    assert tier_of(request.node) == "unit"


def test_a_test_whose_fixtures_start_a_server_is_of_the_tier_redis(request, redis_url):
    assert tier_of(request.node) == "redis"


def test_each_test_is_marked_with_one_tier(request):
    for item in request.session.items:
        assert sum(item.get_closest_marker(tier) is not None for tier in TIERS) == 1, item.nodeid

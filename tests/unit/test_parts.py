"""How a worker's parts are wired: each is given objects that were made before it, and no way to call up."""

from __future__ import annotations

import ast
import inspect

import pytest

from celery_gconc.worker import parts

MADE = ast.parse(inspect.getsource(parts.make_parts)).body[0]


def arguments() -> list[ast.expr]:
    """What every part is given."""
    calls = [node for node in ast.walk(MADE) if isinstance(node, ast.Call)]
    return [given for call in calls for given in (*call.args, *(keyword.value for keyword in call.keywords))]


def test_no_part_is_given_a_function_made_for_it():
    assert not [node for node in ast.walk(MADE) if isinstance(node, (ast.Lambda, ast.FunctionDef)) and node is not MADE]


def test_no_part_is_given_a_method_of_another():
    """Attributes are of settings, of the pool's name, or of Celery's consumer, which made this worker's step."""
    of = {given.value.id for given in arguments() if isinstance(given, ast.Attribute)}
    assert of <= {"settings", "consumer", "pool"}


@pytest.mark.parametrize("name", ["Bell", "Turns"])
def test_what_wakes_is_made_before_all_that_wake(name):
    made = [node.func.id for node in ast.walk(MADE) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert made.index(name) < 2

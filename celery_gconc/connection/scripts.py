"""Lua scripts, assembled from the parts that they name, from the ``lua`` folders of the packages that they belong to.

A script's first line names what it uses, as does each part's: ``-- uses: input clock lines``, or ``-- uses: nothing``.
Parts stand in ``lua/core/``. The text has each of them once, after those that it uses; what a script doesn't use it
neither loads nor pays for.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

USES = "-- uses: "


class ScriptError(Exception):
    """A script that can't be assembled: a mistake in this package, which its tests find."""


@cache
def assemble(package: str, name: str, head: str = "", first: str = "") -> str:
    """The text of a script of a package.

    Args:
        package: the one whose ``lua`` folder it is in.
        name: its path there, without ``.lua``.
        head: what stands before all parts.
        first: what each script has to call; one that doesn't says so in a line ``-- doesn't begin: <why>``.

    Raises:
        ScriptError: its first line is missing, it uses an unknown part, parts use each other, or it forgets *first*.
    """
    text = _read(package, name)
    if first and f"\n{first}\n" not in text and "\n-- doesn't begin: " not in text:
        raise ScriptError(f"{name} doesn't call {first}, and doesn't say why")
    found: dict[str, str] = {}
    for part in _uses(name, text):
        _add(package, part, found, ())
    return "\n".join([*([head] if head else []), *found.values(), text])


def _add(package: str, part: str, found: dict[str, str], users: tuple[str, ...]) -> None:
    """Add a part, after those that it uses."""
    if part in users:
        raise ScriptError(f"parts use each other: {' -> '.join([*users, part])}")
    if part not in found:
        text = _read(package, f"core/{part}")
        for used in _uses(part, text):
            _add(package, used, found, (*users, part))
        found[part] = text


def _uses(name: str, text: str) -> list[str]:
    line = text.partition("\n")[0]
    if not line.startswith(USES):
        raise ScriptError(f"{name} doesn't say in its first line what it uses")
    names = line.removeprefix(USES).split()
    return [] if names == ["nothing"] else names


def _read(package: str, name: str) -> str:
    try:
        return resources.files(package).joinpath(f"lua/{name}.lua").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ScriptError(f"{package} has no lua/{name}.lua") from None

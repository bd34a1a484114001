"""Lua scripts, assembled from the parts that they name, from the ``lua`` folders of the packages that they belong to.

A script's first line names what it uses, as does each part's: ``-- uses: input clock lines``, or ``-- uses: nothing``.
Parts stand in ``lua/core/``. The text has each of them once, after those that it uses, as a function that makes it when
something of it is first asked for: to make all of them would cost Redis more than what most calls do. What a file
writes as ``lines.touch`` is ``core.lines.touch`` in the text.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

USES = "-- uses: "

#: Before the functions that make the parts; ``core`` has what they return, once it was asked for.
PARTS = """\
local core = {}
do
  local makers = {
"""

#: And after them.
ON_DEMAND = """\
  }
  setmetatable(core, {
    __index = function(self, name)
      local part = makers[name]()
      self[name] = part
      return part
    end,
  })
end
"""

#: A name of which a field is taken: a part, where it is one that the file uses.
FIELD = re.compile(r"(?<![\w.:'])[a-z_]\w*(?=\.\w)")


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
    text, used = _file(package, name)
    for part in used:
        _add(package, part, found, ())
    makers = [PARTS, *found.values(), ON_DEMAND] if found else []
    return "\n".join([*([head] if head else []), *makers, text])


def _add(package: str, part: str, found: dict[str, str], users: tuple[str, ...]) -> None:
    """Add a part, after those that it uses."""
    if part in users:
        raise ScriptError(f"parts use each other: {' -> '.join([*users, part])}")
    if part not in found:
        text, others = _file(package, f"core/{part}")
        for used in others:
            _add(package, used, found, (*users, part))
        found[part] = f"{part} = function()\n\n{text}\nreturn {part}\nend,\n"


@cache
def _file(package: str, name: str) -> tuple[str, list[str]]:
    """The text of a file as it stands in a script, and the parts that it uses. Most parts are in many scripts."""
    text = _read(package, name)
    used = _uses(name.removeprefix("core/"), text)
    return _by_parts(text, used), used


def _by_parts(text: str, used: list[str]) -> str:
    """The text of a file, with what it writes of the parts that it uses as fields of ``core``."""
    return FIELD.sub(lambda found: f"core.{found[0]}" if found[0] in used else found[0], text)


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

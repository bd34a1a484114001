"""Lua scripts, assembled from the parts that they name, from the ``lua`` folders of the packages that they belong to.

A script's first line names what it uses, as does each part's: ``-- uses: input clock lines``, or ``-- uses: nothing``.
Parts stand in ``lua/core/``. The text has each of them once, after those that it uses. A part is made when something of
it is first asked for: to make all of them would cost Redis more than what most calls do.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

USES = "-- uses: "

#: What each part is wrapped in: a table that stands for what *make* returns when a field is first read or written.
ON_DEMAND = """\
local on_demand
do
  local makers, unmade = {}, {}
  local function made(self)
    local part = makers[self]()
    setmetatable(self, { __index = part, __newindex = part })
    return part
  end
  function unmade.__index(self, name) return made(self)[name] end
  function unmade.__newindex(self, name, field) made(self)[name] = field end
  function on_demand(make)
    local self = setmetatable({}, unmade)
    makers[self] = make
    return self
  end
end
"""


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
    return "\n".join([*([head] if head else []), *([ON_DEMAND] if found else []), *found.values(), text])


def _add(package: str, part: str, found: dict[str, str], users: tuple[str, ...]) -> None:
    """Add a part, after those that it uses."""
    if part in users:
        raise ScriptError(f"parts use each other: {' -> '.join([*users, part])}")
    if part not in found:
        text = _read(package, f"core/{part}")
        for used in _uses(part, text):
            _add(package, used, found, (*users, part))
        found[part] = f"local {part} = on_demand(function()\n\n{text}\nreturn {part}\nend)\n"


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

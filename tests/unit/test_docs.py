"""The documentation names everything that can be set, called, read or imported, and its links lead somewhere."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from pathlib import Path

import pytest
from celery.worker.control import Panel

import celery_gconc
from celery_gconc import signals
from celery_gconc.protocol import status
from celery_gconc.protocol.keys import KEYSPACE, Keys
from celery_gconc.settings import PREFIX, SETTINGS
from celery_gconc.worker import control

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"

#: Made by ``make demo``, and so not there in every checkout.
MAY_BE_MISSING = {ROOT / "docs" / "images" / "demo.svg"}

#: Where `make docs` builds the site.
BUILT = ROOT / "docs" / "_build"

COMMANDS = sorted(name for name, handler in Panel.data.items() if handler.__module__ == control.__name__)
DATACLASSES = {
    name: value
    for module in (celery_gconc, status)
    for name, value in vars(module).items()
    if isinstance(value, type) and dataclasses.is_dataclass(value)
}
METHODS = [name for name in dir(celery_gconc.GlobalConcurrency) if not name.startswith("_")]
PAGES = sorted(
    page
    for folder in (ROOT, ROOT / "docs", ROOT / "examples", ROOT / "tests")
    for page in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
    if BUILT not in page.parents
)


def rows(page: str) -> dict[str, list[str]]:
    """The table rows of a reference page: the name in a row's first cell, to its other cells."""
    found = {}
    for line in (REFERENCE / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and (name := re.match(r"`([\w.]+)[`(]", cells[0])):
            found.setdefault(name.group(1), cells[1:])
    return found


def section(page: str, heading: str) -> str:
    """The text of a reference page under a heading, up to the next of any level."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    return found.group(1).strip() if found else ""


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures that stay in the project; code is left out."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    return [to for to in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", to)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_line_with_its_default_and_rule_and_a_section(name: str) -> None:
    default, unit, rule = rows("settings.md").get(PREFIX + name, ["", "", ""])
    assert default == f"`{SETTINGS[name].default!r}`"
    wanted = SETTINGS[name].rule
    if unit == "seconds":
        wanted = wanted.removeprefix("seconds, ")
    assert rule.replace("`", "") == wanted
    assert section("settings.md", PREFIX + name)


def test_the_settings_page_names_no_setting_that_does_not_exist() -> None:
    named = {name for name in rows("settings.md") if name.startswith(PREFIX)}
    assert named == {PREFIX + name for name in SETTINGS}


def test_the_commands_are_found() -> None:
    assert "set_global_concurrency" in COMMANDS
    assert "global_concurrency" in COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_remote_control_command_has_a_line_with_its_arguments_and_a_section(name: str) -> None:
    arguments, kind = rows("commands.md").get(name, ["", ""])
    info = Panel.meta[name]
    assert arguments.strip("`").replace("\\|", "|") == info.signature
    assert kind == info.type
    assert section("commands.md", name)


def test_every_gconc_command_has_a_section_and_each_of_its_options_is_named_there() -> None:
    from celery_gconc.cli import gconc

    missing = []
    for name, command in gconc.commands.items():
        text = section("cli.md", name)
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        missing += [name] if not text else [f"{name} {option}" for option in options - {"--json"} if option not in text]
    assert missing == []


def test_every_metric_has_a_line() -> None:
    from celery_gconc.metrics.prometheus import METRICS

    assert [name for name in METRICS if not rows("metrics.md").get(name)] == []


@pytest.mark.parametrize("name", KEYSPACE)
def test_every_key_has_a_line_with_its_type(name: str) -> None:
    kind, content = rows("keyspace.md").get(name, ["", ""])
    assert kind == KEYSPACE[name].split(":")[0].replace("zset", "sorted set").split(",")[0]
    assert content


def test_the_keyspace_page_shows_keys_and_the_notice_channel_as_they_are() -> None:
    text = (REFERENCE / "keyspace.md").read_text(encoding="utf-8")
    assert f"`{Keys('gconc').key('meta')}`" in text
    assert f"`{Keys('<prefix>').channel('<session>')}`" in text


@pytest.mark.parametrize("name", celery_gconc.__all__)
def test_every_public_name_has_a_line_and_a_section(name: str) -> None:
    assert rows("api.md").get(name)
    assert section("api.md", name)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_extension_has_a_line_with_its_arguments(name: str) -> None:
    assert rows("api.md").get(name)
    method = getattr(celery_gconc.GlobalConcurrency, name)
    if not isinstance(method, property):
        text = (REFERENCE / "api.md").read_text(encoding="utf-8")
        shown = re.search(rf"^\| `{name}\(([^`]*)\)` \|", text, re.MULTILINE)
        assert shown is not None
        parameters = list(inspect.signature(method).parameters.values())[1:]
        plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
        assert f"({shown[1]})" == str(inspect.Signature(plain))


@pytest.mark.parametrize("name", DATACLASSES)
def test_every_field_of_a_public_dataclass_has_a_line_in_its_section(name: str) -> None:
    text = section("api.md", name)
    missing = [f.name for f in dataclasses.fields(DATACLASSES[name]) if f"\n| `{f.name}` |" not in text]
    assert missing == []


@pytest.mark.parametrize("name", signals.__all__)
def test_every_signal_has_a_line_and_a_section_with_its_arguments(name: str) -> None:
    assert rows("signals.md").get(name)
    text = section("signals.md", name)
    missing = [word for word in getattr(signals, name).providing_args if f"\n| `{word}` |" not in text]
    assert missing == []


def test_the_page_of_rights_names_the_commands_of_the_acl_lines_and_those_that_scripts_call() -> None:
    ours, both = re.findall(
        r"^ACL SETUSER .*$", (ROOT / "docs/explanation/security.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    page = (REFERENCE / "acl.md").read_text(encoding="utf-8").replace("\\|", "|")
    permits, broker = (set(re.findall(r"`\+([a-z|]+)`", part)) for part in page.split("## Commands for")[1:])
    assert permits - {"select"} == set(re.findall(r"\+(\S+)", ours))
    assert broker <= set(re.findall(r"\+(\S+)", both))
    called = {
        room: {
            word.lower()
            for path in (ROOT / "celery_gconc" / room / "lua").rglob("*.lua")
            for word in re.findall(r"call\('([A-Z]+)'", path.read_text(encoding="utf-8"))
        }
        for room in ("protocol", "brokers")
    }
    assert all(called.values())
    assert called["protocol"] <= {word.partition("|")[0] for word in permits}
    assert called["brokers"] <= {word.partition("|")[0] for word in broker}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(rf"\b{PREFIX}\w+", page.read_text(encoding="utf-8")))
    known = {PREFIX + name for name in SETTINGS} | {name for name in COMMANDS if name.startswith(PREFIX)}
    assert named - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_example_can_be_read_and_calls_what_exists(page: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        lines = textwrap.dedent(code).splitlines()
        if lines[0].startswith(">>>"):
            lines = [line[4:] for line in lines if line.startswith((">>>", "..."))]
        called = [
            node for node in ast.walk(ast.parse("\n".join(lines)))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name) and node.func.value.id == "gconc"
        ]  # fmt: skip
        for call in called:
            method = getattr(celery_gconc.GlobalConcurrency, call.func.attr)
            inspect.signature(method).bind(None, *call.args, **{word.arg or "": None for word in call.keywords})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_project_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if target in MAY_BE_MISSING and not target.exists():
            continue
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_on_the_map() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    assert {page for page in PAGES if ROOT / "docs" in page.parents and page != index} <= listed

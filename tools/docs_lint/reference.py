"""The reference names everything that can be set, called, read or imported, as the code has it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator

from celery.worker.control import Panel

import celery_gconc
from celery_gconc import signals
from celery_gconc.cli import gconc
from celery_gconc.metrics.prometheus import METRICS
from celery_gconc.protocol import status
from celery_gconc.protocol.keys import KEYSPACE, Keys
from celery_gconc.settings import PREFIX, SETTINGS
from celery_gconc.worker import control

from .pages import DOCS, ROOT, Fault, Page

#: The scripts of each kind, and the heading in acl.md under which the commands that they call stand.
SCRIPTS = {
    "permits": ROOT / "celery_gconc" / "protocol" / "lua",
    "broker": ROOT / "celery_gconc" / "brokers" / "lua",
}

COMMANDS = sorted(name for name, handler in Panel.data.items() if handler.__module__ == control.__name__)


def faults() -> Iterator[Fault]:
    """All of them, page by page."""
    for check in (_settings, _commands, _cli, _metrics, _keyspace, _api, _signals, _rights):
        yield from check()


def _page(name: str) -> Page:
    return Page(DOCS / "reference" / name)


def _missing(page: Page, names: list[str], what: str, *, need_section: bool = True) -> Iterator[Fault]:
    """Names that have no row in a table, or no section."""
    for name in names:
        row = page.rows.get(name)
        if row is None or not any(row.cells[1:]):
            yield page.fault(row.line if row else 1, f"no table row, or an empty one, for the {what} {name}")
        if need_section and page.section(name) is None:
            yield page.fault(1, f"no section, or an empty one, for the {what} {name}")


def _settings() -> Iterator[Fault]:
    page = _page("settings.md")
    yield from _missing(page, [PREFIX + name for name in SETTINGS], "setting")
    for name, row in page.rows.items():
        if not name.startswith(PREFIX):
            continue
        if (setting := SETTINGS.get(name.removeprefix(PREFIX))) is None:
            yield page.fault(row.line, f"there is no setting {name}")
            continue
        _, default, unit, rule = (*row.cells, "", "", "")[:4]
        if default != f"`{setting.default!r}`":
            yield page.fault(row.line, f"the default of {name} is `{setting.default!r}`")
        wanted = setting.rule.replace("a number of seconds", "a number") if unit == "seconds" else setting.rule
        if rule.replace("`", "") != wanted:
            yield page.fault(row.line, f"the rule of {name} is: {wanted}")


def _commands() -> Iterator[Fault]:
    page = _page("commands.md")
    if not {"set_global_concurrency", "global_concurrency"} <= set(COMMANDS):
        yield page.fault(1, "the remote-control commands can't be found: mend this lint")
    yield from _missing(page, COMMANDS, "command")
    for name in COMMANDS:
        if (row := page.rows.get(name)) is None:
            continue
        info = Panel.meta[name]
        _, arguments, kind = (*row.cells, "", "")[:3]
        if arguments.strip("`").replace("\\|", "|") != info.signature:
            yield page.fault(row.line, f"the arguments of {name} are `{info.signature}`")
        if kind != info.type:
            yield page.fault(row.line, f"{name} is of the kind {info.type}")


def _cli() -> Iterator[Fault]:
    page = _page("cli.md")
    for name, command in gconc.commands.items():
        if (section := page.section(name)) is None:
            yield page.fault(1, f"no section for the command gconc {name}")
            continue
        for option in sorted({option for parameter in command.params for option in parameter.opts}):
            if option.startswith("--") and option != "--json" and option not in section.text:
                yield page.fault(section.line, f"the section does not name the option {option} of gconc {name}")


def _metrics() -> Iterator[Fault]:
    yield from _missing(_page("metrics.md"), list(METRICS), "metric", need_section=False)


def _keyspace() -> Iterator[Fault]:
    page = _page("keyspace.md")
    yield from _missing(page, list(KEYSPACE), "key", need_section=False)
    for name, kept in KEYSPACE.items():
        if (row := page.rows.get(name)) is None:
            continue
        _, kind, content = (*row.cells, "", "")[:3]
        wanted = kept.split(":")[0].replace("zset", "sorted set").split(",")[0]
        if kind != wanted:
            yield page.fault(row.line, f"the key {name} is of the type {wanted}")
        if not content:
            yield page.fault(row.line, f"the row of the key {name} does not say what it holds")
    channel = Keys("<prefix>").channel("<session>").replace(":0:", ":<database>:")
    for shown in (Keys("gconc").key("meta"), channel):
        if f"`{shown}`" not in page.text:
            yield page.fault(1, f"`{shown}` is not shown")


def _api() -> Iterator[Fault]:
    page = _page("api.md")
    yield from _missing(page, list(celery_gconc.__all__), "public name")
    extension = celery_gconc.GlobalConcurrency
    methods = [name for name in dir(extension) if not name.startswith("_")]
    yield from _missing(page, methods, "member of GlobalConcurrency", need_section=False)
    for name in methods:
        if isinstance(method := getattr(extension, name), property) or name not in page.rows:
            continue
        parameters = list(inspect.signature(method).parameters.values())[1:]
        plain = inspect.Signature([each.replace(annotation=inspect.Parameter.empty) for each in parameters])
        if f"\n| `{name}{plain}` |" not in page.text:
            yield page.fault(page.rows[name].line, f"the arguments are `{name}{plain}`")
    public = {name: value for module in (celery_gconc, status) for name, value in vars(module).items()}
    for name, value in public.items():
        is_ours = name in celery_gconc.__all__ or getattr(value, "__module__", "") == status.__name__
        if is_ours and isinstance(value, type) and dataclasses.is_dataclass(value):
            yield from _described(page, name, [field.name for field in dataclasses.fields(value)], "field")


def _signals() -> Iterator[Fault]:
    page = _page("signals.md")
    yield from _missing(page, list(signals.__all__), "signal")
    for name in signals.__all__:
        yield from _described(page, name, list(getattr(signals, name).providing_args), "argument")


def _described(page: Page, name: str, parts: list[str], what: str) -> Iterator[Fault]:
    """Parts that have no row in the table of their section."""
    section = page.section(name)
    for part in parts:
        if section is None or f"\n| `{part}` |" not in section.text:
            yield page.fault(section.line if section else 1, f"no table row for the {what} {part} of {name}")


def _rights() -> Iterator[Fault]:
    """The commands in acl.md are those of the ACL lines in security.md, and those that scripts call are among them."""
    lines = re.findall(r"^ACL SETUSER .*$", (DOCS / "explanation" / "security.md").read_text("utf-8"), re.MULTILINE)
    page = _page("acl.md")
    parts = page.text.replace("\\|", "|").split("## Commands for")[1:]
    if (len(lines), len(parts)) != (2, 2):
        yield page.fault(1, "two ACL lines in security.md, and two parts 'Commands for' here, are what this lint reads")
        return
    ours, both = (set(re.findall(r"\+(\S+)", line)) for line in lines)
    permits, broker = (set(re.findall(r"`\+([a-z|]+)`", part)) for part in parts)
    for word in sorted((permits - {"select"}) ^ ours):
        yield page.fault(1, f"+{word} is not on both pages, here and in the first ACL line of security.md")
    for word in sorted(broker - both):
        yield page.fault(1, f"+{word} is not in the second ACL line of security.md")
    for kind, named in (("permits", permits), ("broker", broker)):
        if not (scripts := sorted(SCRIPTS[kind].rglob("*.lua"))):
            yield page.fault(1, f"no scripts in {SCRIPTS[kind].relative_to(ROOT)}: mend this lint")
        for script in scripts:
            called = {word.lower() for word in re.findall(r"call\('([A-Z]+)'", script.read_text("utf-8"))}
            for word in sorted(called - {name.partition("|")[0] for name in named}):
                yield page.fault(1, f"+{word} is missing: {script.name} calls it")

"""The Lua texts as they are assembled: what each script is made of is seen in review, and its parts keep the rules.

``pytest tests/store/test_scripts.py --update-golden`` writes the snapshots anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import celery_gconc
from celery_gconc.connection import scripts
from celery_gconc.connection.scripts import ScriptError, assemble
from celery_gconc.limits.claims import Claim
from celery_gconc.protocol.messages import GRANT, ROW, RUN, WANT, Row, Running, Want, grants_of
from celery_gconc.protocol.scripts import SCRIPTS, script

from .namespace import Namespace
from .scopes import functions, shadowed

SNAPSHOTS = Path(__file__).parent / "snapshots"

PACKAGE = Path(celery_gconc.__file__).parent

FILES = sorted(PACKAGE.rglob("*.lua"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_is_what_its_snapshot_says(name: str, request: pytest.FixtureRequest):
    path = SNAPSHOTS / f"{name}.lua"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(script(name), encoding="utf-8")
    assert script(name) == path.read_text(encoding="utf-8"), "see the module's docstring"


def test_rows_have_their_fields_in_the_order_that_scripts_know():
    claims = (Claim("app", 1), Claim("pool:db", 3))
    row = Row(2.0, "id", "name")
    assert dict(zip(ROW, row.row(), strict=True)) == {"age": 2_000_000, "task_id": "id", "task": "name"}
    want = dict(zip(WANT, Want(7, claims, 2, 3, [row], "queue:q").row(), strict=True))
    assert want == {"set": 7, "claims": claims, "skip": 2, "kept": 3, "requests": [row.row()], "queue_limit": "queue:q"}
    runs = dict(zip(RUN, Running(claims, "id", "name", 2.0).row(), strict=True))
    assert runs == {"claims": claims, "task_id": "id", "task": "name", "age": 2000}
    (grant,) = grants_of([[{"grant": 1, "set": 2, "claims": claims, "fence": 3, "at": 4000}[name] for name in GRANT]])
    assert (grant.grant, grant.set, grant.claims, grant.fence, grant.at) == (1, 2, claims, 3, 4.0)


def test_there_is_no_snapshot_without_a_script():
    assert {path.stem for path in SNAPSHOTS.iterdir()} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_name_in_a_script_shadows_another(name: str):
    assert shadowed(script(name)) == []


def test_a_name_that_shadows_another_is_found():
    assert shadowed("local ends = 1\nlocal function shut(ends) end") == ["ends"]
    assert shadowed("for i = 1, 2 do local a = i end\nfor i = 1, 2 do end\nlocal a") == []
    assert shadowed("local a = 'local a' -- local a\nlocal b = { a = a }") == []
    assert shadowed("local a\nif a then local b, a = 1, 2 else local b end") == ["a"]
    assert shadowed("local function a(x) return function(y) local x end end") == ["x"]
    assert shadowed("local a\nrepeat local b = a until b\nwhile a do local b end\nlocal b") == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_lua_function_is_longer_than_fifty_lines_and_no_file_than_350(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    assert [name for name, lines in functions(text) if lines > 50] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_exactly_what_it_uses(path: Path):
    core = next(up / "core" for up in path.parents if (up / "core").is_dir())
    parts = {part.stem for part in core.glob("*.lua")}
    first, _, text = path.read_text(encoding="utf-8").partition("\n")
    code = re.sub(r"--.*|'[^'\n]*'", "", text)
    used = {part for part in parts - {path.stem} if re.search(rf"(?<![\w.]){part}[.(]", code)}
    said = set(first.removeprefix("-- uses: ").split()) - {"nothing"}
    assert said == used
    assert shadowed(f"local _, {', '.join(sorted(used))}\n{text}") == [], "a name of a part is no name of anything else"


def _write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    for name, text in files.items():
        path = tmp_path / "lua" / f"{name.replace('__', '/')}.lua"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(scripts.resources, "files", lambda package: tmp_path)
    for known in (assemble, scripts._file):
        known.cache_clear()


def test_parts_stand_once_after_those_that_they_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _write(
        tmp_path,
        monkeypatch,
        core__a="-- uses: nothing\nA",
        core__b="-- uses: a\nB",
        core__c="-- uses: b a\nC",
        x="-- uses: c b\nX",
    )
    assert re.findall(r"^\w$", assemble("p", "x"), re.MULTILINE) == ["A", "B", "C", "X"]


def test_a_part_is_made_once_and_only_when_it_is_asked_for_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: Namespace
):
    part = "-- uses: nothing\nlocal {0}\ndo\n  redis.call('RPUSH', 'made', '{0}')\n  {0} = {{ one = 1 }}\nend\n"
    asks = "local sum = read.one + read.one\nwritten.two = 2\nreturn sum + written.one + written.two\n"
    _write(
        tmp_path,
        monkeypatch,
        core__read=part.format("read"),
        core__written=part.format("written"),
        core__unused=part.format("unused"),
        x=f"-- uses: read written unused\n{asks}",
    )
    assert namespace.raw.eval(assemble("p", "x"), 0) == 5
    assert namespace.raw.lrange("made", 0, -1) == [b"read", b"written"]
    namespace.raw.delete("made")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-- uses: strange\n", "has no lua/core/strange.lua"),
        ("local a\n", "doesn't say in its first line"),
        ("-- uses: one\n", "parts use each other: one -> two -> one"),
        ("-- uses: nothing\nreturn 1\n", "doesn't call begin()"),
    ],
)
def test_a_script_that_breaks_a_rule_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str):
    _write(tmp_path, monkeypatch, core__one="-- uses: two\n", core__two="-- uses: one\n", x=text)
    with pytest.raises(ScriptError, match=re.escape(why)):
        assemble("p", "x", first="begin()" if "return" in text else "")


def test_a_script_may_say_why_it_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _write(tmp_path, monkeypatch, x="-- uses: nothing\n-- doesn't begin: it need not\nreturn 1\n")
    assert assemble("p", "x", first="begin()").endswith("return 1\n")

"""What Flower shows of the limits and changes in them, in each version, beside a real worker and in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from tornado.web import create_signed_value

from celery_gconc.flower.snapshots import MAX_OPEN
from tests.flower.kit import USER, VERSIONS, Bench, Browser, Flower, flower
from tests.kit.servers import wait_until

EMAILS = "queue:emails"

Tasks = Callable[..., list[str]]
Flowers = dict[str, Flower]

every_version = pytest.mark.parametrize("version", VERSIONS)

#: What is ours alone, whatever the version looks like or allows, is looked at in one of them.
OLDEST, MIDDLE, NEWEST = VERSIONS


# -- In a browser --------------------------------------------------------------------------------------------


@every_version
def test_a_click_raises_a_limit_in_redis_and_the_page_shows_what_that_does(
    bench: Bench, flowers: Flowers, chromium: Browser, tasks: Tasks, version: str
):
    held, *_ = tasks(3)
    bench.wait_for(1, 2)
    chromium.resize(1280, 900)
    chromium.open(flowers[version])
    chromium.shows("1 of 1", ".gconc-fullness", EMAILS)
    chromium.shows("full", ".gconc-badge", EMAILS)
    badge, bar = (chromium.find(part, EMAILS) for part in (".gconc-badge", ".gconc-bar"))
    assert badge.value_of_css_property("background-color") == bar.value_of_css_property("background-color")
    chromium.shows("as configured", ".gconc-note", EMAILS)

    chromium.click(".gconc-raise", EMAILS)
    chromium.shows(f"{EMAILS}: was 1 (configured), now 2", "#gconc-message")  # first: it goes after a while
    bench.wait_for(2, 1)
    assert (bench.limit().max, bench.limit().set_by) == (2, USER)
    chromium.shows("2 of 2", ".gconc-fullness", EMAILS)
    chromium.shows(f"set to 2 by {USER}", ".gconc-note", EMAILS)

    # Two clicks are two steps, whether or not the first is done.
    chromium.driver.execute_script("arguments[0].click(); arguments[0].click()", chromium.find(".gconc-raise", EMAILS))
    wait_until(lambda: bench.limit().max == 4, what="two clicks raise by two")
    chromium.click(".gconc-lower", EMAILS)
    wait_until(lambda: bench.limit().max == 3, what="a click lowers it")
    bench.wait_for(3, 0)
    chromium.shows("3 of 3", ".gconc-fullness", EMAILS)

    chromium.click(".gconc-pause", EMAILS)
    wait_until(lambda: bench.limit().paused_by == USER, what="a click pauses it")
    chromium.shows("paused", ".gconc-badge", EMAILS)
    chromium.shows("Resume", ".gconc-pause", EMAILS)
    chromium.click(".gconc-pause", EMAILS)
    wait_until(lambda: not bench.limit().paused, what="a click resumes it")

    chromium.click(".gconc-open", EMAILS)
    chromium.click(".gconc-reset", EMAILS)
    wait_until(lambda: not bench.limit().overridden, what="a click resets it")
    chromium.shows("draining", ".gconc-badge", EMAILS)

    link = chromium.find(f'.gconc-list a[title="{held}"]', EMAILS)
    assert link.get_attribute("href") == f"{flowers[version].url}/task/{held}"
    chromium.click(f'.gconc-list a[title="{held}"]', EMAILS)
    chromium.shows(held, "body")
    assert not chromium.errors()


def test_an_answer_from_before_a_change_takes_nothing_back_that_is_shown_of_it(
    bench: Bench, flowers: Flowers, chromium: Browser, tasks: Tasks
):
    chromium.open(flowers[MIDDLE])
    chromium.shows("0 of 1", ".gconc-fullness", EMAILS)
    chromium.driver.execute_script(
        """
        const fetched = window.fetch;
        window.fetch = async (...asked) => {
          const answer = await fetched(...asked);
          if (String(asked[0]).includes("json=1") && !window.arrive) {
            await new Promise((arrive) => { window.arrive = arrive; });
          }
          return answer;
        };
        const count = arguments[0];
        window.seen = [];
        new MutationObserver(() => window.seen.push(count.textContent)).observe(
          count, {childList: true, characterData: true, subtree: true});
        """,
        chromium.find(".gconc-fullness", EMAILS),
    )
    wait_until(lambda: chromium.driver.execute_script("return Boolean(window.arrive)"), what="an answer is under way")
    chromium.click(".gconc-raise", EMAILS)
    chromium.shows(f"{EMAILS}: was 1 (configured), now 2", "#gconc-message")
    chromium.driver.execute_script("window.arrive()")
    chromium.shows(f"set to 2 by {USER}", ".gconc-note", EMAILS)
    assert chromium.driver.execute_script("return window.seen") == ["0 of 2"]


def test_refreshes_take_nothing_from_a_form_that_is_being_filled_in(
    bench: Bench, flowers: Flowers, chromium: Browser, tasks: Tasks
):
    waiting = tasks(2)
    bench.wait_for(1, 1)
    chromium.resize(1280, 900)
    chromium.open(flowers[MIDDLE])
    chromium.click(".gconc-open", EMAILS)
    chromium.find(".gconc-field-reason input", EMAILS).send_keys('<b>"mail')
    bench.end(waiting[1])
    bench.wait_for(1, 0)
    chromium.shows("No tasks are waiting for it.", 'section[aria-label="Waiting"]', EMAILS)  # by a refresh meanwhile
    typed = chromium.find(".gconc-field-reason input", EMAILS)
    assert typed == chromium.driver.switch_to.active_element
    typed.send_keys(' & co"</b>')
    chromium.find(".gconc-field-max input", EMAILS).send_keys("7")
    chromium.find('.gconc-field-duration option[value="3600"]', EMAILS).click()
    chromium.click(".gconc-set", EMAILS)

    wait_until(lambda: bench.limit().max == 7, what="the form sets the max")
    limit = bench.limit()
    assert limit.reason == '<b>"mail & co"</b>'
    assert limit.set_until is not None
    assert 3500 < limit.set_until - bench.operations.server_time() <= 3600
    chromium.shows('“<b>"mail & co"</b>”', ".gconc-note", EMAILS)
    assert not chromium.find(".gconc-field-reason input", EMAILS).get_attribute("value")

    chromium.click(".gconc-raise", EMAILS)
    wait_until(lambda: bench.limit().max == 8, what="a click raises it")
    assert (bench.limit().reason, bench.limit().set_until is None) == (limit.reason, False)

    chromium.find(".gconc-field-max input", EMAILS).send_keys("many")
    chromium.click(".gconc-set", EMAILS)
    chromium.shows("a max must be a whole number >= 0, or 'unlimited'; got 'many'", "#gconc-message")
    assert bench.limit().max == 8
    assert chromium.find(".gconc-field-max input", EMAILS).get_attribute("value") == "many"


@every_version
def test_the_page_fits_a_phone_and_a_tablet_and_what_was_not_limited_can_be_from_there(
    bench: Bench, flowers: Flowers, chromium: Browser, tasks: Tasks, version: str
):
    chromium.resize(390, 844)
    chromium.open(flowers[version])
    chromium.shows("0 of 1", ".gconc-fullness", EMAILS)
    chromium.click(".gconc-open", EMAILS)
    chromium.find(".gconc-set", EMAILS)
    for width in (800, 390):
        chromium.resize(width, 844)
        assert chromium.driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert not chromium.cut_off(), width

    name = f"task:of.flower[{version}].which_has_a_name_that_needs_two_lines"
    chromium.click("#gconc-add")
    chromium.find("#gconc-new-limit").send_keys(name)
    chromium.find("#gconc-new .gconc-field-max input").send_keys("unlimited")
    chromium.click("#gconc-new .gconc-set")
    chromium.shows("0, no limit", ".gconc-fullness", name)
    assert bench.limit(name).set_by == USER
    lines, note = chromium.indents(name)
    assert lines == [note] * 2
    chromium.find("#gconc-filter").send_keys("EMAILS")
    chromium.find(".gconc-name", EMAILS)
    wait_until(
        lambda: len(chromium.driver.find_elements("css selector", "tbody[data-limit]")) == 1, what="it is filtered out"
    )
    assert not chromium.errors()


def test_a_task_that_has_ended_leaves_the_list_though_its_link_has_the_focus(
    bench: Bench, flowers: Flowers, chromium: Browser, tasks: Tasks
):
    (held,) = tasks(1)
    bench.wait_for(1, 0)
    chromium.resize(1280, 900)
    chromium.open(flowers[NEWEST])
    chromium.click(".gconc-open", EMAILS)
    link = f'.gconc-list a[title="{held}"]'
    chromium.driver.execute_script("arguments[0].focus()", chromium.find(link, EMAILS))
    bench.end(held)
    wait_until(lambda: not chromium.driver.find_elements("css selector", link), what="its row is gone")
    running = chromium.find('section[aria-label="Running"] .gconc-list', EMAILS)
    assert chromium.driver.switch_to.active_element == running


def test_of_more_limits_than_can_be_open_at_once_the_others_say_why_they_show_nothing(
    bench: Bench, flowers: Flowers, chromium: Browser, tasks: Tasks
):
    many = [f"pool:many.{number:02}" for number in range(MAX_OPEN + 1)]
    for name in many:
        bench.operations.set(name, 1)
    chromium.resize(1280, 900)
    chromium.open(flowers[NEWEST])
    chromium.find("#gconc-filter").send_keys("many.")
    for name in many:
        chromium.driver.execute_script("arguments[0].click()", chromium.find(".gconc-open", name))
    for part in ("Running", "Waiting"):
        chromium.shows(f"Only {MAX_OPEN} limits can show this at once", f'section[aria-label="{part}"]', many[-1])
        chromium.shows("No tasks", f'section[aria-label="{part}"]', many[-2])
    chromium.click(".gconc-open", many[0])
    chromium.shows("No tasks are running under this limit.", 'section[aria-label="Running"]', many[-1])


@every_version
def test_who_opens_flower_without_a_login_sees_all_of_it_and_why_there_are_no_buttons(
    bench: Bench, open_flowers: Flowers, chromium: Browser, tasks: Tasks, version: str
):
    tasks(6)
    bench.wait_for(1, 5)
    wait_until(lambda: 0 < bench.limit().parked < 5, what="some are in line, and the others behind it")
    chromium.resize(1280, 900)
    chromium.open(open_flowers[version], "/")
    chromium.shows("Limits", '.nav-link[href="/gconc"]')
    chromium.click('.nav-link[href="/gconc"]')
    chromium.shows("1 of 1", ".gconc-fullness", EMAILS)
    chromium.shows("5", "[data-label=waiting]", EMAILS)
    chromium.shows("5", "#gconc-waiting")
    chromium.shows("You can't change limits here.", "#gconc-refusal")
    chromium.shows("--basic-auth", "#gconc-refusal")
    chromium.click(".gconc-open", EMAILS)
    chromium.shows("tests.cluster.app.nap", 'section[aria-label="Running"]', EMAILS)
    chromium.shows("tests.cluster.app.nap", 'section[aria-label="Waiting"]', EMAILS)
    assert not chromium.driver.find_elements("css selector", ".gconc button.btn:not([hidden])")
    assert chromium.driver.title == "Limits · Flower"
    assert not chromium.errors()


# -- Over HTTP -----------------------------------------------------------------------------------------------


@every_version
def test_the_api_goes_by_flowers_own_rules_of_who_may_use_it(
    bench: Bench, flowers: Flowers, open_flowers: Flowers, version: str
):
    raise_it = "action=set&limit=emails&max=5"
    assert open_flowers[version].ask("/api/gconc").code == 401
    assert open_flowers[version].ask("/api/gconc", raise_it).code == 401
    assert open_flowers[version].ask("/gconc?json=1").json["limits"]
    for path in ("/gconc", "/gconc?json=1", "/api/gconc"):
        assert flowers[version].ask(path, logged_in=False).code == 401, path
    assert flowers[version].ask("/api/gconc", raise_it, logged_in=False).code == 401
    for header in ({"Sec_Fetch_Site": "cross-site"}, {"Origin": "https://elsewhere.example"}):
        assert flowers[version].ask("/api/gconc", raise_it, **header).code == 403, header
    assert bench.limit().max == 1


@every_version
def test_the_api_reads_and_changes_limits(bench: Bench, flowers: Flowers, tasks: Tasks, version: str):
    here = flowers[version]
    (held,) = tasks(1)
    bench.wait_for(1, 0)
    done = here.ask("/api/gconc", "action=set&limit=emails&max=0&reason=a%26b&duration=60")
    assert (done.code, done.json["message"]) == (200, "queue:emails: was 1 (configured), now 0")
    limit = bench.limit()
    assert (limit.max, limit.set_by, limit.reason, limit.set_until is None) == (0, USER, "a&b", False)
    asked = {"action": "pause", "limit": "pool:db", "reason": None}
    assert here.ask("/api/gconc", json.dumps(asked), Content_Type="application/json").code == 200
    assert bench.limit("pool:db").paused_by == USER

    told = here.ask("/api/gconc?limit=emails").json
    assert next(limit for limit in told["limits"] if limit["limit"] == EMAILS)["max"] == 0

    def is_shown() -> bool:  # with the next heartbeat, where the task before it has left it a unit
        told = here.ask("/api/gconc?limit=emails").json
        return [holder["task_id"] for holder in told["holders"][EMAILS]] == [held]

    wait_until(is_shown, what="who holds it is shown")
    assert told["sessions"][0]["node"] == "w1@test"
    assert here.ask("/api/gconc?action=resume&limit=pool:db", "").json["change"]["now"]["paused"] is False
    assert here.ask("/api/gconc", "action=reset&limit=emails").json["change"]["now"]["max"] == 1

    for wrong, why in (
        ("limit=emails&max=2", "action must be one of set, pause, resume, reset; got None"),
        ("action=drop&limit=emails", "action must be one of"),
        ("action=set&limit=emails", "set takes a max"),
        ("action=set&limit=emails&max=-1", "a max must be"),
        ("action=set&limit=kueue:emails&max=1", "unknown scope 'kueue'"),
        ("action=set&max=1", "expected a limit such as"),
        ("action=set&limit=emails&max=1&duration=soon", "a duration must be a number of seconds"),
        ("action=reset&limit=emails&reason=x", "reset doesn't take 'reason'"),
        ("action=set&limit=emails&max=2&by=root", "set doesn't take 'by'"),
    ):
        refused = here.ask("/api/gconc", wrong)
        assert (refused.code, why in refused.json["error"]) == (400, True), (wrong, refused.text)
    assert here.ask("/api/gconc", "[1]", Content_Type="application/json").code == 400
    assert here.ask("/api/gconc?limit=kueue:x").code == 400
    assert not bench.limit().overridden


def test_a_flower_that_may_only_read_changes_nothing_and_says_so(bench: Bench, versions: tuple[str, ...]):
    # (The option is there since 2.1.)
    with flower(bench.cluster, MIDDLE, "--read-only", "--auto-refresh=False", login=True) as here:
        here.ready()
        assert "checked" not in here.ask("/gconc").text  # of the switch for live refresh
        refused = here.ask("/api/gconc", "action=set&limit=emails&max=5")
        assert (refused.code, refused.json["error"]) == (403, "Flower is in read-only mode (--read-only).")
        assert "Flower is in read-only mode" in here.ask("/gconc").text
    assert not bench.limit().overridden


@pytest.mark.parametrize("version", [OLDEST, NEWEST])  # since 2.2 Flower looks at the token itself
def test_who_logged_in_elsewhere_is_named_by_their_address_and_needs_flowers_token(
    bench: Bench, chromium: Browser, tasks: Tasks, version: str, versions: tuple[str, ...]
):
    # As after a log in by OAuth, of which only the cookie is left.
    secret, email = "not so secret", "alice@example.com"
    cookie = create_signed_value(secret, "user", email).decode()
    with flower(bench.cluster, version, f"--auth={email}", f"--cookie_secret={secret}") as here:
        here.ready()
        raise_it = "action=set&limit=emails&max=5"
        assert here.ask("/api/gconc", raise_it).code in (401, 403)  # (since 2.2 the token is looked at first)
        if version >= "2.2":
            assert here.ask("/api/gconc", raise_it, Cookie=f"user={cookie}").code == 403
        assert not bench.limit().overridden
        chromium.resize(1280, 900)
        chromium.open(here, "/healthcheck")
        chromium.driver.add_cookie({"name": "user", "value": cookie})
        chromium.open(here)
        chromium.shows("0 of 1", ".gconc-fullness", EMAILS)
        chromium.click(".gconc-raise", EMAILS)
        chromium.shows("0 of 2", ".gconc-fullness", EMAILS)
        wait_until(lambda: bench.limit().set_by == email, what="a click raises it")

        chromium.driver.delete_cookie("user")  # as when the login runs out
        chromium.shows("You have been logged out: reload the page.", "#gconc-error")
        chromium.click(".gconc-raise", EMAILS)
        chromium.shows("You have been logged out: reload the page.", "#gconc-message")
        assert bench.limit().max == 2
        chromium.driver.delete_all_cookies()


def test_changes_from_a_flower_without_login_are_its_hosts(bench: Bench, versions: tuple[str, ...], tasks: Tasks):
    with flower(bench.cluster, NEWEST, FLOWER_UNAUTHENTICATED_API="true") as here:
        here.ready()
        assert here.ask("/api/gconc", "action=set&limit=emails&max=5").code == 200
        assert "You can't change limits here" not in here.ask("/gconc").text
    assert re.fullmatch(r"flower@.+", bench.limit().set_by or "")


@every_version
def test_a_worker_tells_flower_of_the_limits_by_itself(bench: Bench, flowers: Flowers, tasks: Tasks, version: str):
    tasks(2)
    bench.wait_for(1, 1)
    here = flowers[version]
    # (Flower shows what it heard last, and asks for the next time.)
    wait_until(lambda: "1 of 1 running, 1 waiting" in here.ask("/worker/w1@test").text, what="the tab Other has it")
    stats = here.ask("/api/workers?workername=w1@test&refresh=1").json["w1@test"]["stats"]
    assert stats["gconc queue:emails"].startswith("1 of 1 running, 1 waiting")
    assert stats["global_concurrency"]["running"] == 1


@every_version
def test_flowers_metrics_have_ours(bench: Bench, open_flowers: Flowers, tasks: Tasks, version: str):
    tasks(2)
    bench.wait_for(1, 1)
    here = open_flowers[version]
    # (What it tells may be a second old.)
    wait_until(lambda: 'celery_gconc_permits{limit="queue:emails"} 1.0' in here.ask("/metrics").text, what="a permit")
    told = here.ask("/metrics").text
    assert "celery_gconc_up 1.0" in told
    assert 'celery_gconc_limit_max{limit="queue:emails"} 1.0' in told
    assert 'celery_gconc_waiters{limit="queue:emails"} 1.0' in told
    assert "flower_events_total" in told


# -- Tasks ---------------------------------------------------------------------------------------------------


def test_a_parked_task_is_waiting_and_then_whatever_it_becomes(bench: Bench, flowers: Flowers, tasks: Tasks):
    def are(state: str, *ids: str) -> None:
        for version, here in flowers.items():
            for task_id in ids:
                wait_until(
                    lambda here=here, task_id=task_id: here.state_of(task_id) == state, 30,
                    f"Flower {version}: {state}; it is {here.state_of(task_id)}",
                )  # fmt: skip

    holder, starts, revoked = tasks(3)
    ends = bench.send("nap", 0.05)
    are("STARTED", holder)
    are("WAITING", starts, revoked, ends)
    bench.end(revoked)
    are("REVOKED", revoked)
    bench.end(holder)
    are("STARTED", starts)
    bench.end(starts)
    are("REVOKED", starts)
    are("SUCCESS", ends)
    for here in flowers.values():
        assert here.ask(f"/api/task/info/{ends}").json["started"]

// The page /gconc: asks Flower what holds every two seconds, and shows it in place. Elements that are there stay the
// same ones, so that nothing is lost of what somebody types, selects or is about to click.

(function () {
  "use strict";

  const REFRESH_MS = 2000, PATIENCE_MS = 10000, MESSAGE_MS = 8000, MOST_ROWS = 300;
  const DURATIONS = [["", "until changed"], [600, "10 minutes"], [3600, "1 hour"], [7200, "2 hours"],
    [28800, "8 hours"], [86400, "1 day"]];

  const root = document.getElementById("gconc");
  const places = root.dataset;
  const mayChange = !places.refusal;
  const find = (name) => document.getElementById("gconc-" + name);
  const rows = new Map(); // of limits, by name
  let shown = null; // the last snapshot, of which `shownAt` is this browser's time
  let shownAt = null;

  // -- Words and elements ---------------------------------------------------------------------------------

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== undefined && value !== null) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  function say(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  function span(seconds) {
    if (seconds < 10) return Math.max(seconds, 0).toFixed(1) + " s";
    for (const [unit, smaller, name] of [[86400, 3600, "d"], [3600, 60, "h"], [60, 1, "min"]]) {
      if (Math.round(seconds / smaller) * smaller >= 2 * unit) return Math.round(seconds / unit) + " " + name;
    }
    return Math.round(seconds) + " s";
  }

  // Who did something, when, for how long, and why.
  function story(by, at, until, reason) {
    let text = by ? " by " + by : "";
    if (at !== null) text += " " + span(shown.at - at) + " ago";
    if (until !== null && until > shown.at) text += ", " + span(until - shown.at) + " left";
    return text + (reason ? ": “" + reason + "”" : "");
  }

  function serverTime() {
    return shown.at + (Date.now() - shownAt.getTime()) / 1000;
  }

  function maxText(max) {
    return max === null ? "unlimited" : String(max);
  }

  // Make the children of `parent` those of `items`: new ones are built, the others stay the elements that they are.
  function patch(parent, items, keyOf, build, update) {
    const known = new Map(Array.from(parent.children).filter((child) => child.gconcKey !== undefined)
      .map((child) => [child.gconcKey, child]));
    const wanted = new Set(items.map(keyOf));
    for (const [key, child] of known) {
      if (!wanted.has(key)) drop(child);
    }
    let next = Array.from(parent.children).find((child) => child.gconcKey !== undefined) || null;
    for (const item of items) {
      const key = keyOf(item);
      let child = known.get(key);
      if (!child) {
        child = build(item);
        child.gconcKey = key;
      }
      if (child === next) next = child.nextElementSibling;
      else parent.insertBefore(child, next);
      update(child, item);
    }
  }

  // Remove what is no longer there. If it has the focus, that goes to the list that it's in; a limit, which is in none,
  // stays while somebody types below it.
  function drop(child) {
    if (child.contains(document.activeElement)) {
      const list = child.closest(".gconc-scrolls");
      if (!list) return;
      list.focus({preventScroll: true});
    }
    child.remove();
  }

  // -- Talk to Flower -------------------------------------------------------------------------------------

  // (An address with a user and a password in it can't be fetched from; the page's own may have them.)
  function address(path) {
    return new URL(path, window.location.origin).href;
  }

  async function ask(path, options) {
    let response;
    try {
      // (A redirect leads to the login, at another site perhaps, which the browser may not tell us anything of.)
      response = await fetch(address(path),
        {redirect: "manual", signal: AbortSignal.timeout(PATIENCE_MS), ...options});
    } catch (error) {
      throw new Error("Flower isn't answering.");
    }
    const text = await response.text();
    if (isLoggedOut(response, text)) throw new Error("You have been logged out: reload the page.");
    let answer = null;
    try {
      answer = JSON.parse(text);
    } catch (error) { /* Flower's own errors are text, or a page */ }
    if (response.ok && answer) return answer;
    if (answer && answer.error) throw new Error(answer.error);
    const isText = (response.headers.get("Content-Type") || "").startsWith("text/plain") || text.length < 200;
    throw new Error("Flower answered " + response.status + (isText && text ? ": " + text : "") + ".");
  }

  // Without a login Flower redirects who asks, and answers 401, or a bare 403, to who would change something.
  function isLoggedOut(response, text) {
    return response.type === "opaqueredirect" || response.status === 401 || (response.status === 403 && !text);
  }

  function cookie(name) {
    const found = document.cookie.split("; ").find((part) => part.startsWith(name + "="));
    return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
  }

  let changes = 0; // how many were begun or have ended

  async function change(asked) {
    changes++;
    try {
      const answer = await ask(places.page.replace(/gconc$/, "api/gconc"), {
        method: "POST",
        headers: {"Content-Type": "application/json", "X-XSRFToken": cookie("_xsrf")},
        body: JSON.stringify(asked)
      });
      tell(answer.message, false);
      return true;
    } catch (error) {
      tell(error.message, true);
      return false;
    } finally {
      changes++;
      refresh();
    }
  }

  let silence = null;
  function tell(text, isBad) {
    const message = find("message");
    message.classList.toggle("gconc-message-bad", isBad);
    message.textContent = text;
    clearTimeout(silence);
    silence = setTimeout(() => { message.textContent = ""; }, MESSAGE_MS);
  }

  // -- One limit ------------------------------------------------------------------------------------------

  class Row {
    constructor(name) {
      this.name = name;
      this.limit = null;
      this.target = undefined; // the max that was asked for last, while that is under way
      this.changes = Promise.resolve();
      this.open = element("button", {type: "button", class: "gconc-open", "aria-expanded": "false"}, ...breakable(name));
      this.badge = element("span", {class: "badge gconc-badge"});
      this.note = element("p", {class: "gconc-note"});
      this.count = element("span");
      this.bar = element("div", {class: "progress-bar gconc-bar"});
      this.progress = element("div", {class: "progress", role: "progressbar", "aria-valuemin": "0",
        "aria-label": "Fullness of " + name}, this.bar);
      this.waiting = element("td", {class: "gconc-number", "data-label": "waiting"});
      this.longest = element("td", {class: "gconc-number", "data-label": "longest wait"});
      this.pace = element("td", {class: "gconc-number", "data-label": "ended per minute"});
      this.summary = element("tr", {class: "gconc-row"},
        element("th", {scope: "row", class: "gconc-name"},
          element("div", {class: "gconc-heading"}, this.open, this.badge), this.note),
        element("td", {class: "gconc-fullness"}, this.count, this.progress),
        this.waiting, this.longest, this.pace, this.buttons());
      this.body = element("tbody", {"data-limit": name}, this.summary);
      this.details = null;
      this.open.addEventListener("click", () => this.toggle());
    }

    buttons() {
      const cell = element("td", {class: "gconc-change"});
      if (!mayChange) return cell;
      const button = (text, what, action) => {
        const made = element("button", {type: "button", class: "btn btn-sm btn-outline-secondary " + what}, text);
        made.addEventListener("click", action);
        return made;
      };
      this.lower = button("−", "gconc-lower", () => this.step(-1));
      this.raise = button("+", "gconc-raise", () => this.step(1));
      this.pause = button("Pause", "gconc-pause",
        () => change({action: this.limit.paused ? "resume" : "pause", limit: this.name}));
      cell.append(this.lower, " ", this.raise, " ", this.pause);
      return cell;
    }

    // One up or down from what was asked for last: two quick clicks are two steps. Reason and end of what is set stay.
    step(by) {
      const from = this.target === undefined ? this.limit.max : this.target;
      if (from === null || from + by < 0) return;
      const target = this.target = from + by;
      const asked = {action: "set", limit: this.name, max: target};
      if (this.limit.overridden) {
        asked.reason = this.limit.reason;
        if (this.limit.set_until !== null) asked.duration = Math.max(this.limit.set_until - serverTime(), 1);
      }
      this.show();
      this.changes = this.changes.then(() => change(asked)).then((made) => {
        if (made && this.target === target) this.limit.max = target;
        if (!made || this.target === target) this.target = undefined;
        this.show();
      });
    }

    update(limit) {
      this.limit = limit;
      this.show();
      if (this.details && !this.details.hidden) this.showLists();
    }

    show() {
      const limit = this.limit;
      const max = this.target === undefined ? limit.max : this.target;
      this.summary.dataset.state = limit.state;
      say(this.badge, limit.state);
      this.badge.hidden = !isClosed(limit);
      say(this.note, this.origin());
      say(this.count, max === null ? limit.running + ", no limit" : limit.running + " of " + max);
      this.progress.hidden = max === null;
      this.progress.setAttribute("aria-valuemax", String(max));
      this.progress.setAttribute("aria-valuenow", String(Math.min(limit.running, max)));
      this.progress.setAttribute("aria-valuetext", this.count.textContent + " running");
      this.bar.style.width = (max ? Math.min(100 * limit.running / max, 100) : limit.running ? 100 : 0) + "%";
      say(this.waiting, String(waitingFor(limit)));
      this.waiting.title = limit.waiting + " in line, and " + limit.parked + " more behind them, in workers or at the broker";
      say(this.longest, limit.longest_wait === null ? "–" : span(limit.longest_wait));
      say(this.pace, String(limit.per_minute));
      if (mayChange) this.showButtons(max);
    }

    showButtons(max) {
      const limit = this.limit;
      this.lower.disabled = max === null || max === 0;
      this.raise.disabled = max === null;
      this.lower.setAttribute("aria-label", "Lower " + this.name + (max ? " to " + (max - 1) : ""));
      this.raise.setAttribute("aria-label", "Raise " + this.name + (max === null ? "" : " to " + (max + 1)));
      say(this.pause, limit.paused ? "Resume" : "Pause");
      this.pause.setAttribute("aria-label", this.pause.textContent + " " + this.name);
      if (!this.details) return;
      say(this.pauseFor, limit.paused ? "Resume" : "Pause");
      this.reset.disabled = !limit.overridden;
      say(this.reset, limit.configured === null ? "Reset" : "Reset to " + limit.configured);
      this.max.placeholder = maxText(max);
    }

    // Where what holds comes from.
    origin() {
      const limit = this.limit, parts = [];
      if (limit.paused) {
        parts.push("paused" + story(limit.paused_by, limit.paused_at, limit.paused_until, limit.paused_reason));
      }
      if (limit.overridden) {
        parts.push("set to " + maxText(limit.max) + story(limit.set_by, limit.set_at, limit.set_until, limit.reason));
        parts.push(limit.configured === null ? "not configured" : "configured: " + limit.configured);
      } else {
        parts.push(limit.configured === null ? "not configured" : "as configured");
      }
      if (limit.waiting && !isClosed(limit)) parts.push("waiting tasks need a free slot in their worker, or room under another limit");
      return parts.join("; ");
    }

    // -- What opens below it --

    toggle() {
      if (!this.details) this.makeDetails();
      this.details.hidden = !this.details.hidden;
      this.open.setAttribute("aria-expanded", String(!this.details.hidden));
      this.show();
      refresh();
    }

    makeDetails() {
      const id = "gconc-details-" + this.name.replace(/[^\w-]/g, (sign) => "." + sign.charCodeAt(0));
      const cell = element("td", {colspan: "6"});
      if (mayChange) {
        const parts = changeForm(id, (asked) => change({...asked, limit: this.name}));
        this.max = parts.max;
        this.pauseFor = element("button", {type: "button", class: "btn btn-outline-secondary gconc-pause-for"}, "Pause");
        this.pauseFor.addEventListener("click", async () => {
          const asked = this.limit.paused ? {action: "resume"}
            : {action: "pause", reason: parts.reason.value, duration: parts.duration.value};
          if (await change({...asked, limit: this.name})) parts.reason.value = "";
        });
        this.reset = element("button", {type: "button", class: "btn btn-outline-secondary gconc-reset"}, "Reset");
        this.reset.addEventListener("click", () => change({action: "reset", limit: this.name}));
        parts.form.append(this.pauseFor, this.reset);
        cell.append(parts.form);
      }
      this.holders = list("Running", ["Task", "Worker", "For"]);
      this.waiters = list("Waiting", ["Position", "Task", "Worker", "For"]);
      cell.append(element("div", {class: "gconc-lists"}, this.holders.section, this.waiters.section));
      this.details = element("tr", {class: "gconc-details", id: id, hidden: ""}, cell);
      this.open.setAttribute("aria-controls", id);
      this.body.append(this.details);
    }

    showLists() {
      if (!shown.asked.has(this.name)) return; // opened since
      const limit = this.limit, holders = shown.holders[this.name], waiting = shown.waiting[this.name];
      const tooMany = holders ? "" : "Only " + Object.keys(shown.holders).length
        + " limits can show this at once: close some of the others.";
      this.showHolders(holders || [], tooMany || "No tasks are running under this limit.");
      this.showWaiters(waiting || [], tooMany || (limit.parked
        ? limit.parked + " tasks wait in workers or at the broker, and are not in line yet." : "No tasks are waiting for it."));
    }

    showHolders(holders, ifNone) {
      say(this.holders.note, holders.length ? more(this.limit.running, holders.length) : ifNone);
      patch(this.holders.body, holders, (item) => item.session + item.task_id, (item) => element("tr", {},
        taskCell(item), workerCell(item.node), element("td")),
        (line, item) => say(line.lastChild, span(shown.at - item.since)));
    }

    showWaiters(waiting, ifNone) {
      say(this.waiters.note, waiting.length ? more(waitingFor(this.limit), waiting.length) : ifNone);
      patch(this.waiters.body, waiting, (item) => item.session + item.task_id, (item) => element("tr", {},
        element("td"), taskCell(item), workerCell(item.node), element("td")),
        (line, item) => {
          say(line.firstChild, String(item.position));
          say(line.lastChild, span(item.waited));
        });
    }
  }

  // Whether nothing starts under a limit now. Its badge says so, and its colours go by it.
  function isClosed(limit) {
    return limit.state !== "open" && limit.state !== "unlimited";
  }

  // A name, of which the parts stay whole where it needs more than one line.
  function breakable(name) {
    return name.match(/[^.:_/-]*[.:_/-]*/g).flatMap((part) => [part, element("wbr")]);
  }

  function waitingFor(limit) {
    return limit.waiting + limit.parked;
  }

  function more(all, here) {
    return all > here ? "and " + (all - here) + " more" : "";
  }

  function list(title, columns) {
    const body = element("tbody"), note = element("p", {class: "gconc-note ms-0"});
    const head = element("tr", {}, ...columns.map((column) => element("th", {scope: "col"}, column)));
    const table = element("table", {}, element("thead", {}, head), body);
    return {body, note, section: element("section", {"aria-label": title}, element("h2", {}, title),
      element("div", {class: "gconc-list gconc-scrolls", tabindex: "0"}, table), note)};
  }

  function taskCell(item) {
    const url = places.task.replace(/ID$/, encodeURIComponent(item.task_id));
    return element("td", {}, element("a", {href: url, title: item.task_id}, item.task), " ",
      element("code", {title: item.task_id}, item.task_id.slice(0, 8)));
  }

  function workerCell(node) {
    return element("td", {}, element("a", {href: places.worker.replace(/ID$/, encodeURIComponent(node))}, node));
  }

  // A form that sets a max, for a time, with a reason.
  function changeForm(id, onSet) {
    const field = (name, title, input) => {
      input.id = id + "-" + name;
      return element("div", {class: "gconc-field-" + name}, element("label", {for: input.id}, title), input);
    };
    const max = element("input", {class: "form-control", inputmode: "numeric", autocomplete: "off", required: "",
      title: "a whole number, or: unlimited"});
    const duration = element("select", {class: "form-select"},
      ...DURATIONS.map(([seconds, text]) => element("option", {value: seconds}, text)));
    const reason = element("input", {class: "form-control", maxlength: "200", autocomplete: "off",
      placeholder: "shown to everyone"});
    const form = element("form", {class: "gconc-form"}, field("max", "New max", max),
      field("duration", "For how long", duration), field("reason", "Why", reason),
      element("button", {type: "submit", class: "btn btn-primary gconc-set"}, "Set"));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (await onSet({action: "set", max: max.value, duration: duration.value, reason: reason.value})) form.reset();
    });
    return {form, max, duration, reason};
  }

  function makeNew() {
    const button = find("add"), card = find("new");
    const parts = changeForm("gconc-new-form", (asked) => change({...asked, limit: limit.value}));
    const limit = element("input", {class: "form-control", id: "gconc-new-limit", required: "", autocomplete: "off",
      placeholder: "a queue, task:proj.tasks.sync, pool:db or app"});
    parts.form.prepend(element("div", {class: "gconc-field-limit"},
      element("label", {for: "gconc-new-limit"}, "Limit"), limit));
    card.append(parts.form);
    button.hidden = false;
    button.addEventListener("click", () => {
      card.hidden = !card.hidden;
      button.setAttribute("aria-expanded", String(!card.hidden));
      if (!card.hidden) limit.focus();
    });
  }

  // -- All of it ------------------------------------------------------------------------------------------

  function showAll() {
    const text = find("filter").value.trim().toLowerCase();
    const found = shown.limits.filter((limit) => limit.limit.toLowerCase().includes(text));
    patch(find("limits"), found.slice(0, MOST_ROWS), (limit) => limit.limit, (limit) => {
      if (!rows.has(limit.limit)) rows.set(limit.limit, new Row(limit.limit));
      return rows.get(limit.limit).body;
    }, (body, limit) => rows.get(limit.limit).update(limit));
    const hidden = found.length - MOST_ROWS;
    say(find("empty"), hidden > 0 ? hidden + " more: filter by name"
      : !shown.limits.length ? "No limits are set yet." : !found.length ? "No limit's name contains that." : "");
    find("empty").hidden = !find("empty").textContent;
    showNumbers();
    showSessions();
  }

  function showNumbers() {
    const sum = (items, count) => items.reduce((all, item) => all + count(item), 0);
    const closed = shown.limits.filter(isClosed);
    say(find("permits"), String(sum(shown.sessions, (session) => session.permits)));
    say(find("waiting"), String(sum(shown.limits, waitingFor)));
    say(find("closed"), closed.length + " of " + shown.limits.length);
    say(find("workers"), String(shown.sessions.length));
  }

  function showSessions() {
    patch(find("sessions"), shown.sessions, (session) => session.session, (session) => element("tr", {},
      workerCell(session.node), element("td", {}, session.pool),
      ...Array.from({length: 4}, () => element("td", {class: "gconc-number"})), element("td", {}, session.version)),
      (line, session) => [session.permits, session.waiting, session.room, span(session.lease)].forEach(
        (value, at) => say(line.children[2 + at], String(value))));
  }

  function showError(text) {
    root.classList.toggle("gconc-stale", Boolean(text));
    find("dot").className = "status-dot " + (text ? "status-dot-error" : find("live").checked ? "status-dot-live" : "");
    const when = shownAt ? shownAt.toLocaleTimeString() : "never";
    say(find("error"), text ? text + (shownAt ? " Showing data from " + when + "." : "") : "");
    find("error").hidden = !text;
    say(find("when"), text ? "Not updated since " + when : "As of " + when);
  }

  async function load() {
    const opened = Array.from(rows.values()).filter((row) => row.details && !row.details.hidden && row.body.isConnected);
    const query = opened.map((row) => "&limit=" + encodeURIComponent(row.name)).join("");
    const before = changes;
    try {
      const answer = await ask(places.page + "?json=1" + query);
      if (changes !== before) { // it may be from before the change
        again = true;
        return;
      }
      shown = answer;
      shown.asked = new Set(opened.map((row) => row.name));
      shownAt = new Date();
      showAll();
      showError("");
    } catch (error) {
      if (!shown) say(find("empty"), "");
      showError(error.message);
    }
  }

  let loading = null, again = false;
  function refresh() {
    again = Boolean(loading);
    if (again) return;
    loading = load().finally(() => {
      loading = null;
      if (again) refresh();
    });
  }

  document.title = "Limits · Flower"; // (flower 2.0 and 2.1 have one title for all)
  if (mayChange) makeNew();
  find("filter").addEventListener("input", () => shown && showAll());
  find("live").addEventListener("change", () => refresh());
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  setInterval(() => {
    if (find("live").checked && !document.hidden) refresh();
  }, REFRESH_MS);
  refresh();
})();

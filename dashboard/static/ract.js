// Shows what `ract.dashboard.parts` declares. Tables are patched row by row and cell by cell, so that
// scrolling, selections and the person's filters stay. Whatever comes from the cluster is put into
// the page as text, never as HTML.
"use strict";
(() => {
  const described = document.getElementById("page");
  const page = described ? JSON.parse(described.textContent) : { parts: [] };
  const params = new URLSearchParams(location.search);
  const trouble = document.getElementById("trouble");
  const PASSED_ON = { job_id: "job", node_id: "node", actor_id: "actor", group_id: "placement group" };

  // ------------------------------------------------------------------ small things

  function h(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== null && value !== false)
        element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const number = new Intl.NumberFormat("en-US", { maximumFractionDigits: 2 });

  function bytes(n) {
    for (const unit of ["B", "KiB", "MiB", "GiB"]) {
      if (Math.abs(n) < 1024) return unit === "B" ? `${Math.round(n)} B` : `${n.toFixed(1)} ${unit}`;
      n /= 1024;
    }
    return `${n.toFixed(1)} TiB`;
  }

  function seconds(s) {
    if (s === 0) return "0 s";
    if (s < 1e-3) return `${(s * 1e6).toPrecision(3)} µs`;
    if (s < 1) return `${(s * 1e3).toPrecision(3)} ms`;
    if (s < 60) return `${s.toPrecision(3)} s`;
    return lasting(s);
  }

  function lasting(s) {
    if (s < 60) return `${Math.floor(s)} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
    return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  }

  function since(ms) {
    const s = Math.max(0, (Date.now() - ms) / 1000);
    return s < 2 ? "now" : `${lasting(s)} ago`;
  }

  const two = (n) => String(n).padStart(2, "0");

  function clock(ms) {
    const at = new Date(ms);
    const day = at.toDateString() === new Date().toDateString() ? "" : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} `;
    return `${day}${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  }

  // What tells ids apart: they begin with zeros, those of constructors with 16 f and zeros, and end
  // with what many share.
  function short(id) {
    if (id.length <= 8) return id;
    const rest = id.replace(/^(f{16})?0*/, "");
    return rest.length > 18 ? `${rest.slice(0, 16)}…` : rest;
  }

  const filled = (template, row) =>
    template.replace(/\{(\w+)\}/g, (_, key) => encodeURIComponent(row[key] ?? ""));

  function linkOf(column, row) {
    if (!column.link) return "";
    const needed = [...column.link.matchAll(/\{(\w+)\}/g)].map((found) => row[found[1]]);
    return needed.some((value) => value === "" || value === null || value === undefined || value === 0) ? "" : filled(column.link, row);
  }

  const STATES = {
    ALIVE: "good", CREATED: "good", RUNNING: "info", FINISHED: "good", SUCCEEDED: "good", READY: "good",
    DEAD: "idle", FAILED: "bad", LOST: "bad", INFEASIBLE: "bad", PENDING: "warn", WAITING: "warn",
    PENDING_CREATION: "warn", RESTARTING: "warn", RESCHEDULING: "warn", DRAINING: "warn",
    REMOVED: "idle", FREED: "idle", UNKNOWN: "warn",
    PENDING_ARGS_AVAIL: "warn", PENDING_NODE_ASSIGNMENT: "warn", SUBMITTED_TO_WORKER: "info",
    RUNNING_IN_RAY_GET: "info", RUNNING_IN_RAY_WAIT: "info",
  };
  const WORDS = {
    PENDING_CREATION: "pending", PENDING_ARGS_AVAIL: "waits for arguments",
    PENDING_NODE_ASSIGNMENT: "waits for a node", SUBMITTED_TO_WORKER: "submitted",
    RUNNING_IN_RAY_GET: "waits in get", RUNNING_IN_RAY_WAIT: "waits in wait",
  };

  function badge(state) {
    const found = h("span", { class: `state ${STATES[state] || "idle"}` });
    found.textContent = WORDS[state] || String(state).toLowerCase();
    found.title = state;
    return found;
  }

  function track(parts) {
    const bar = h("span", { class: "track" });
    for (const [part, kind] of parts) {
      const fill = h("i", { class: kind });
      fill.style.width = `${Math.max(0, Math.min(100, 100 * part))}%`;
      bar.append(fill);
    }
    return bar;
  }

  function used(part, text) {
    return h("span", { class: "use" }, track([[part, part > 0.9 ? "high" : ""]]), text);
  }

  const unreported = () => h("span", { class: "unreported", title: "not reported by the node" }, "–");

  // How a value is written: (value, row, column) -> what goes into the cell.
  const KINDS = {
    text: (value) => String(value),
    plain: (value) => String(value),
    mono: (value) => h("span", { class: "mono" }, String(value)),
    clip: (value) => h("span", { title: value }, String(value)),
    pre: (value) => h("pre", {}, String(value)),
    id: (value) => h("span", { class: "mono", title: value }, short(String(value))),
    links: (value) => {
      const all = h("span", { title: value.map((each) => each.text).join(", ") });
      value.forEach((each, i) => all.append(i ? ", " : "", each.link ? h("a", { href: each.link }, each.text) : each.text));
      return all;
    },
    state: (value) => badge(value),
    yes: (value) => (value ? "yes" : "no"),
    number: (value) => number.format(value),
    failures: (value) => (value ? h("span", { class: "failed" }, number.format(value)) : "0"),
    rate: (value) => (value >= 100 ? number.format(Math.round(value)) : value ? value.toPrecision(2) : "0"),
    bytes: (value) => bytes(value),
    seconds: (value) => seconds(value),
    percent: (value) => used(value / 100, `${Math.round(value)} %`),
    of: (value, row, column) => `${value} of ${row[column.of] < 0 ? "∞" : row[column.of]}`,
    use: (value, row, column) =>
      row[column.of] ? h("span", { title: `${bytes(value)} of ${bytes(row[column.of])}` }, used(value / row[column.of], bytes(value))) : bytes(value),
    time: (value) => h("span", { title: new Date(value).toString() }, clock(value)),
    ago: (value) => h("span", { title: new Date(value).toString() }, since(value)),
    log: (value, row, column) => (column.title === "Calls" ? "show" : "log"),
    progress: (value, row) => {
      const whole = row.total || 1;
      const ended = row.finished + row.failed;
      const title = `${row.finished} finished, ${row.failed} failed, ${row.running} running, ${row.waiting} waiting`;
      const text = ended === row.total ? number.format(ended) : `${number.format(ended)} of ${number.format(row.total)}`;
      return h("span", { class: "progress", title }, track([[row.finished / whole, "done"], [row.failed / whole, "bad"], [row.running / whole, "run"]]), text);
    },
  };
  const RIGHT = new Set(["number", "failures", "rate", "bytes", "seconds"]);
  const MEASURED = new Set(["percent", "use", "bytes"]);

  function written(column, row) {
    const value = row[column.key];
    if (value === null || value === undefined) return MEASURED.has(column.kind) ? unreported() : "";
    if (value === "") return "";
    const made = KINDS[column.kind](value, row, column);
    const link = linkOf(column, row);
    return link ? h("a", { href: link }, made) : made;
  }

  // Put into a cell what it should show, if that has changed.
  function put(cell, column, row) {
    const made = written(column, row);
    const mark = typeof made === "string" ? made : made.outerHTML;
    if (cell.mark !== mark) {
      cell.mark = mark;
      cell.replaceChildren(made);
    }
  }

  // ------------------------------------------------------------------ asking

  let newsAt = Date.now();

  async function ask(path, args) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(args || {})) if (value !== "" && value !== undefined && value !== null) query.set(name, value);
    const response = await fetch(`${path}?${query}`, { headers: { Accept: "application/json" }, cache: "no-store" });
    let body = null;
    try { body = await response.json(); } catch (error) { body = null; }
    if (response.status === 401) throw new Error("this browser is no longer let in: ract.dashboard.display() makes a new link");
    if (!response.ok) {
      const error = new Error((body && body.error) || `${response.status} ${response.statusText}`);
      error.isAnswer = response.status === 404 || response.status === 400;
      throw error;
    }
    newsAt = Date.now();
    trouble.textContent = "";
    return body;
  }

  function complain(error) {
    trouble.textContent = `No news since ${clock(newsAt)}: ${error.message}`;
  }

  const visible = () =>
    document.hidden ? new Promise((go) => document.addEventListener("visibilitychange", go, { once: true })) : null;

  // Of this browser's time that a view may take with what it computes; to lay it out takes as much again.
  const COST_PART = 0.01;

  // Ask a view again and again; `again()` asks at once.
  function follow(view, args, show, failed) {
    let turn = 0;
    let timer = null;
    async function round(mine) {
      await visible();
      let wait = 2000;
      try {
        const answer = await ask(`data/${view}`, args());
        if (mine !== turn) return;
        const began = performance.now();
        show(answer.value);
        wait = Math.max(answer.poll_ms, (performance.now() - began) / COST_PART);
      } catch (error) {
        if (mine !== turn) return;
        if (error.isAnswer && failed) failed(error.message);
        else complain(error);
      }
      timer = setTimeout(() => round(mine), wait);
    }
    const again = () => { clearTimeout(timer); round(++turn); };
    again();
    return again;
  }

  const withId = (args) => {
    const found = {};
    for (const [name, value] of args || []) found[name] = value === "{id}" ? params.get("id") || "" : value;
    return found;
  };

  // ------------------------------------------------------------------ tables

  // One table of a page has the plain names in the address, so that links can filter it.
  const first = page.parts.find((part) => part.anchor === "calls") || page.parts.find((part) => part.type === "table" && part.search);

  function table(part, place) {
    const prefix = part === first ? "" : `${part.view}.`;
    const start = (name, value) => params.get(prefix + name) ?? value;
    const state = { q: start("q", ""), sort: start("sort", part.sort), page: Number(start("page", 0)) || 0, size: part.size };
    for (const [name] of part.facets) state[name] = start(name, "");
    const passed = {};
    if (part === first) for (const name of Object.keys(PASSED_ON)) if (params.get(name) && page.name !== "logs") passed[name] = params.get(name);
    if (part.anchor) place.id = part.anchor;

    const count = h("span", { class: "count" });
    const search = part.search ? h("input", { type: "search", placeholder: "Search", "aria-label": `Search ${part.title}`, oninput: typed }) : null;
    if (search) search.value = state.q;
    const selects = part.facets.map(([name, title]) => {
      const select = h("select", { "aria-label": title, "data-facet": name, onchange: () => change({ [name]: select.value }) });
      return [name, title, select];
    });
    const chips = Object.entries(passed).map(([name, value]) =>
      h("button", { type: "button", title: "Show all", "aria-pressed": "true", onclick: (event) => { delete passed[name]; params.delete(name); event.target.remove(); change({}); } }, `${PASSED_ON[name]} ${value.slice(0, 12)} ✕`));
    const back = h("button", { type: "button", "aria-label": "Previous page", onclick: () => change({ page: state.page - 1 }) }, "‹");
    const on = h("button", { type: "button", "aria-label": "Next page", onclick: () => change({ page: state.page + 1 }) }, "›");
    const where = h("span", {});
    const pager = h("span", { class: "pager" }, back, where, on);
    const heads = part.columns.map((column) => {
      const head = h("th", { scope: "col", class: [RIGHT.has(column.kind) ? "num" : "", column.wide ? "wide" : ""].join(" ").trim() || null, title: column.help || null });
      head.append(column.sort ? h("button", { type: "button", onclick: () => sortBy(column.key) }, column.title) : column.title);
      return head;
    });
    const body = h("tbody");
    const empty = h("div", { class: "empty skeleton" }, "…");
    const scroll = h("div", { class: "scroll", tabindex: "-1" }, h("table", {}, h("thead", {}, h("tr", {}, part.more ? h("th", { "aria-label": "More" }) : null, ...heads)), body));
    scroll.hidden = true;
    const note = part.note ? h("span", { class: "note" }, part.note) : null;
    place.append(h("div", { class: "head" }, h("h2", {}, part.title), count, note, h("span", { class: "grow" }), ...chips, ...selects.map((each) => each[2]), search, pager), scroll, empty);
    const open = new Set();
    const rows = new Map();

    let timer = null;
    function typed() {
      clearTimeout(timer);
      timer = setTimeout(() => change({ q: search.value }), 180);
    }

    function sortBy(key) {
      const down = `-${key}`;
      change({ sort: state.sort === down ? key : down });
    }

    function change(what) {
      Object.assign(state, { page: 0 }, what);
      const set = (name, value, usual) => (value !== usual && value !== "" ? params.set(prefix + name, value) : params.delete(prefix + name));
      set("q", state.q, "");
      set("sort", state.sort, part.sort);
      set("page", String(state.page), "0");
      for (const [name] of part.facets) set(name, state[name], "");
      const query = params.toString();
      history.replaceState(null, "", `${location.pathname}${query ? `?${query}` : ""}${location.hash}`);
      again();
    }

    function facets(counts) {
      for (const [name, title, select] of selects) {
        const values = Object.keys(counts[name] || {}).sort();
        if (state[name] && !values.includes(state[name])) values.push(state[name]);
        const wanted = [["", `${title}: all`], ...values.map((value) => [value, `${value} (${number.format((counts[name] || {})[value] || 0)})`])];
        select.hidden = wanted.length <= 2 && !state[name];
        if (document.activeElement === select && select.options.length > 1) continue; // it may be open
        const mark = JSON.stringify(wanted);
        if (select.mark !== mark) {
          select.mark = mark;
          select.replaceChildren(...wanted.map(([value, text]) => h("option", { value }, text)));
        }
        select.value = state[name];
      }
    }

    function make(row) {
      const cells = part.columns.map((column) => {
        const classes = [RIGHT.has(column.kind) ? "num" : "", column.kind === "id" ? "id" : "", column.wide ? "wide" : ""];
        return h("td", { class: classes.filter(Boolean).join(" ") || null, "data-key": column.key });
      });
      const line = h("tr", { "data-row": row.key });
      if (part.more) {
        const button = h("button", { type: "button", class: "open", "aria-expanded": "false", "aria-label": "More", onclick: () => toggle(row.key) }, "▸");
        line.append(h("td", {}, button));
        line.button = button;
      }
      line.append(...cells);
      line.cells_ = cells;
      return line;
    }

    function toggle(key) {
      if (!open.delete(key)) open.add(key);
      draw(shown);
    }

    let shown = { rows: [] };

    function draw(answer) {
      shown = answer;
      state.page = answer.page;
      count.textContent = answer.matched === answer.total ? number.format(answer.total) : `${number.format(answer.matched)} of ${number.format(answer.total)}`;
      if (answer.forgotten) count.textContent += ` (${number.format(answer.forgotten)} more are forgotten)`;
      pager.hidden = answer.pages <= 1;
      where.textContent = `${number.format(answer.page + 1)} / ${number.format(answer.pages)}`;
      back.disabled = answer.page === 0;
      on.disabled = answer.page + 1 >= answer.pages;
      facets(answer.facets);
      heads.forEach((head, i) => {
        const key = part.columns[i].key;
        const by = state.sort === key ? "ascending" : state.sort === `-${key}` ? "descending" : null;
        if (by) head.setAttribute("aria-sort", by); else head.removeAttribute("aria-sort");
      });
      scroll.hidden = answer.rows.length === 0;
      empty.hidden = !scroll.hidden;
      empty.className = "empty";
      empty.textContent = answer.total && (state.q || selects.some(([name]) => state[name])) ? "Nothing fits the filter." : part.empty;
      // A column of remarks takes no room while there are none.
      const bare = part.columns.map((column) => column.optional && !state.sort.endsWith(column.key) && answer.rows.every((row) => row[column.key] === null || row[column.key] === undefined || row[column.key] === ""));
      heads.forEach((head, i) => { head.hidden = bare[i]; });
      const kept = new Set();
      let at = body.firstChild;
      const step = (line) => {
        if (line !== at) body.insertBefore(line, at);
        else at = at.nextSibling;
      };
      for (const row of answer.rows) {
        kept.add(row.key);
        let line = rows.get(row.key);
        if (!line) rows.set(row.key, (line = make(row)));
        part.columns.forEach((column, i) => { line.cells_[i].hidden = bare[i]; put(line.cells_[i], column, row); });
        step(line);
        if (!part.more) continue;
        const is = open.has(row.key);
        line.button.textContent = is ? "▾" : "▸";
        line.button.setAttribute("aria-expanded", String(is));
        if (is) {
          line.more = line.more || h("tr", { class: "more" }, h("td", { colspan: part.columns.length + 1 }));
          const mark = JSON.stringify(row[part.more]);
          if (line.more.mark !== mark) {
            line.more.mark = mark;
            line.more.firstChild.replaceChildren(...row[part.more].map(MORE[part.view]));
          }
          step(line.more);
        } else if (line.more) {
          if (line.more === at) at = at.nextSibling;
          line.more.remove();
        }
      }
      for (const [key, line] of rows) {
        if (kept.has(key)) continue;
        line.remove();
        if (line.more) line.more.remove();
        rows.delete(key);
      }
    }

    function failed(text) {
      rows.clear();
      body.replaceChildren();
      scroll.hidden = true;
      empty.hidden = false;
      empty.className = "empty error";
      empty.textContent = text;
    }

    const again = follow(part.view, () => ({ ...withId(part.args), ...passed, ...state }), draw, failed);
  }

  const MORE = {
    failures: (task) => h("div", { class: "one" },
      h("a", { href: `task?id=${task.task_id}` }, `${clock(task.start_ms)}`), ` on `, h("a", { href: `node?id=${task.node_id}` }, task.node),
      `, pid ${task.pid} `, h("a", { href: `logs?node_id=${task.node_id}&process=${task.process}` }, "log"), h("pre", {}, task.traceback || task.message || "no message")),
    groups: (bundle) => h("div", { class: "one" }, `Bundle ${bundle.index}: ${bundle.resources} `,
      bundle.node ? h("a", { href: `node?id=${bundle.node_id}` }, `on ${bundle.node}`) : "not placed", bundle.used ? `, taken: ${bundle.used}` : ""),
  };

  // ------------------------------------------------------------------ facts, tiles, alerts

  function facts(part, place) {
    const title = h("h2", {}, part.title);
    const list = h("dl");
    const problem = h("div", { class: "empty error", hidden: true });
    place.append(h("div", { class: "head" }, title), list, problem);
    const made = new Map();
    follow(part.view, () => ({ id: params.get("id") || "" }), (value) => {
      problem.hidden = true;
      let at = list.firstChild;
      part.columns.forEach((column, i) => {
        const has = !(value[column.key] === null || value[column.key] === undefined || value[column.key] === "");
        let line = made.get(i);
        if (!has && !MEASURED.has(column.kind)) { if (line) { if (line === at) at = at.nextSibling; line.remove(); } return; }
        if (!line) {
          line = h("div", { class: column.kind === "pre" ? "full" : null }, h("dt", {}, column.title), h("dd", { "data-key": column.key }));
          made.set(i, line);
        }
        put(line.lastChild, column, value);
        if (line !== at) list.insertBefore(line, at); else at = at.nextSibling;
      });
      const name = (page.name === "node" ? value.node : value.class_name || value.name || value.entrypoint) || "";
      if (name) document.title = `ract: ${part.title} ${name}`;
      const full = name && !String(name).includes("/") ? `${part.title} ${name}` : part.title;
      if (title.textContent !== full) title.textContent = full;
      document.dispatchEvent(new CustomEvent("ract:facts", { detail: value }));
    }, (text) => { list.replaceChildren(); made.clear(); problem.hidden = false; problem.textContent = text; });
  }

  function tiles(part, place) {
    const made = new Map();
    follow(part.view, () => ({}), (found) => {
      for (const tile of found) {
        let one = made.get(tile.key);
        if (!one) {
          one = h("a", { class: "tile", href: tile.link, "data-tile": tile.key }, h("span", { class: "title" }, tile.title), h("span", { class: "value" }), h("span", { class: "note" }));
          made.set(tile.key, one);
          place.append(one);
        }
        const [, value, note] = one.children;
        const text = KINDS[tile.kind](tile.value);
        if (value.textContent !== text) value.textContent = text;
        if (note.textContent !== tile.note) note.textContent = tile.note;
        one.classList.toggle("bad", tile.key === "Calls failed" && tile.value > 0);
      }
    });
  }

  function alerts(part, place) {
    const list = h("ul");
    place.append(list);
    place.classList.add("none");
    const LEVELS = { bad: ["bad", "problem"], warn: ["warn", "warning"], note: ["idle", "note"] };
    follow(part.view, () => ({}), (answer) => {
      const mark = JSON.stringify(answer.rows);
      if (list.mark === mark) return;
      list.mark = mark;
      place.classList.toggle("none", answer.rows.length === 0);
      list.replaceChildren(...answer.rows.map((alert) => {
        const [look, word] = LEVELS[alert.level];
        const what = h("strong", {}, alert.what);
        return h("li", { "data-level": alert.level }, h("span", { class: `state ${look}` }, word),
          h("span", { class: "text" }, alert.link ? h("a", { href: alert.link }, what) : what, " ", alert.text),
          h("span", { class: "when" }, alert.at_ms ? clock(alert.at_ms) : ""));
      }));
    });
  }

  function death(part, place) {
    place.classList.add("none");
    document.addEventListener("ract:facts", (event) => {
      const found = event.detail.death;
      place.classList.toggle("none", !found);
      const mark = JSON.stringify(found);
      if (!found || place.mark === mark) return;
      place.mark = mark;
      const code = found.signal ? `signal ${found.signal}` : found.exit_code !== null ? `exit code ${found.exit_code}` : "";
      const where = [code, found.node && `on ${found.node}`, found.at_ms && `at ${clock(found.at_ms)}`].filter(Boolean).join(", ");
      place.replaceChildren(h("div", { class: "head" }, h("h2", {}, event.detail.state === "DEAD" ? part.title : "Why it restarted")),
        h("div", { class: "body" }, h("strong", {}, found.kind), found.detail ? `: ${found.detail}` : "", where ? ` (${where})` : "",
          found.stderr ? h("pre", {}, found.stderr) : null));
    });
  }

  // ------------------------------------------------------------------ logs

  const LINES_MAX = 5000;
  const TAIL = 1000;

  function viewer(place, controls) {
    const lines = h("div", { class: "lines", tabindex: "0", role: "log", "aria-live": "off" });
    const followed = h("button", { type: "button", "aria-pressed": "true", title: "Show new lines as they come", onclick: () => setFollow(!following) }, "Follow");
    const search = h("input", { type: "search", placeholder: "Search the file", "aria-label": "Search the log" });
    const empty = h("div", { class: "empty" }, "…");
    place.append(h("div", { class: "head" }, ...controls, h("span", { class: "grow" }), search, followed), lines, empty);
    let file = null, next = 0, end = -1, stale = false, following = true, turn = 0, timer = null;
    search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(restart, 250); });
    lines.addEventListener("scroll", () => {
      if (following && lines.scrollHeight - lines.scrollTop - lines.clientHeight > 60) setFollow(false, true);
    });

    function setFollow(is, byScrolling) {
      following = is;
      followed.setAttribute("aria-pressed", String(is));
      if (is && !byScrolling) lines.scrollTop = lines.scrollHeight;
    }

    function say(text) {
      empty.textContent = text;
      empty.hidden = false;
      lines.hidden = true;
    }

    function append(found, word) {
      const made = found.map((line) => {
        const one = h("div");
        if (!word) { one.textContent = line || " "; return one; }
        const low = line.toLowerCase();
        let from = 0;
        for (let at = low.indexOf(word); at >= 0; at = low.indexOf(word, from)) {
          one.append(line.slice(from, at), h("span", { class: "hit" }, line.slice(at, at + word.length)));
          from = at + word.length;
        }
        one.append(line.slice(from));
        return one;
      });
      lines.append(...made);
      while (lines.childElementCount > LINES_MAX) lines.firstChild.remove();
      if (following && made.length) lines.scrollTop = lines.scrollHeight;
    }

    async function round(mine, word, isFirst) {
      await visible();
      if (mine !== turn || !file) return;
      let wait = 1000;
      try {
        const where = { node_id: file.node_id, name: file.name };
        if (word) {
          const found = await ask("logs/search", { ...where, q: word, offset: next });
          if (mine !== turn) return;
          next = found.offset;
          append(found.lines, word);
          if (!found.is_done) wait = 20;
          if (!lines.childElementCount) say(!found.is_done ? `Searching, ${bytes(next)} of ${bytes(found.end)} …` : "No line has it.");
          else { lines.hidden = false; empty.hidden = true; }
        } else {
          // A line that has no end is shown when nothing was added to it for a while.
          const found = await ask("logs/read", { ...where, ...(isFirst ? { tail: TAIL } : { offset: next }), rest: stale ? 1 : "" });
          if (mine !== turn) return;
          if (!isFirst && found.end < next) return restart(); // the file was begun anew
          stale = found.end === end && found.next < found.end && found.text === "";
          end = found.end;
          next = found.next;
          if (found.text) append(found.text.replace(/\n$/, "").split("\n"));
          if (found.text && next < found.end) wait = 20;
          if (lines.childElementCount) { lines.hidden = false; empty.hidden = true; if (isFirst) lines.scrollTop = lines.scrollHeight; }
          else say("Nothing was written to this file yet. What print() writes in tasks and actors shows up here.");
        }
      } catch (error) {
        if (mine !== turn) return;
        if (error.isAnswer) { say(error.message); return; }
        complain(error);
      }
      setTimeout(() => round(mine, word, false), wait);
    }

    function restart() {
      lines.replaceChildren();
      next = 0;
      end = -1;
      stale = false;
      turn += 1;
      if (file) round(turn, search.value.toLowerCase(), true);
    }

    return {
      show(wanted) { if (JSON.stringify(wanted) !== JSON.stringify(file)) { file = wanted; restart(); } },
      say(text) { file = null; restart(); say(text); }, // instead of a file
    };
  }

  // The log of one process: of an actor, or of the one that ran a task.
  function log(part, place) {
    const title = h("h2", {}, part.title);
    const select = h("select", { "aria-label": "File" });
    const all = h("a", { href: "logs" }, "all logs of its node");
    const view = viewer(place, [title, select, all]);
    let known = "";
    select.addEventListener("change", () => view.show(JSON.parse(select.value)));
    document.addEventListener("ract:facts", async (event) => {
      const { node_id, process, pid } = event.detail;
      const key = `${node_id} ${process}`;
      if (key === known) return;
      known = key;
      all.href = `logs?node_id=${node_id || ""}`;
      if (!node_id || !process) { view.say("It has no process (any more), so there is no log to show."); return; }
      try {
        const { files } = await ask("logs/files", { node_id });
        const mine = files.filter((file) => file.process === process);
        select.replaceChildren(...mine.map((file) => h("option", { value: JSON.stringify({ node_id, name: file.name }) }, `${file.name} (${bytes(file.size)})`)));
        const best = mine.find((file) => file.size && file.name.includes(".out")) || mine.find((file) => file.size) || mine[0];
        if (!best) { view.say(`Process ${pid || process} has left no log file on its node.`); return; }
        select.value = JSON.stringify({ node_id, name: best.name });
        view.show({ node_id, name: best.name });
      } catch (error) {
        known = "";
        view.say(error.message);
      }
    });
  }

  // The page of all logs.
  function logs(part, place) {
    const nodes = h("select", { "aria-label": "Node" });
    const files = h("select", { "aria-label": "File" });
    const filter = h("input", { type: "search", placeholder: "Pid, process or kind", "aria-label": "Filter the files" });
    filter.value = params.get("q") || "";
    const view = viewer(place, [h("h2", {}, part.title), nodes, filter, files]);
    let listed = [];
    const wanted = { node_id: params.get("node_id") || "", name: params.get("name") || "", process: params.get("process") || "" };

    function remember() {
      const query = new URLSearchParams();
      for (const name of ["node_id", "name", "process"]) if (wanted[name]) query.set(name, wanted[name]);
      if (wanted.process && params.get("pid")) query.set("pid", params.get("pid"));
      if (filter.value) query.set("q", filter.value);
      history.replaceState(null, "", `${location.pathname}?${query}`);
    }

    function choose() {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      const fitting = listed.filter((file) => words.every((word) => file.name.toLowerCase().includes(word)));
      let missing = "";
      if (wanted.process) {
        const mine = fitting.filter((file) => file.process === Number(wanted.process));
        const best = mine.find((file) => file.size && file.name.includes(".out")) || mine.find((file) => file.size) || mine[0];
        if (best) Object.assign(wanted, { name: best.name, process: "" });
        else missing = `Process ${params.get("pid") || wanted.process} has left no log file on its node.`;
      }
      if (missing) wanted.name = "";
      else if (!fitting.some((file) => file.name === wanted.name)) wanted.name = (fitting.find((file) => file.size) || fitting[0] || { name: "" }).name;
      const texts = fitting.map((file) => [file.name, `${file.name} (${bytes(file.size)})`]);
      const mark = JSON.stringify(texts);
      if (files.mark !== mark && document.activeElement !== files) {
        files.mark = mark;
        files.replaceChildren(...texts.map(([value, text]) => h("option", { value }, text)));
      }
      files.value = wanted.name;
      if (wanted.name) view.show({ node_id: wanted.node_id, name: wanted.name });
      else view.say(missing || (listed.length ? "No file fits the filter." : "This node has no log files yet: no executor was started on it."));
      remember();
    }

    async function list() {
      await visible();
      try {
        listed = (await ask("logs/files", { node_id: wanted.node_id })).files;
        choose();
      } catch (error) {
        if (error.isAnswer) view.say(error.message); else complain(error);
      }
    }

    filter.addEventListener("input", () => { Object.assign(wanted, { name: "", process: "" }); choose(); });
    files.addEventListener("change", () => { Object.assign(wanted, { name: files.value, process: "" }); choose(); });
    nodes.addEventListener("change", () => { Object.assign(wanted, { node_id: nodes.value, name: "", process: "" }); list(); });
    follow("nodes", () => ({ size: 200, state: "" }), (answer) => {
      const alive = answer.rows.filter((node) => node.state !== "DEAD" || node.node_id === wanted.node_id);
      const texts = alive.map((node) => [node.node_id, node.state === "DEAD" ? `${node.node} (dead)` : node.node]);
      const mark = JSON.stringify(texts);
      if (nodes.mark !== mark && document.activeElement !== nodes) {
        nodes.mark = mark;
        nodes.replaceChildren(...texts.map(([value, text]) => h("option", { value }, text)));
      }
      if (!wanted.node_id && texts.length) wanted.node_id = texts[0][0];
      nodes.value = wanted.node_id;
      if (!texts.length) { view.say("No node has joined. Start one with: rworker ADDRESS"); return; }
      if (!listed.length || list.of !== wanted.node_id || Date.now() - (list.at || 0) > 5000) {
        list.of = wanted.node_id;
        list.at = Date.now();
        list();
      }
    });
  }

  // ------------------------------------------------------------------ theme

  const THEMES = ["auto", "light", "dark"];
  const themeButton = document.getElementById("theme");

  function theme() {
    return document.documentElement.dataset.theme || "auto";
  }

  function isDark() {
    return theme() === "dark" || (theme() === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  }

  function labelTheme() {
    if (themeButton) themeButton.textContent = `Theme: ${theme()}`;
  }

  // Plots are drawn on a canvas, which does not see the style sheet: hand the colours to Bokeh.
  function paint() {
    if (!window.Bokeh || !Bokeh.documents) return false;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const [text, dim, line, soft, panel] = ["text", "dim", "line", "line-soft", "panel"].map(colour);
    let found = 0;
    for (const doc of Bokeh.documents) {
      for (const root of doc.roots()) {
        for (const model of root.references()) {
          const type = model.type;
          const set = (values) => model.setv(Object.fromEntries(Object.entries(values).filter(([name]) => name in model.properties)), { sync: false });
          if (type === "Figure" || type === "Plot") { found += 1; set({ background_fill_color: null, border_fill_color: null, outline_line_color: null }); }
          else if (type.endsWith("Axis")) set({ axis_label_text_color: dim, major_label_text_color: dim, group_text_color: dim, axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null });
          else if (type === "Grid") set({ grid_line_color: soft });
          else if (type === "Legend") set({ label_text_color: text, background_fill_color: panel, background_fill_alpha: 0.75, border_line_color: null });
          else if (type === "ColorBar") set({ background_fill_color: null, major_label_text_color: dim });
          else if (type === "Text" && model.tags.includes("text")) set({ text_color: { value: text } });
        }
      }
    }
    return found >= document.querySelectorAll("[data-plot]").length;
  }

  if (themeButton) themeButton.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
    try { localStorage.setItem("ract-theme", next); } catch (error) { /* it holds for this page, then */ }
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    labelTheme();
    paint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  labelTheme();
  if (document.querySelector("[data-plot]")) {
    const later = () => { if (!paint()) setTimeout(later, 60); };
    later();
  }

  // ------------------------------------------------------------------ begin

  const here = document.querySelector("nav a.here");
  if (here) here.scrollIntoView({ block: "nearest", inline: "nearest" }); // in a narrow window
  const PARTS = { table, facts, tiles, alerts, death, log, logs };
  for (const place of document.querySelectorAll("[data-part]")) {
    const part = page.parts[Number(place.dataset.part)];
    PARTS[part.type](part, place);
  }
  window.ract = { page, isDark, paint };
})();

// Ties it together: what is chosen, what the keys do, what the address keeps.

const VIEWS = [["top-down", "Top down"], ["bottom-up", "Bottom up"], ["sandwich", "Sandwich"]];
const STATES = [["both", "Both"], ["on", "On CPU"], ["off", "Waiting"]];
const SIDES = [["this", "This"], ["baseline", "Baseline"], ["difference", "Difference"]];

class Viewer {
  constructor(content) {
    this.content = content;
    this.calls = new Calls(content.tree);
    this.defaults = {
      view: content.reversed ? "bottom-up" : "top-down", state: "both", side: content.baseline ? "difference" : "this", group: "", flip: content.icicle, query: "",
      function: -1, zoom: 0, pane: 0, sort: "self",
    };
    this.chosen = { ...this.defaults };
    this.canvas = new Canvas(byId("graph"), byId("scroll"), byId("spacer"));
    byId("title").textContent = content.title;
    byId("facts").textContent = content.facts;
    if (content.baseline) byId("facts").title = `Baseline: ${content.baseline}`;
    this.isEmpty = !content.tree.weights.ns.some((ns) => ns > 0);
    if (this.isEmpty) fillEmpty(byId("empty"), content.why_empty);
    else fillNotes(byId("notes"), content.notes);
    this.choice("view", VIEWS);
    this.choice("state", this.calls.ran && this.calls.waited ? STATES : []);
    this.choice("side", content.baseline ? SIDES : []);
    this.groupings = groupings(this.calls);
    for (const by of ["", ...this.groupings]) byId("group").append(element("option", by || "nothing", { value: by }));
    this.listen();
    this.readAddress();
    this.rebuild();
  }

  choice(id, options) {
    const field = byId(id);
    field.hidden = options.length === 0;
    for (const [value, text] of options) {
      const label = element("label");
      label.append(element("input", undefined, { type: "radio", name: id, value }), text);
      field.append(label);
    }
    field.addEventListener("change", (event) => this.choose({ [id]: event.target.value }));
  }

  /** Takes over choices and shows them; a graph that changes loses its zoom. */
  choose(choices) {
    const rebuilds = ["view", "state", "side", "group", "flip", "function"].some((key) => key in choices && choices[key] !== this.chosen[key]);
    Object.assign(this.chosen, choices);
    if (rebuilds) {
      if (!("zoom" in choices)) this.chosen.zoom = this.chosen.pane = 0;
      this.rebuild();
    } else {
      this.mark();
    }
    this.writeAddress();
  }

  rebuild() {
    const { calls, chosen } = this;
    const selected = this.canvas.selected;
    const kept = selected ? selected.pane.graph.function[selected.box] : -1;
    this.selection = new Selection(calls, chosen.state, chosen.side);
    const sandwich = chosen.view === "sandwich";
    this.times = sandwich ? functionTimes(calls, this.selection) : null;
    if (sandwich && chosen.function < 0) chosen.function = kept >= 0 && kept < calls.functionCount ? kept : this.hottest();
    const panes = [];
    if (this.isEmpty) { /* Nothing to draw. */ }
    else if (sandwich) {
      const { callers, callees } = around(calls, this.selection, chosen.function);
      panes.push({ graph: callers, up: true, skip: 1 }, { graph: callees, up: false, skip: 0 });
    } else if (chosen.view === "bottom-up") panes.push({ graph: bottomUp(calls, this.selection), up: !chosen.flip, skip: 0 });
    else panes.push({ graph: topDown(calls, this.selection, chosen.group), up: !chosen.flip, skip: 0 });
    // Before the graph is shown: they say how much room it has.
    byId("functions").hidden = !sandwich;
    byId("grouping").hidden = this.groupings.length === 0 || chosen.view !== "top-down";
    this.canvas.show(calls, panes);
    const pane = this.canvas.panes[chosen.pane];
    if (pane && chosen.zoom > 0 && chosen.zoom < pane.graph.function.length) this.canvas.zoom(pane, chosen.zoom);
    else chosen.zoom = chosen.pane = 0;

    for (const id of ["view", "state", "side"]) {
      const input = document.querySelector(`#${id} input[value="${chosen[id]}"]`);
      if (input) input.checked = true;
    }
    byId("group").value = chosen.group;
    byId("flip").setAttribute("aria-pressed", String(chosen.flip));
    byId("flip").disabled = sandwich;
    byId("query").value = chosen.query;
    fillLegend(byId("legend"), calls, chosen);
    const nothing = !this.isEmpty && !(panes[0]?.graph.total > 0);
    if (!this.isEmpty) byId("empty").hidden = !nothing;
    if (nothing) byId("empty").replaceChildren(element("h2", "Nothing of this kind was seen"));
    this.mark();
    this.tell(null);
  }

  hottest() {
    let best = -1;
    for (let number = 0; number < this.calls.functionCount; number++) {
      if (best < 0 || this.times.self[number] > this.times.self[best]) best = number;
    }
    return best;
  }

  /** A test of functions for what is searched, or null. */
  matcher() {
    const query = this.chosen.query.trim();
    if (query === "") return null;
    const pattern = /^\/(.+?)\/?$/.exec(query);
    const { calls } = this;
    let test;
    if (pattern) {
      try {
        const compiled = new RegExp(pattern[1], "iu");
        test = (text) => compiled.test(text);
      } catch {
        return "not a pattern";
      }
    } else {
      const low = query.toLowerCase();
      test = (text) => text.toLowerCase().includes(low);
    }
    const known = new Map();
    return (number) => {
      let found = known.get(number);
      if (found === undefined) {
        found = number !== -1 && (test(calls.name(number)) || test(calls.module(number)) || calls.linesOf(number).some(({ file }) => file && test(file)));
        known.set(number, found);
      }
      return found;
    };
  }

  /** Finds what is searched, and says its share. */
  mark() {
    const { canvas, calls, chosen } = this;
    const matches = this.matcher();
    const matched = byId("matched");
    this.found = [];
    canvas.matches = null;
    matched.textContent = typeof matches === "string" ? matches : "";
    if (typeof matches === "function") {
      const functions = new Set();
      canvas.matches = canvas.panes.map(() => null);
      let ns = 0;
      canvas.panes.forEach((pane, at) => {
        const { graph } = pane;
        const hits = canvas.matches[at] = new Uint8Array(graph.function.length);
        // Whether something matches on the way to the root: what stands on it counts with it.
        const within = new Uint8Array(graph.function.length);
        graph.rows.forEach((row, depth) => {
          for (const box of row) {
            const below = depth > 0 ? graph.below[box] : -1;
            hits[box] = matches(graph.function[box]) ? 1 : 0;
            within[box] = hits[box] || (below >= 0 && within[below]) ? 1 : 0;
            if (!hits[box] || depth < pane.skip) continue;
            functions.add(graph.function[box]);
            this.found.push({ pane, box });
            if (at === canvas.panes.length - 1 && !(below >= 0 && within[below])) ns += graph.x1[box] - graph.x0[box];
          }
        });
      });
      const whole = canvas.panes[canvas.panes.length - 1]?.graph.total ?? 0;
      const count = functions.size;
      matched.textContent = count === 0 ? "no match" : `${count} ${count === 1 ? "function" : "functions"}, ${share(ns, whole)}`;
    }
    if (chosen.view === "sandwich" && !this.isEmpty) {
      fillFunctions(byId("rows"), byId("more"), calls, this.selection, this.times, { sort: chosen.sort, matches: typeof matches === "function" ? matches : null, chosen: chosen.function });
      for (const button of document.querySelectorAll("[data-sort]")) {
        const head = button.parentElement;
        if (button.dataset.sort === chosen.sort) head.setAttribute("aria-sort", chosen.sort === "name" ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      }
    }
    byId("reset").disabled = !canvas.panes.some((pane) => pane.zoom > 0);
    canvas.draw();
  }

  tell(at) {
    const about = at ?? this.canvas.selected;
    byId("acts").hidden = !this.canvas.selected;
    if (about) fillTold(byId("told"), this.calls, about.pane.graph, about.box);
    else {
      const ns = this.selection.ns;
      byId("told").textContent = this.isEmpty ? "" : `${span(ns)} in all. Point at a frame, click to zoom; ? lists the keys.`;
    }
  }

  select(at) {
    if (!at) return;
    this.canvas.selected = at;
    this.canvas.reveal(at);
    this.tell(null);
  }

  zoom({ pane, box }) {
    this.canvas.zoom(pane, box);
    this.chosen.zoom = box;
    this.chosen.pane = this.canvas.panes.indexOf(pane);
    byId("reset").disabled = box === 0;
    this.writeAddress();
  }

  reset() {
    if (this.canvas.panes.length > 0) this.zoom({ pane: this.canvas.panes[0], box: 0 });
  }

  sandwich(at) {
    const number = at ? at.pane.graph.function[at.box] : -1;
    if (number >= this.calls.functionCount) return;
    this.choose({ view: "sandwich", function: number });
  }

  /** From match to match, the widest of the outermost first. */
  next(by) {
    if (this.found.length === 0) return;
    const { selected } = this.canvas;
    const at = selected ? this.found.findIndex(({ pane, box }) => pane === selected.pane && box === selected.box) : -1;
    const count = this.found.length;
    this.select(this.found[at < 0 ? (by > 0 ? 0 : count - 1) : (at + by + count) % count]);
  }

  listen() {
    const graph = byId("graph");
    const query = byId("query");
    const tip = byId("tip");
    const under = (event) => {
      const bounds = graph.getBoundingClientRect();
      return this.canvas.at(event.clientX - bounds.left, event.clientY - bounds.top);
    };
    const hide = () => {
      tip.hidden = true;
      if (this.canvas.hover) {
        this.canvas.hover = null;
        this.canvas.draw();
        this.tell(null);
      }
    };
    graph.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") return;
      const at = under(event);
      graph.style.cursor = at ? "pointer" : "default";
      if (!at) return hide();
      const { hover } = this.canvas;
      if (!hover || hover.box !== at.box || hover.pane !== at.pane) {
        this.canvas.hover = at;
        this.canvas.draw();
        fillTip(tip, this.calls, at.pane.graph, at.box, this.chosen.group !== "");
        tip.hidden = false;
      }
      const { width, height } = tip.getBoundingClientRect();
      const x = event.clientX + 14 + width > innerWidth ? event.clientX - width - 10 : event.clientX + 14;
      const y = event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18;
      tip.style.left = `${Math.max(8, Math.min(x, innerWidth - width - 8))}px`;
      tip.style.top = `${Math.max(8, Math.min(y, innerHeight - height - 8))}px`;
    });
    graph.addEventListener("pointerleave", hide);
    byId("scroll").addEventListener("scroll", () => { hide(); this.canvas.draw(); });
    graph.addEventListener("click", (event) => {
      const at = under(event);
      if (!at) return;
      hide();
      this.canvas.selected = at;
      if (event.altKey) return this.sandwich(at);
      this.zoom(at);
      this.tell(null);
    });
    query.addEventListener("input", () => this.choose({ query: query.value }));
    query.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        graph.focus();
        this.next(1);
      } else if (event.key === "Escape") {
        event.preventDefault();
        event.stopPropagation();
        this.setQuery("");
        graph.focus();
      }
    });
    byId("group").addEventListener("change", (event) => this.choose({ group: event.target.value }));
    byId("flip").addEventListener("click", () => this.choose({ flip: !this.chosen.flip }));
    byId("reset").addEventListener("click", () => this.reset());
    byId("help").addEventListener("click", () => byId("keys").showModal());
    byId("sandwich").addEventListener("click", () => this.sandwich(this.canvas.selected));
    byId("alike").addEventListener("click", () => this.markAll());
    byId("copy").addEventListener("click", () => this.copy());
    byId("rows").addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) this.choose({ function: Number(row.dataset.function) });
    });
    document.querySelector("thead").addEventListener("click", (event) => {
      if (event.target.dataset.sort) this.choose({ sort: event.target.dataset.sort });
    });
    addEventListener("hashchange", () => { if (this.readAddress()) this.rebuild(); });
    addEventListener("keydown", (event) => this.key(event));
    nightly.addEventListener("change", () => this.rebuild());
  }

  key(event) {
    if (byId("keys").open || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input[type=search], select")) return;
    const { canvas, chosen } = this;
    const onGraph = event.target === byId("graph") || event.target === document.body;
    const keys = {
      "/": () => { byId("query").focus(); byId("query").select(); },
      n: () => this.next(1), N: () => this.next(-1),
      0: () => this.reset(), Escape: () => { if (chosen.zoom > 0) this.reset(); else this.setQuery(""); },
      i: () => { if (chosen.view !== "sandwich") this.choose({ flip: !chosen.flip }); },
      t: () => this.choose({ view: "top-down" }), b: () => this.choose({ view: "bottom-up" }), s: () => this.sandwich(canvas.selected),
      m: () => this.markAll(), c: () => this.copy(), "?": () => byId("keys").showModal(),
      d: () => { if (this.content.baseline) this.choose({ side: chosen.side === "difference" ? "this" : "difference" }); },
    };
    STATES.forEach(([state], at) => { keys[at + 1] = () => { if (!byId("state").hidden) this.choose({ state }); }; });
    if (onGraph) {
      for (const arrow of ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"]) keys[arrow] = () => this.select(canvas.step(arrow));
      keys.Enter = keys[" "] = () => { if (canvas.selected) this.zoom(canvas.selected); };
      keys.Backspace = () => {
        const pane = canvas.panes[chosen.pane];
        if (pane && pane.zoom > 0) this.zoom({ pane, box: pane.graph.below[pane.zoom] });
      };
    }
    if (!Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  }

  setQuery(query) {
    byId("query").value = query;
    this.choose({ query });
  }

  markAll() {
    const at = this.canvas.selected;
    if (at) this.setQuery(this.calls.name(at.pane.graph.function[at.box]));
  }

  async copy() {
    const at = this.canvas.selected;
    if (!at) return;
    const told = byId("told");
    try {
      await navigator.clipboard.writeText(this.calls.name(at.pane.graph.function[at.box]));
      told.textContent = "Copied.";
    } catch {
      told.textContent = "The browser does not let this page copy.";
    }
  }

  /** The address keeps what differs from the beginning, so that it can be passed on. */
  writeAddress() {
    const kept = new URLSearchParams();
    for (const [key, value] of Object.entries(this.defaults)) {
      if (this.chosen[key] !== value && !(key === "function" && this.chosen.view !== "sandwich")) kept.set(key, String(this.chosen[key]));
    }
    const hash = kept.size > 0 ? `#${kept}` : "#";
    if (hash !== (location.hash || "#")) history.replaceState(null, "", hash);
  }

  /** Whether the address says something else than what is shown. */
  readAddress() {
    const kept = new URLSearchParams(location.hash.slice(1));
    const chosen = { ...this.defaults };
    const among = (key, allowed) => { if (allowed.includes(kept.get(key))) chosen[key] = kept.get(key); };
    const number = (key, limit) => {
      const value = Number(kept.get(key) ?? NaN);
      if (Number.isInteger(value) && value >= 0 && value < limit) chosen[key] = value;
    };
    among("view", VIEWS.map(([view]) => view));
    if (this.calls.ran && this.calls.waited) among("state", STATES.map(([state]) => state));
    if (this.content.baseline) among("side", SIDES.map(([side]) => side));
    among("group", this.groupings);
    among("sort", ["name", "self", "total"]);
    number("function", this.calls.functionCount);
    number("zoom", Infinity);
    number("pane", 2);
    if (kept.has("flip")) chosen.flip = kept.get("flip") === "true";
    chosen.query = kept.get("query") ?? "";
    const differs = Object.keys(chosen).some((key) => chosen[key] !== this.chosen[key]);
    this.chosen = chosen;
    return differs;
  }
}

(async () => {
  try {
    const content = await unpack(byId("data").textContent);
    byId("data").remove();
    const viewer = new Viewer(content);
    viewer.canvas.paint();
    performance.mark("opened");
    document.documentElement.dataset.opened = "true";
  } catch (error) {
    byId("empty").hidden = false;
    byId("empty").replaceChildren(element("h2", "This page cannot show its profile"), element("p", String(error)));
    throw error;
  }
})();

// What stands around the graph: details of a box, the table of functions, colours, notes.

const ROWS = 400;

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const byId = (id) => document.getElementById(id);

/** Cuts what would fill the page. */
const brief = (text, chars) => text.length > chars ? `${Array.from(text.slice(0, chars)).slice(0, -1).join("")}…` : text;

function place({ file, line }) {
  return line > 0 ? `${file || "line "}${file ? ":" : ""}${line}` : file;
}

/** What a kind of code is called where a function is described. */
function described(calls, number) {
  const kind = calls.kind(number);
  return [calls.module(number), kind > 0 && kind < 5 ? KINDS[kind] : ""].filter(Boolean).join(" · ");
}

/** A change of share, in points. */
function points(now, before) {
  const change = 100 * (now - before);
  return `${change > 0 ? "+" : change < 0 ? "−" : "±"}${Math.abs(change).toFixed(2)} points`;
}

/** Rows of figures about a box: `[what, value, share]`. */
function figures(graph, box) {
  const { selection } = graph;
  const ns = graph.ns(box);
  const whole = selection.ns;
  const rows = [[selection.difference ? "Now" : "Total", span(ns), share(ns, whole)]];
  if (graph.callersFirst || graph.self[box] > 0) rows.push(["Self", span(graph.self[box]), share(graph.self[box], whole)]);
  if (!selection.difference && graph.on[box] > 0 && graph.off[box] > 0) {
    rows.push(["On CPU", span(graph.on[box]), share(graph.on[box], ns)], ["Waiting", span(graph.off[box]), share(graph.off[box], ns)]);
  }
  if (selection.difference) {
    const before = graph.before[box];
    rows.push(["Baseline", span(before), share(before, selection.baselineNs)]);
    rows.push(["Change", "", points(whole > 0 ? ns / whole : 0, selection.baselineNs > 0 ? before / selection.baselineNs : 0)]);
  }
  return rows;
}

/** Who spends the time of a box, the most first: names with nanoseconds; none where it is not known. */
function spenders(calls, graph, box, by) {
  const node = graph.node[box];
  if (node < 0) return [];
  const sums = new Map();
  const { selection } = graph;
  const from = lowerBound(calls.weightNode, node);
  for (let at = from; at < calls.weightCount && calls.weightNode[at] < calls.end[node]; at++) {
    if (selection.part[at] < 0 || selection.part[at] === 2) continue;
    const group = calls.weightGroup[at];
    sums.set(group, (sums.get(group) ?? 0) + calls.weightNs[at]);
  }
  const named = new Map();
  for (const [group, ns] of sums) {
    const name = calls.groupName(group, by);
    named.set(name, (named.get(name) ?? 0) + ns);
  }
  return [...named].sort((a, b) => b[1] - a[1]);
}

function lowerBound(column, value) {
  let [low, high] = [0, column.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (column[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Fills the tip beside the pointer. */
function fillTip(tip, calls, graph, box, grouped) {
  const number = graph.function[box];
  tip.replaceChildren(element("div", brief(calls.name(number), 700), { class: "name" }));
  const where = described(calls, number);
  if (where) tip.append(element("div", where, { class: "where" }));
  const lines = calls.linesOf(number);
  const lineTotal = lines.reduce((sum, line) => sum + line.ns, 0);
  if (lines.length === 1) tip.append(element("div", brief(place(lines[0]), 300), { class: "where" }));
  else for (const line of lines) tip.append(element("div", `${brief(place(line), 300)}  ${share(line.ns, lineTotal)}`, { class: "where" }));
  const table = element("table");
  const row = (cells) => {
    const made = element("tr");
    cells.forEach((cell, at) => made.append(element(at === 0 ? "th" : "td", cell)));
    table.append(made);
  };
  figures(graph, box).forEach(row);
  if (!grouped) {
    for (const [by, what] of [["service", "Services"], ["thread", "Threads"]]) {
      const found = spenders(calls, graph, box, by);
      const whole = found.reduce((sum, [, ns]) => sum + ns, 0);
      const heading = (at) => at === 0 ? (found.length === 1 ? what.slice(0, -1) : `${what} (${found.length})`) : "";
      found.slice(0, 3).forEach(([name, ns], at) => row([heading(at), brief(name, 60), found.length > 1 ? share(ns, whole) : ""]));
    }
  }
  tip.append(table);
}

/** One line about a box, for the foot of the page and for those who listen. */
function fillTold(told, calls, graph, box) {
  const number = graph.function[box];
  const about = [described(calls, number), ...calls.linesOf(number).slice(0, 1).map(place)].filter(Boolean).join(" · ");
  const times = figures(graph, box).map(([what, value, part]) => `${what.toLowerCase()} ${[value, part].filter(Boolean).join(", ")}`);
  told.replaceChildren(element("b", brief(calls.name(number), 300)), element("span", `  ${[about, ...times].filter(Boolean).join(" · ")}`));
}

/** The table of functions, those first that `sort` says. */
function fillFunctions(rows, more, calls, selection, times, { sort, matches, chosen }) {
  const shown = [];
  for (let number = 0; number < calls.functionCount; number++) {
    if (!(times.total[number] > 0 || times.before[number] > 0)) continue;
    if (!matches || matches(number)) shown.push(number);
  }
  const value = { self: times.self, total: times.total }[sort];
  shown.sort((a, b) => value ? value[b] - value[a] || a - b : calls.name(a).localeCompare(calls.name(b)) || a - b);
  const fragment = document.createDocumentFragment();
  for (const number of shown.slice(0, ROWS)) {
    const name = brief(calls.name(number), 300);
    const button = element("button", undefined, { type: "button", title: brief(calls.name(number), 700) });
    const chip = element("span", "", { class: "chip" });
    chip.style.background = hsl(RUNNING[calls.kind(number)], 0);
    button.append(chip, name, " ", element("small", calls.module(number)));
    const cell = element("td");
    cell.append(button);
    const row = element("tr", undefined, { "data-function": number });
    if (number === chosen) row.setAttribute("aria-selected", "true");
    row.append(cell, element("td", share(times.self[number], selection.ns)));
    const total = element("td", share(times.total[number], selection.ns));
    if (selection.difference) {
      const before = selection.baselineNs > 0 ? times.before[number] / selection.baselineNs : 0;
      total.title = points(selection.ns > 0 ? times.total[number] / selection.ns : 0, before);
    }
    row.append(total);
    fragment.append(row);
  }
  rows.replaceChildren(fragment);
  const left = shown.length - ROWS;
  more.textContent = shown.length === 0 ? "No function matches." : left > 0 ? `and ${left} more; search to find them` : "";
}

/** What colours mean, of what there is. */
function fillLegend(legend, calls, { state, side }) {
  legend.replaceChildren();
  const chip = (colour, text) => {
    const made = element("span");
    const square = element("span", "", { class: "chip" });
    square.style.background = colour;
    made.append(square, text);
    legend.append(made);
  };
  if (side === "difference") {
    chip(differenceColour(1)[0], "more than in the baseline");
    chip(differenceColour(0)[0], "as much");
    chip(differenceColour(-1)[0], "less");
    return;
  }
  const kinds = [...new Set(calls.functions.kind)].sort();
  const both = state === "both" && calls.ran && calls.waited;
  for (const kind of kinds) {
    if (state !== "off" && calls.ran) chip(hsl(RUNNING[kind], 0), KINDS[kind]);
    else chip(hsl(WAITS[kind], 0), KINDS[kind]);
  }
  if (both) chip(hsl(WAITS[0], 0), "blue: waiting");
}

function fillNotes(notes, list) {
  if (list.length === 0) return;
  notes.hidden = false;
  if (list.length === 1) {
    notes.textContent = list[0];
    return;
  }
  const details = element("details");
  details.append(element("summary", `${brief(list[0], 160)} (and ${list.length - 1} more)`));
  const all = element("ul");
  for (const note of list) all.append(element("li", note));
  details.append(all);
  notes.append(details);
}

function fillEmpty(empty, why) {
  empty.hidden = false;
  const list = element("ul");
  for (const reason of why) list.append(element("li", reason));
  empty.replaceChildren(element("h2", "This profile is empty"), list);
}

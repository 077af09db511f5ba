// Boxes in rows, made from the tree of calls: callers first, callees first, or around one function.

/** What is looked at: `state` is both, on or off; `side` is this, baseline or difference. */
class Selection {
  constructor(calls, state, side) {
    this.difference = side === "difference";
    const count = calls.nodeCount;
    // Of each node itself: on CPU, waiting, and in a difference what the baseline has.
    this.own = [new Float64Array(count), new Float64Array(count), new Float64Array(count)];
    this.part = new Int8Array(calls.weightCount).fill(-1);
    for (let at = 0; at < calls.weightCount; at++) {
      const flags = calls.weightFlags[at];
      const waiting = flags & WAITING;
      const baseline = (flags & BASELINE) !== 0;
      if (state === "on" && waiting || state === "off" && !waiting) continue;
      if (!this.difference && baseline !== (side === "baseline")) continue;
      const part = this.difference && baseline ? 2 : waiting;
      this.part[at] = part;
      this.own[part][calls.weightNode[at]] += calls.weightNs[at];
    }
    this.total = this.own.map((own) => own.slice());
    for (let node = count - 1; node > 0; node--) {
      const caller = calls.caller[node];
      for (const total of this.total) total[caller] += total[node];
    }
    this.ns = this.total[0][0] + this.total[1][0];
    this.baselineNs = this.total[2][0];
    // Both sides of a difference weigh the same.
    this.scale = this.baselineNs > 0 ? (this.ns || this.baselineNs) / this.baselineNs : 0;
  }

  /** How wide something is, in nanoseconds: in a difference the mean of both sides. */
  width(on, off, before) {
    if (!this.difference) return on + off;
    return this.ns > 0 ? (on + off + before * this.scale) / 2 : before;
  }
}

/** Boxes; every one stands behind the one that it stands on, box 0 is what all stand on. */
class Graph {
  constructor(selection) {
    this.selection = selection;
    // Whether what a box weighs itself can be told of each.
    this.callersFirst = false;
    this.below = [0];
    this.function = [-1];
    this.node = [0];
    this.on = [0];
    this.off = [0];
    this.before = [0];
    this.self = [0];
  }

  box(below, number, node) {
    this.below.push(below);
    this.function.push(number);
    this.node.push(node);
    this.on.push(0);
    this.off.push(0);
    this.before.push(0);
    this.self.push(0);
    return this.function.length - 1;
  }

  add(box, on, off, before) {
    this.on[box] += on;
    this.off[box] += off;
    this.before[box] += before;
  }

  /** Adds up what stands on each box. */
  sum() {
    for (let box = this.function.length - 1; box > 0; box--) this.add(this.below[box], this.on[box], this.off[box], this.before[box]);
    return this;
  }

  ns(box) { return this.on[box] + this.off[box]; }

  /** Gives each box its place: the widest first, those without any width left out. */
  placed() {
    const count = this.function.length;
    const width = new Float64Array(count);
    for (let box = 0; box < count; box++) width[box] = this.selection.width(this.on[box], this.off[box], this.before[box]);
    const onTop = new Array(count);
    for (let box = 1; box < count; box++) {
      if (width[box] > 0) (onTop[this.below[box]] ??= []).push(box);
    }
    this.onTop = onTop;
    this.total = width[0];
    this.x0 = new Float64Array(count);
    this.x1 = new Float64Array(count);
    this.depth = new Int32Array(count);
    this.x1[0] = width[0];
    this.rows = width[0] > 0 ? [[0]] : [];
    for (let depth = 0; depth < this.rows.length; depth++) {
      const next = [];
      for (const box of this.rows[depth]) {
        this.depth[box] = depth;
        let x = this.x0[box];
        const above = onTop[box];
        if (!above) continue;
        if (above.length > 1) above.sort((a, b) => width[b] - width[a] || this.function[a] - this.function[b]);
        for (const child of above) {
          this.x0[child] = x;
          x += width[child];
          this.x1[child] = x;
          next.push(child);
        }
      }
      if (next.length > 0) this.rows.push(next);
    }
    return this;
  }
}

/** Callers first; under one box for each group if `by` says what to group by. */
function topDown(calls, selection, by) {
  const graph = new Graph(selection);
  graph.callersFirst = true;
  if (!by) {
    for (let node = 1; node < calls.nodeCount; node++) graph.box(calls.caller[node], calls.function[node], node);
    for (let node = 0; node < calls.nodeCount; node++) {
      graph.add(node, selection.own[0][node], selection.own[1][node], selection.own[2][node]);
      graph.self[node] = selection.own[0][node] + selection.own[1][node];
    }
    return graph.sum().placed();
  }
  const labels = calls.groups.service.map((_, group) => calls.label(calls.groupName(group, by)));
  const roots = new Map();
  const path = [];
  for (let at = 0; at < calls.weightCount; at++) {
    const part = selection.part[at];
    if (part < 0) continue;
    const label = labels[calls.weightGroup[at]];
    let boxes = roots.get(label);
    if (!boxes) roots.set(label, boxes = new Map([[0, graph.box(0, label, -1)]]));
    let node = calls.weightNode[at];
    while (!boxes.has(node)) {
      path.push(node);
      node = calls.caller[node];
    }
    let box = boxes.get(node);
    while (path.length > 0) {
      node = path.pop();
      box = graph.box(box, calls.function[node], node);
      boxes.set(node, box);
    }
    const ns = calls.weightNs[at];
    graph.add(box, part === 0 ? ns : 0, part === 1 ? ns : 0, part === 2 ? ns : 0);
    if (part < 2) graph.self[box] += ns;
  }
  return graph.sum().placed();
}

/** Lets what stands on boxes grow: nodes of one box, moved by `step`, are gathered by function. */
function grow(calls, graph, starts, step, value) {
  const slot = new Int32Array(calls.functionCount).fill(-1);
  const waiting = starts;
  while (waiting.length > 0) {
    const { box, nodes, items } = waiting.pop();
    const grown = [];
    const put = (node, item) => {
      const number = calls.function[node];
      let at = slot[number];
      if (at < 0) {
        at = slot[number] = grown.length;
        grown.push({ box: graph.box(box, number, -1), nodes: [], items: [] });
      }
      const to = grown[at];
      to.nodes.push(node);
      to.items.push(item);
      value(to.box, node, item);
    };
    for (let at = 0; at < nodes.length; at++) step(nodes[at], items[at], put);
    for (const { box: above } of grown) slot[graph.function[above]] = -1;
    for (const start of grown) waiting.push(start);
  }
  return graph;
}

const toCaller = (calls) => (node, item, put) => {
  const caller = calls.caller[node];
  if (caller !== 0) put(caller, item);
};

const toCallees = (calls) => (node, item, put) => {
  for (let callee = calls.firstCallee[node]; callee !== 0; callee = calls.nextCallee[callee]) put(callee, item);
};

/** From the inside out: what ran or waited first, its callers on top. */
function bottomUp(calls, selection) {
  const graph = new Graph(selection);
  const { own } = selection;
  const leaves = [];
  for (let node = 1; node < calls.nodeCount; node++) {
    if (own[0][node] > 0 || own[1][node] > 0 || own[2][node] > 0) leaves.push(node);
  }
  // The root's first row gathers the leaves themselves, later rows their callers.
  const up = toCaller(calls);
  const step = (node, item, put) => item < 0 ? put(node, node) : up(node, item, put);
  const value = (box, node, item) => {
    graph.add(box, own[0][item], own[1][item], own[2][item]);
    if (node === item) graph.self[box] += own[0][item] + own[1][item];
  };
  graph.add(0, selection.total[0][0], selection.total[1][0], selection.total[2][0]);
  grow(calls, graph, [{ box: 0, nodes: leaves, items: leaves.map(() => -1) }], step, value);
  return graph.placed();
}

/** Around one function: its callers and what it calls. Of a recursion the outermost call counts. */
function around(calls, selection, number) {
  const { total, own } = selection;
  const within = new Uint8Array(calls.nodeCount);
  const nodes = [];
  const every = [];
  for (let node = 1; node < calls.nodeCount; node++) {
    const caller = calls.caller[node];
    within[node] = within[caller] || calls.function[caller] === number ? 1 : 0;
    if (calls.function[node] !== number) continue;
    every.push(node);
    if (!within[node]) nodes.push(node);
  }
  const start = () => {
    const graph = new Graph(selection);
    graph.function[0] = number;
    // It is no node of the tree, but many.
    graph.node[0] = -1;
    for (const node of nodes) graph.add(0, total[0][node], total[1][node], total[2][node]);
    return graph;
  };
  const callers = start();
  grow(calls, callers, [{ box: 0, nodes, items: nodes }], toCaller(calls), (box, node, item) => {
    callers.add(box, total[0][item], total[1][item], total[2][item]);
  });
  const callees = start();
  callees.callersFirst = true;
  grow(calls, callees, [{ box: 0, nodes, items: nodes }], toCallees(calls), (box, node) => {
    callees.add(box, total[0][node], total[1][node], total[2][node]);
    callees.self[box] += own[0][node] + own[1][node];
  });
  for (const node of nodes) callees.self[0] += own[0][node] + own[1][node];
  callers.self[0] = callees.self[0];
  return { callers: callers.placed(), callees: callees.placed(), calls: every.length };
}

/** Self and total of each function, a recursion counted once: columns by function. */
function functionTimes(calls, selection) {
  const count = calls.functionCount;
  const times = { self: new Float64Array(count), total: new Float64Array(count), before: new Float64Array(count) };
  const active = new Int32Array(count);
  const path = [];
  for (let node = 1; node < calls.nodeCount; node++) {
    while (path.length > 0 && path[path.length - 1] !== calls.caller[node]) active[calls.function[path.pop()]]--;
    const number = calls.function[node];
    times.self[number] += selection.own[0][node] + selection.own[1][node];
    if (active[number] === 0) {
      times.total[number] += selection.total[0][node] + selection.total[1][node];
      times.before[number] += selection.total[2][node];
    }
    active[number]++;
    path.push(node);
  }
  return times;
}

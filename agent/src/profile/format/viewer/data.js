"use strict";
// From what is packed into the page to columns of numbers; tree.rs says what they are.

/** Unpacks deflate in base64 into an object. */
async function unpack(packed) {
  const bytes = Uint8Array.fromBase64
    ? Uint8Array.fromBase64(packed)
    : Uint8Array.from(atob(packed), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(stream).text());
}

const WAITING = 1;
const BASELINE = 2;

/** The tree of calls of one profile, or of two. Node 0 is the root; every caller stands before what it calls. */
class Calls {
  constructor({ strings, functions, lines, nodes, groups, weights }) {
    this.strings = strings;
    this.functions = functions;
    this.groups = groups;
    this.functionCount = functions.name.length;
    const count = nodes.up.length + 1;
    this.nodeCount = count;
    this.caller = new Int32Array(count);
    this.function = new Int32Array(count).fill(-1);
    this.firstCallee = new Int32Array(count);
    this.nextCallee = new Int32Array(count);
    for (let node = 1; node < count; node++) {
      let caller = node - 1;
      for (let up = nodes.up[node - 1]; up > 0; up--) caller = this.caller[caller];
      this.caller[node] = caller;
      this.function[node] = nodes.function[node - 1];
    }
    for (let node = count - 1; node > 0; node--) {
      const caller = this.caller[node];
      this.nextCallee[node] = this.firstCallee[caller];
      this.firstCallee[caller] = node;
    }
    // Behind the last node of each subtree.
    this.end = new Int32Array(count).fill(1);
    for (let node = count - 1; node >= 0; node--) {
      this.end[node] = Math.max(this.end[node], node + 1);
      const caller = this.caller[node];
      if (node > 0) this.end[caller] = Math.max(this.end[caller], this.end[node]);
    }
    this.weightCount = weights.ns.length;
    this.weightNode = new Int32Array(this.weightCount);
    for (let at = 0, node = 0; at < this.weightCount; at++) {
      node += weights.ahead[at];
      this.weightNode[at] = node;
    }
    this.weightGroup = weights.group;
    this.weightFlags = weights.flags;
    this.weightNs = weights.ns;
    this.weightSamples = weights.samples;
    this.flags = weights.flags.reduce((seen, flags) => seen | (1 << flags), 0);
    // First line of each function among all lines.
    this.lines = lines;
    this.linesFrom = new Int32Array(this.functionCount + 1);
    for (let at = 0; at < this.functionCount; at++) this.linesFrom[at + 1] = this.linesFrom[at] + lines.count[at];
    this.labels = [];
    this.labelNumbers = new Map();
  }

  get ran() { return (this.flags & 0b0101) !== 0; }
  get waited() { return (this.flags & 0b1010) !== 0; }

  /** The number of a name that is no function, such as a service's; behind those of functions. */
  label(name) {
    let number = this.labelNumbers.get(name);
    if (number === undefined) {
      number = this.functionCount + this.labels.length;
      this.labels.push(name);
      this.labelNumbers.set(name, number);
    }
    return number;
  }

  name(number) {
    if (number < 0) return "all";
    if (number >= this.functionCount) return this.labels[number - this.functionCount];
    return this.strings[this.functions.name[number]];
  }

  module(number) {
    return number >= 0 && number < this.functionCount ? this.strings[this.functions.module[number]] : "";
  }

  /** 0 user, 1 inlined, 2 kernel, 3 interpreted, 4 JIT, 5 no code; 6 what is no function at all. */
  kind(number) {
    return number >= 0 && number < this.functionCount ? this.functions.kind[number] : 6;
  }

  /** Its lines with the most time: file, line, nanoseconds. */
  linesOf(number) {
    const lines = [];
    if (number < 0 || number >= this.functionCount) return lines;
    for (let at = this.linesFrom[number]; at < this.linesFrom[number + 1]; at++) {
      lines.push({ file: this.strings[this.lines.file[at]], line: this.lines.line[at], ns: this.lines.ns[at] });
    }
    return lines;
  }

  /** A group's name under a way of grouping. */
  groupName(group, by) {
    const { strings, groups } = this;
    const service = strings[groups.service[group]] || "[unknown]";
    switch (by) {
      case "service": return service;
      case "process": return groups.pid[group] ? `${service} (PID ${groups.pid[group]})` : service;
      case "thread": {
        const thread = strings[groups.thread[group]] || service;
        return groups.tid[group] ? `${thread} (${groups.tid[group]})` : thread;
      }
      default: return strings[groups.query[group]] || "[no query]";
    }
  }
}

const GROUPINGS = ["service", "process", "thread", "query"];

/** Which ways of grouping tell anything apart. */
function groupings(calls) {
  return GROUPINGS.filter((by) => {
    const names = new Set();
    for (let group = 0; group < calls.groups.service.length && names.size < 2; group++) names.add(calls.groupName(group, by));
    return names.size > 1;
  });
}

/** Nanoseconds for people, with three digits. */
function span(ns) {
  const [value, unit] = ns >= 1e9 ? [ns / 1e9, "s"] : ns >= 1e6 ? [ns / 1e6, "ms"] : ns >= 1e3 ? [ns / 1e3, "µs"] : [ns, "ns"];
  if (unit === "ns") return `${Math.round(value)} ns`;
  return `${value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)} ${unit}`;
}

/** A share for people. */
function share(part, whole) {
  if (!(whole > 0)) return "0 %";
  const percent = (100 * part) / whole;
  return `${percent > 0 && percent < 0.01 ? "< 0.01" : percent.toFixed(percent >= 10 ? 1 : 2)} %`;
}

// Draws boxes, finds them again under the pointer, moves from one to the next. Knows nothing of panels.

const ROW = 19;
const FONT = '12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
const DARK_INK = "#15130f";
const KINDS = ["user code", "inlined", "kernel", "interpreted", "JIT", "no code"];
// Hue, saturation, lightness by kind: of what runs, of what waits.
const RUNNING = [[38, 86, 64], [47, 80, 74], [14, 76, 64], [95, 44, 60], [340, 60, 73], [40, 6, 76], [38, 42, 78]];
const WAITS = [[210, 70, 70], [203, 64, 82], [236, 62, 75], [174, 42, 58], [268, 52, 77], [220, 8, 78], [212, 40, 82]];

const nightly = matchMedia("(prefers-color-scheme: dark)");

/** A colour as CSS has it; dimmer by night. */
function hsl([hue, saturation, lightness], shift) {
  const night = nightly.matches;
  const s = night ? saturation * 0.8 : saturation;
  const l = (night ? lightness * 0.86 : lightness) + shift;
  return `hsl(${hue + shift} ${s}% ${l}%)`;
}

/** Fill and ink for a difference of -1 to 1. */
function differenceColour(change) {
  const strength = Math.abs(change) ** 0.55;
  const hue = change > 0 ? 8 : 212;
  const night = nightly.matches;
  const lightness = night ? 34 + 26 * strength : 91 - 29 * strength;
  return [`hsl(${hue} ${strength * (night ? 62 : 84)}% ${lightness}%)`, lightness < 50 ? "#f4f2ee" : DARK_INK];
}

/** Names that tell less in less room: without type arguments, then without paths. */
function shorter(name) {
  const names = [name];
  if (name.length < 400) {
    let plain = name;
    for (let before = ""; before !== plain;) {
      // `<Type as Trait>::method` is the type's method.
      [before, plain] = [plain, plain.replace(/^<([^<>]+?) as [^<>]*>(?=::)|<[^<>]*>|\([^()]*\)/g, "$1")];
    }
    const parts = plain.split("::").filter((part) => part !== "");
    if (parts.length > 0 && plain.trim() !== "") names.push(plain, parts.slice(-2).join("::"), parts[parts.length - 1]);
  }
  return [...new Set(names)];
}

class Canvas {
  constructor(canvas, scroll, spacer) {
    this.canvas = canvas;
    this.scroll = scroll;
    this.spacer = spacer;
    this.context = canvas.getContext("2d", { alpha: false });
    // Each is a graph with where it grows: `up` or down.
    this.panes = [];
    this.hover = null;
    this.selected = null;
    this.matches = null;
    this.colours = new Map();
    this.widths = new Map();
    this.labels = new Map();
    nightly.addEventListener("change", () => { this.colours.clear(); this.draw(); });
    new ResizeObserver(() => this.resize()).observe(scroll);
  }

  /** Shows other graphs: `[{ graph, up, skip }]`, from top to bottom; `skip` rows of a graph are not drawn. */
  show(calls, panes) {
    this.calls = calls;
    this.panes = panes.map((pane) => ({ ...pane, zoom: 0 }));
    this.hover = null;
    this.selected = null;
    this.resize();
    // Roots are where reading begins.
    const first = this.panes[0];
    if (this.panes.length === 2) this.scroll.scrollTop = Math.max(0, this.heightOf(first) - this.viewHeight / 2);
    else this.scroll.scrollTop = first?.up ? this.scroll.scrollHeight : 0;
    this.draw();
  }

  heightOf(pane) {
    return Math.max(0, pane.graph.rows.length - pane.skip) * ROW;
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    const { clientHeight } = this.scroll;
    const onGround = this.scroll.scrollTop + this.viewHeight >= this.contentHeight - 1;
    this.viewHeight = clientHeight;
    let content = 0;
    for (const pane of this.panes) content += this.heightOf(pane);
    this.contentHeight = Math.max(content + 6, clientHeight);
    this.spacer.style.height = `${this.contentHeight - clientHeight}px`;
    this.canvas.style.height = `${clientHeight}px`;
    this.viewWidth = this.scroll.clientWidth;
    this.canvas.width = Math.max(1, Math.round(this.viewWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    // Graphs that grow up stand on the ground.
    let top = this.panes.length === 1 && this.panes[0].up ? this.contentHeight - content : 0;
    if (this.panes.length === 2) top = Math.max(0, (this.contentHeight - content) / 2);
    for (const pane of this.panes) {
      pane.top = top;
      top += this.heightOf(pane);
    }
    if (onGround && this.panes[0]?.up) this.scroll.scrollTop = this.scroll.scrollHeight;
    this.draw();
  }

  draw() {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = 0;
      this.paint();
    });
  }

  /** Top of a row on the canvas. */
  rowTop(pane, depth) {
    const row = pane.up ? pane.graph.rows.length - 1 - depth : depth - pane.skip;
    return pane.top + row * ROW - this.scroll.scrollTop;
  }

  range(pane) {
    const { graph, zoom } = pane;
    return [graph.x0[zoom], Math.max(graph.x1[zoom] - graph.x0[zoom], 1e-9)];
  }

  paint() {
    const { context } = this;
    const ratio = devicePixelRatio || 1;
    const style = getComputedStyle(document.documentElement);
    this.paper = style.getPropertyValue("--paper");
    this.ink = style.getPropertyValue("--ink");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = this.paper;
    context.fillRect(0, 0, this.viewWidth, this.viewHeight);
    context.font = FONT;
    context.textBaseline = "middle";
    context.direction = "ltr";
    for (const pane of this.panes) this.paintPane(pane);
    for (const [at, colour, wide] of [[this.hover, this.ink, 1], [this.selected, this.ink, 2]]) {
      if (!at) continue;
      const [x, y, width] = this.placeOf(at.pane, at.box);
      context.strokeStyle = colour;
      context.lineWidth = wide;
      context.strokeRect(x + wide / 2, y + wide / 2, Math.max(width - wide, 1), ROW - wide);
    }
  }

  placeOf(pane, box) {
    const [from, range] = this.range(pane);
    const { graph } = pane;
    const x0 = Math.max(0, ((graph.x0[box] - from) / range) * this.viewWidth);
    const x1 = Math.min(this.viewWidth, ((graph.x1[box] - from) / range) * this.viewWidth);
    return [x0, this.rowTop(pane, graph.depth[box]), x1 - x0];
  }

  /** The first place in a row whose box ends behind `x`. */
  firstBehind(graph, row, x) {
    let [low, high] = [0, row.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (graph.x1[row[middle]] > x) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  paintPane(pane) {
    const { context } = this;
    const { graph, zoom } = pane;
    const [from, range] = this.range(pane);
    const scale = this.viewWidth / range;
    for (let depth = pane.skip; depth < graph.rows.length; depth++) {
      const y = this.rowTop(pane, depth);
      if (y > this.viewHeight || y + ROW < 0) continue;
      const row = graph.rows[depth];
      let painted = -1;
      for (let at = this.firstBehind(graph, row, from); at < row.length; at++) {
        const box = row[at];
        const x0 = Math.max(0, (graph.x0[box] - from) * scale);
        if (x0 >= this.viewWidth) break;
        const x1 = Math.min(this.viewWidth, (graph.x1[box] - from) * scale);
        // What is narrower than a pixel and starts in one that is painted would not be seen.
        if (x1 < painted) continue;
        const width = Math.max(x1 - x0 - (x1 - x0 > 3 ? 1 : 0), 0.8);
        const matched = this.matches?.[pane === this.panes[0] ? 0 : 1][box];
        context.globalAlpha = depth < graph.depth[zoom] ? 0.55 : 1;
        if (this.matches && !matched) context.globalAlpha = 0.3;
        const ink = this.fill(graph, box, x0, y, width);
        if (matched) {
          context.fillStyle = nightly.matches ? "#ff7ad9" : "#c2188f";
          context.fillRect(x0, y + ROW - 4, width, 3);
        }
        painted = x0 + Math.max(width, 0.8);
        if (width > 22) this.write(graph.function[box], x0 + 4, y, width - 7, ink);
      }
    }
    context.globalAlpha = 1;
  }

  /** Fills a box; returns the colour of its text. */
  fill(graph, box, x, y, width) {
    const { context } = this;
    const { selection } = graph;
    const height = ROW - 1;
    if (selection.difference) {
      const [fill, ink] = this.changeColours(graph, box);
      context.fillStyle = fill;
      context.fillRect(x, y, width, height);
      return ink;
    }
    const ran = graph.on[box] / (graph.on[box] + graph.off[box]);
    if (ran > 0) {
      context.fillStyle = this.colour(graph.function[box], RUNNING);
      context.fillRect(x, y, width * ran, height);
    }
    if (ran < 1) {
      context.fillStyle = this.colour(graph.function[box], WAITS);
      context.fillRect(x + width * ran, y, width * (1 - ran), height);
    }
    return DARK_INK;
  }

  changeColours(graph, box) {
    const now = graph.ns(box);
    const before = graph.before[box] * graph.selection.scale;
    const key = `d${Math.round((50 * (now - before)) / (now + before || 1))}`;
    let colours = this.colours.get(key);
    if (!colours) this.colours.set(key, colours = differenceColour((now - before) / (now + before || 1)));
    return colours;
  }

  /** A function's colour: of its kind, a little off so that neighbours differ. */
  colour(number, palette) {
    const key = 2 * number + (palette === WAITS ? 1 : 0);
    let colour = this.colours.get(key);
    if (!colour) {
      const shift = ((Math.imul(number + 7, 2654435761) >>> 24) % 9) - 4;
      this.colours.set(key, colour = hsl(palette[this.calls.kind(number)], shift));
    }
    return colour;
  }

  measure(text) {
    let width = this.widths.get(text);
    if (width === undefined) {
      if (this.widths.size > 50000) this.widths.clear();
      this.widths.set(text, width = this.context.measureText(text).width);
    }
    return width;
  }

  write(number, x, y, room, ink) {
    let names = this.labels.get(number);
    if (!names) this.labels.set(number, names = shorter(this.calls.name(number).slice(0, 600)));
    let text = names.find((name) => this.measure(name) <= room);
    if (text === undefined) {
      // The shortest one, cut. Whole characters only: an emoji has two units.
      const chars = Array.from(names[names.length - 1]);
      let [low, high] = [0, Math.min(chars.length, Math.ceil(room / 2))];
      const dots = this.measure("…");
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (this.context.measureText(chars.slice(0, middle).join("")).width + dots <= room) low = middle;
        else high = middle - 1;
      }
      if (low < 2) return;
      text = `${chars.slice(0, low).join("")}…`;
    }
    this.context.fillStyle = ink;
    this.context.fillText(text, x, y + ROW / 2);
  }

  /** What stands at a place of the canvas, or null. */
  at(x, y) {
    for (const pane of this.panes) {
      const { graph } = pane;
      const down = Math.floor((y + this.scroll.scrollTop - pane.top) / ROW);
      const depth = pane.up ? graph.rows.length - 1 - down : down + pane.skip;
      if (down < 0 || down * ROW >= this.heightOf(pane)) continue;
      const row = graph.rows[depth];
      if (!row) continue;
      const [from, range] = this.range(pane);
      const place = from + (x / this.viewWidth) * range;
      const box = row[this.firstBehind(graph, row, place)];
      if (box !== undefined && graph.x0[box] <= place) return { pane, box };
    }
    return null;
  }

  zoom(pane, box) {
    for (const other of this.panes) other.zoom = other === pane ? box : 0;
    this.draw();
  }

  /** Scrolls so that a box is in view. */
  reveal({ pane, box }) {
    const y = this.rowTop(pane, pane.graph.depth[box]);
    if (y < 0) this.scroll.scrollTop += y - ROW;
    else if (y + ROW > this.viewHeight) this.scroll.scrollTop += y + 2 * ROW - this.viewHeight;
    this.draw();
  }

  /** The box that an arrow leads to, from the selected one. */
  step(key) {
    const at = this.selected;
    if (!at) return this.panes.length > 0 ? { pane: this.panes[this.panes.length - 1], box: this.panes[this.panes.length - 1].zoom } : null;
    const { pane, box } = at;
    const { graph } = pane;
    const away = pane.up ? "ArrowUp" : "ArrowDown";
    if (key === away) {
      const above = graph.onTop[box];
      if (!above) return at;
      const [from, range] = this.range(pane);
      const seen = above.find((child) => graph.x1[child] > from && graph.x0[child] < from + range);
      return { pane, box: seen ?? above[0] };
    }
    if (key === "ArrowUp" || key === "ArrowDown") {
      if (box !== 0 && !(pane.skip > 0 && graph.below[box] === 0)) return { pane, box: graph.below[box] };
      // Between the two halves of a sandwich the function itself is the bridge.
      const other = this.panes.find((one) => one !== pane);
      if (!other) return at;
      if (pane.skip > 0) return { pane: other, box: 0 };
      const callers = other.graph.onTop[0];
      return callers ? { pane: other, box: callers[0] } : at;
    }
    const row = graph.rows[graph.depth[box]];
    const next = row[this.firstBehind(graph, row, graph.x0[box]) + (key === "ArrowRight" ? 1 : -1)];
    if (next === undefined) return at;
    const [from, range] = this.range(pane);
    return graph.x1[next] > from && graph.x0[next] < from + range ? { pane, box: next } : at;
  }
}

// The timeline: one lane a member, an overview of the whole run above, zoom by dragging, wheel, buttons or keys.

const GANTT = { lane: 24, gap: 5, axis: 26, right: 12, overview: 34 };
const RECENT_EPOCHS = 8;

class Gantt {
  constructor(data) {
    this.data = data;
    this.whole = { from: 0, to: Math.max(data.end, 0.001) };
    this.view = this.recent();
    const names = data.lanes.map((lane) => lane.caption);
    this.left = Math.min(240, 20 + 6.9 * Math.max(8, ...names.map((name) => name.length)));
    this.height = data.lanes.length * (GANTT.lane + GANTT.gap) + GANTT.axis;
    const label = `Timeline of ${names.length} members over ${duration(data.end)}; the table of stages below has its numbers`;
    this.canvas = svg("svg", { height: this.height, tabindex: 0, role: "img", "aria-label": label });
    this.overview = svg("svg", { height: GANTT.overview, class: "overview", "aria-hidden": "true" });
    this.element = html("div", {}, this.overview, html("div", { class: "lanes" }, this.canvas));
    this.listen();
    drawToWidth(this.element, (width) => {
      this.width = width;
      this.drawOverview();
      this.draw();
    });
  }

  // The last few iterations: stages are too short to be seen over a whole run.
  recent() {
    const bars = this.data.lanes.flatMap((lane) => lane.bars);
    const last = bars.reduce((epoch, bar) => Math.max(epoch, bar.epoch), 0);
    const from = bars.reduce((start, bar) => (bar.epoch > last - RECENT_EPOCHS ? Math.min(start, bar.start) : start), this.whole.to);
    return { from: Math.max(0, from - 0.01 * (this.whole.to - from)), to: this.whole.to };
  }

  get x() {
    return linear(this.view.from, this.view.to, this.left, this.width - GANTT.right);
  }

  timeAt(clientX) {
    const pixel = clientX - this.canvas.getBoundingClientRect().left;
    return linear(this.left, this.width - GANTT.right, this.view.from, this.view.to)(pixel);
  }

  show(from, to) {
    const span = Math.min(this.whole.to, Math.max(0.01, to - from));
    const start = Math.min(Math.max(0, from), this.whole.to - span);
    this.view = { from: start, to: start + span };
    hideTip();
    this.draw();
  }

  zoom(factor, around = (this.view.from + this.view.to) / 2) {
    this.show(around - (around - this.view.from) * factor, around + (this.view.to - around) * factor);
  }

  pan(share) {
    const shift = share * (this.view.to - this.view.from);
    this.show(this.view.from + shift, this.view.to + shift);
  }

  listen() {
    this.canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    this.canvas.addEventListener("dblclick", () => this.show(0, this.whole.to));
    this.canvas.addEventListener("pointerdown", (event) => this.startBrush(event));
    this.canvas.addEventListener("pointermove", (event) => this.onMove(event));
    this.canvas.addEventListener("pointerup", (event) => this.endBrush(event));
    this.canvas.addEventListener("pointercancel", () => this.dropBrush());
    this.canvas.addEventListener("pointerleave", hideTip);
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    const carry = (event) => {
      if (event.type === "pointermove" && !(event.buttons & 1)) return;
      if (event.type === "pointerdown") this.overview.setPointerCapture(event.pointerId);
      const pixel = event.clientX - this.overview.getBoundingClientRect().left;
      const middle = linear(this.left, this.width - GANTT.right, 0, this.whole.to)(pixel);
      const half = (this.view.to - this.view.from) / 2;
      this.show(middle - half, middle + half);
    };
    this.overview.addEventListener("pointerdown", carry);
    this.overview.addEventListener("pointermove", carry);
  }

  // A plain wheel scrolls the page until the timeline was clicked, so that nobody is caught in it.
  onWheel(event) {
    const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (!sideways && !event.ctrlKey && !event.metaKey && document.activeElement !== this.canvas) return;
    event.preventDefault();
    if (sideways) this.pan((event.deltaX || event.deltaY) / 800);
    else this.zoom(1.0015 ** event.deltaY, this.timeAt(event.clientX));
  }

  onKey(event) {
    const action = {
      "+": () => this.zoom(0.6), "=": () => this.zoom(0.6), "-": () => this.zoom(1 / 0.6),
      ArrowLeft: () => this.pan(-0.2), ArrowRight: () => this.pan(0.2), 0: () => this.show(0, this.whole.to),
    }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  startBrush(event) {
    if (event.button !== 0 || event.pointerType === "touch") return;
    this.canvas.setPointerCapture(event.pointerId);
    this.brushFrom = this.timeAt(event.clientX);
    this.brushPixel = event.clientX;
  }

  onMove(event) {
    if (this.brushFrom === undefined) {
      const bar = event.target.bar;
      if (bar) this.tell(event, bar);
      else hideTip();
      return;
    }
    const [low, high] = this.brushed(event).map(this.x);
    this.brush?.remove();
    this.brush = svg("rect", { x: low, y: 0, width: Math.max(1, high - low), height: this.height - GANTT.axis, class: "brush" });
    this.canvas.append(this.brush);
  }

  brushed(event) {
    const limit = (time) => Math.min(this.view.to, Math.max(this.view.from, time));
    return [limit(this.brushFrom), limit(this.timeAt(event.clientX))].sort((one, other) => one - other);
  }

  endBrush(event) {
    if (this.brushFrom === undefined) return;
    const range = this.brushed(event);
    const dragged = Math.abs(event.clientX - this.brushPixel) > 6;
    this.dropBrush();
    if (dragged) this.show(...range);
  }

  dropBrush() {
    this.brush?.remove();
    this.brush = this.brushFrom = undefined;
  }

  tell(event, { bar, lane }) {
    showTip(event, `${bar.label}  ${duration(bar.seconds)}`, [
      ["member", lane.caption],
      ["from", `${fixed(2)(bar.start)} s`],
      ["epoch", whole(bar.epoch)],
      ["generation", bar.generation === null ? ABSENT : whole(bar.generation)],
    ]);
  }

  draw() {
    const x = this.x;
    this.canvas.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    const clip = svg("clipPath", { id: "lanes-clip" }, svg("rect", { x: this.left, y: 0, width: Math.max(0, this.width - this.left - GANTT.right), height: this.height }));
    const bars = svg("g", { "clip-path": "url(#lanes-clip)" });
    const names = svg("g");
    this.data.lanes.forEach((lane, index) => {
      const top = index * (GANTT.lane + GANTT.gap);
      const width = Math.max(0, this.width - this.left - GANTT.right);
      names.append(
        svg("rect", { x: this.left, y: top, width, height: GANTT.lane, rx: 3, class: "lane" }),
        svg("text", { x: 0, y: top + GANTT.lane / 2 + 4, class: "lane-name" }, lane.caption),
      );
      this.drawLane(bars, lane, top, x);
    });
    this.canvas.replaceChildren(clip, this.axisOf(x), names, bars, ...this.seamsOf(x));
    this.drawWindow();
  }

  drawLane(parent, lane, top, x) {
    let drawnTo = -1;
    for (const bar of lane.bars) {
      const from = Math.max(this.left - 2, x(bar.start));
      const to = Math.min(this.width, x(bar.start + bar.seconds));
      // Bars that would hide behind one another at this zoom are drawn once.
      if (to < this.left || from > this.width - GANTT.right || to < drawnTo + 0.6) continue;
      drawnTo = to;
      const phase = bar.kind === "phase";
      const rect = svg("rect", {
        class: `bar ${bar.kind}`, x: from, y: top + (phase ? 3 : 0), width: Math.max(0.8, to - from), height: GANTT.lane - (phase ? 6 : 0),
        fill: this.colorOf(bar), rx: to - from > 6 ? 2 : 0,
      });
      rect.bar = { bar, lane };
      parent.append(rect);
      this.nameBar(parent, bar, from, to, top);
    }
  }

  nameBar(parent, bar, from, to, top) {
    const phase = bar.kind === "phase";
    const text = phase && bar.generation !== null ? `${bar.label} g${bar.generation}` : bar.label;
    const room = Math.min(to, this.width - GANTT.right) - Math.max(from, this.left);
    if (room < 6.6 * text.length + 8) return;
    const middle = (Math.min(to, this.width - GANTT.right) + Math.max(from, this.left)) / 2;
    parent.append(svg("text", { x: middle, y: top + GANTT.lane / 2 + 4, "text-anchor": "middle", class: phase ? "on-phase" : inkOn(this.colorOf(bar)) }, text));
  }

  axisOf(x) {
    const group = svg("g");
    const bottom = this.height - GANTT.axis;
    const { ticks, decimals } = roundTicks(this.view.from, this.view.to, Math.max(2, (this.width - this.left) / 85));
    for (const tick of ticks) {
      group.append(
        svg("line", { x1: x(tick), x2: x(tick), y1: 0, y2: bottom + 4, class: "grid" }),
        svg("text", { x: x(tick), y: bottom + 18, "text-anchor": "middle" }, `${fixed(decimals)(tick)} s`),
      );
    }
    return group;
  }

  seamsOf(x) {
    const visible = this.data.seams.filter((seam) => seam >= this.view.from && seam <= this.view.to);
    return visible.map((seam) => svg("line", { x1: x(seam), x2: x(seam), y1: 0, y2: this.height - GANTT.axis, class: "seam" }, svg("title", {}, "resumed")));
  }

  drawOverview() {
    const x = linear(0, this.whole.to, this.left, this.width - GANTT.right);
    const row = GANTT.overview / this.data.lanes.length;
    this.overview.setAttribute("viewBox", `0 0 ${this.width} ${GANTT.overview}`);
    const bars = svg("g");
    this.data.lanes.forEach((lane, index) => {
      let drawnTo = -1;
      for (const bar of lane.bars) {
        const to = x(bar.start + bar.seconds);
        if (to < drawnTo + 0.6) continue;
        drawnTo = to;
        bars.append(svg("rect", { class: bar.kind, x: x(bar.start), y: index * row, width: Math.max(0.6, to - x(bar.start)), height: Math.max(0.8, row - 1), fill: this.colorOf(bar) }));
      }
    });
    this.windowRect = svg("rect", { class: "window", y: -2, height: GANTT.overview + 4, rx: 3 });
    this.overview.replaceChildren(
      svg("rect", { x: this.left, y: 0, width: Math.max(0, this.width - this.left - GANTT.right), height: GANTT.overview, class: "lane" }),
      svg("text", { x: 0, y: GANTT.overview / 2 + 4 }, "whole run"), bars, this.windowRect,
    );
  }

  drawWindow() {
    const x = linear(0, this.whole.to, this.left, this.width - GANTT.right);
    this.windowRect.setAttribute("x", x(this.view.from));
    this.windowRect.setAttribute("width", Math.max(3, x(this.view.to) - x(this.view.from)));
  }

  colorOf(bar) {
    const colors = bar.kind === "phase" ? this.data.colors.phases : this.data.colors.stages;
    return colors[bar.label] ?? this.data.colors.unknown;
  }
}

// The class of text that can be read on a colour, by its relative luminance.
function inkOn(color) {
  const channels = [1, 3, 5].map((at) => (parseInt(color.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2] > 0.25 ? "on-light" : "on-dark";
}

function legendOf(data) {
  const present = new Set(data.lanes.flatMap((lane) => lane.bars.map((bar) => bar.label)));
  const legend = html("div", { class: "legend" });
  for (const [kind, colors] of [["phase", data.colors.phases], ["stage", data.colors.stages]]) {
    for (const [name, color] of Object.entries(colors)) {
      const swatch = html("span", { class: `swatch ${kind}`, style: `background:${color}` });
      if (present.has(name)) legend.append(html("span", {}, swatch, name));
    }
  }
  return legend;
}

function drawTimeline(data, parent) {
  const head = html("div", { class: "head" }, html("h2", { id: "timeline-title" }, "Who holds the GPUs: phases and stages of switches"));
  parent.append(head);
  if (!data.lanes.length) {
    parent.append(html("p", { class: "empty" }, "no switch took place"));
    return;
  }
  const gantt = new Gantt(data);
  const buttons = [
    ["Whole run", "Show the whole run", () => gantt.show(0, gantt.whole.to)],
    ["Latest", "Show the latest iterations", () => gantt.show(gantt.recent().from, gantt.recent().to)],
    ["◀", "Earlier", () => gantt.pan(-0.4)],
    ["▶", "Later", () => gantt.pan(0.4)],
    ["+", "Zoom in", () => gantt.zoom(0.5)],
    ["−", "Zoom out", () => gantt.zoom(2)],
  ].map(([text, label, action]) => {
    const button = html("button", { type: "button", "aria-label": label, title: label }, text);
    button.addEventListener("click", action);
    return button;
  });
  head.append(html("div", { class: "toolbar" }, ...buttons));
  const hint = "Drag to zoom in, double-click for the whole run; Ctrl and wheel (or the wheel after a click) zoom, Shift and wheel pan; keys + − 0 ← →.";
  parent.append(gantt.element, legendOf(data), html("p", { class: "hint" }, hint));
}

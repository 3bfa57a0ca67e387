// Line charts over iterations, or over generations, that share one cursor.

const CHART = { height: 190, left: 48, right: 14, top: 8, bottom: 24 };
const MEAN_OF = 5;

function movingMean(values) {
  return values.map((_, index) => {
    const window = values.slice(Math.max(0, index + 1 - MEAN_OF), index + 1).filter(exists);
    return window.length ? window.reduce((sum, value) => sum + value, 0) / window.length : null;
  });
}

// A path through points, broken where a value does not exist.
function linePath(points) {
  let pen = "M";
  let path = "";
  for (const [x, y] of points) {
    if (y === null) pen = "M";
    else {
      path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
    }
  }
  return path;
}

function tipOf(record) {
  return [
    ["reward", fixed(3)(record.reward)],
    ["response", `${fixed(1)(record.responseTokens)} tokens`],
    ["tokens/s", whole(record.tokensPerSecond)],
    ["max |Δlogp|", tiny(record.maxAbsLogprobDifference)],
    ["KL", tiny(record.kl)],
    ["gradient norm", tiny(record.gradientNorm)],
    ["learning rate", tiny(record.learningRate)],
    ["finished", whole(record.finished)],
    ["unfinished", whole(record.unfinished)],
    ["took", duration(record.seconds)],
  ];
}

// A chart has one line of the records' field `key`, or several `lines`: [{name, of(record), dash}].
class Chart {
  constructor(records, options, group) {
    this.records = records;
    this.options = options;
    this.group = group;
    const lines = options.lines ?? [{ name: "", of: (record) => record[options.key] }];
    this.lines = lines.map((line) => ({ ...line, values: records.map(line.of) }));
    this.reading = html("span", { class: "reading" });
    const known = this.lines.flatMap((line) => line.values).filter(exists);
    this.canvas = svg("svg", { height: CHART.height, tabindex: 0, role: "img", "aria-label": this.spoken() });
    const body = known.length ? this.canvas : html("p", { class: "empty" }, options.empty ?? "no iteration finished");
    this.element = html("article", { class: "card" }, html("div", { class: "head" }, html("h2", {}, options.title), this.reading), body);
    if (known.length) {
      this.listen();
      drawToWidth(this.element, (width) => this.draw(width - 34));
    }
  }

  // What a screen reader says of the chart as a whole.
  spoken() {
    const { title, text, at } = this.options;
    const told = this.lines.map(({ name, values }) => {
      const known = values.filter(exists);
      return known.length
        ? `${name} ${known.length} ${at}s, first ${text(known[0])}, last ${text(known.at(-1))}, ` +
            `smallest ${text(Math.min(...known))}, largest ${text(Math.max(...known))}.`
        : `${name} no number.`;
    });
    return `${title}: ${told.join(" ").trim()} Arrow keys read single ${at}s.`;
  }

  // Where a record is: the number of its iteration or generation.
  place(index) {
    return this.records[index][this.options.at];
  }

  listen() {
    this.canvas.addEventListener("pointermove", (event) => {
      const index = this.nearest(event.clientX - this.canvas.getBoundingClientRect().left);
      this.group.point(index);
      this.tell(event, index);
    });
    this.canvas.addEventListener("pointerleave", () => this.group.point(null));
    this.canvas.addEventListener("blur", () => this.group.point(null));
    this.canvas.addEventListener("keydown", (event) => {
      const last = this.records.length - 1;
      const at = this.group.index ?? last + 1;
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last, Escape: null }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const index = to === null ? null : Math.min(last, Math.max(0, to));
      this.group.point(index);
      if (index === null) return;
      const box = this.canvas.getBoundingClientRect();
      this.tell({ clientX: box.left + this.x(this.place(index)), clientY: box.top + CHART.top }, index);
    });
  }

  // The tip is a status region: a screen reader speaks it.
  tell(position, index) {
    showTip(position, `${this.options.at} ${this.place(index)}`, this.options.tip(this.records[index]));
  }

  nearest(pixel) {
    let best = 0;
    this.records.forEach((_, index) => {
      if (Math.abs(this.x(this.place(index)) - pixel) < Math.abs(this.x(this.place(best)) - pixel)) best = index;
    });
    return best;
  }

  draw(width) {
    const { height, left, right, top, bottom } = CHART;
    const first = this.place(0);
    const last = this.place(this.records.length - 1);
    const margin = last === first ? 0.5 : 0;
    this.x = linear(first - margin, last + margin, left + 6, width - right);
    const { y, ticks } = valueAxis(this.lines.flatMap((line) => line.values), this.options, height - bottom, top);
    this.y = y;
    this.canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.cursor = svg("g");
    this.canvas.replaceChildren(this.gridOf(ticks, width), this.labelsOf(first, last), ...this.lines.map((line) => this.drawn(line)), this.cursor);
    this.point(this.group.index);
  }

  gridOf(ticks, width) {
    const group = svg("g");
    for (const [value, text] of ticks) {
      const at = Math.round(this.y(value)) + 0.5;
      group.append(
        svg("line", { x1: CHART.left, x2: width - CHART.right, y1: at, y2: at, class: "grid" }),
        svg("text", { x: CHART.left - 8, y: at + 4, "text-anchor": "end" }, text),
      );
    }
    return group;
  }

  labelsOf(first, last) {
    const group = svg("g");
    for (const number of roundTicks(first, last, 7, 1).ticks) {
      group.append(svg("text", { x: this.x(number), y: CHART.height - 6, "text-anchor": "middle" }, whole(number)));
    }
    return group;
  }

  drawn({ values, dash }) {
    const { color, mean } = this.options;
    const spots = (numbers) => numbers.map((value, index) => [this.x(this.place(index)), exists(value) ? this.y(value) : null]);
    const points = spots(values);
    const group = svg("g");
    const dots = mean || points.length <= 60;
    const smooth = mean ? spots(movingMean(values)) : points;
    group.append(svg("path", { d: linePath(smooth), fill: "none", stroke: color, "stroke-width": 2.2, "stroke-dasharray": dash, "stroke-linejoin": "round", "stroke-linecap": "round" }));
    for (const [x, y] of dots ? points : []) {
      if (y !== null) group.append(svg("circle", { cx: x, cy: y, r: mean ? 3 : 2.4, fill: color, "fill-opacity": mean ? 0.45 : 1 }));
    }
    return group;
  }

  // Puts the cursor on a record, or takes it away.
  point(index) {
    const { text, unit, color, at } = this.options;
    const shown = index ?? this.records.length - 1;
    const where = index === null ? "last" : `${at} ${this.place(shown)}`;
    const told = this.lines.flatMap(({ name, values }) => [`  ${name} `, html("b", {}, text(values[shown])), unit ? ` ${unit}` : ""]);
    this.reading.replaceChildren(where, ...told);
    this.cursor.replaceChildren();
    if (index === null) return;
    const x = this.x(this.place(index));
    this.cursor.append(svg("line", { x1: x, x2: x, y1: CHART.top, y2: CHART.height - CHART.bottom, class: "cursor" }));
    for (const value of this.lines.map(({ values }) => values[index]).filter(exists)) {
      this.cursor.append(svg("circle", { cx: x, cy: this.y(value), r: 4.5, fill: color, stroke: "var(--card)", "stroke-width": 2 }));
    }
  }
}

// Charts that show the same record.
class ChartGroup {
  constructor() {
    this.charts = [];
    this.index = null;
  }

  point(index) {
    this.index = index;
    for (const chart of this.charts) if (chart.cursor) chart.point(index); // one without a number has none
    if (index === null) hideTip();
  }
}

function drawCharts(data, parent) {
  const { colors } = data;
  const group = new ChartGroup();
  const charts = [
    { key: "reward", title: `Reward (line: mean of the last ${MEAN_OF})`, text: fixed(3), color: colors.reward, mean: true },
    { key: "responseTokens", title: "Response length", text: fixed(1), unit: "tokens", color: colors.length, fromZero: true },
    { key: "tokensPerSecond", title: "Throughput of the Infer phase", text: whole, unit: "tokens/s", color: colors.throughput, fromZero: true },
    { key: "maxAbsLogprobDifference", title: "Largest |Δlogp|, server against trainer", text: tiny, unit: "nats", color: colors.difference, log: true },
  ].map((options) => new Chart(data.iterations, { ...options, at: "iteration", tip: tipOf }, group));
  group.charts = charts;
  parent.append(...charts.map((chart) => chart.element));
}

// Tables: what the charts show, for reading, copying and screen readers.

function table(caption, columns, rows) {
  const head = html("tr", {}, ...columns.map(([name, word]) => html("th", { scope: "col", class: word ? "word" : undefined }, name)));
  const body = rows.map((cells) =>
    html("tr", {}, ...cells.map((cell, index) => (cell instanceof Node ? cell : html("td", { class: columns[index][1] ? "word" : undefined }, cell)))),
  );
  return html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, html("table", {}, html("thead", {}, head), html("tbody", {}, ...body)));
}

function drawStages(data, parent) {
  parent.append(html("div", { class: "head" }, html("h2", { id: "stages-title" }, "Stages of a switch, seconds of the slowest member")));
  if (!data.stages.length) {
    parent.append(html("p", { class: "empty" }, "no switch to take a median of"));
    return;
  }
  const longest = Math.max(...data.stages.map((row) => row.median)) || 1;
  const rows = data.stages.map((row, index) => {
    const color = data.colors.stages[row.stage] ?? data.colors.unknown;
    const meter = html("i", { style: `width:${(100 * row.median) / longest}%;background:${color}` });
    const known = index > 0 && data.stages[index - 1].direction === row.direction;
    return [known ? "" : arrow(row.direction), row.stage, whole(row.switches), fixed(3)(row.median), fixed(3)(row.p90), fixed(3)(row.max),
      html("td", { class: "meter", "aria-hidden": "true" }, meter)];
  });
  parent.append(table("Stages of a switch", [["switch", true], ["stage", true], ["count"], ["median"], ["p90"], ["max"], [""]], rows));
}

function drawIterations(data, parent) {
  const count = data.iterations.length;
  const columns = ["iteration", "reward", "tokens", "tokens/s", "finished", "unfinished", "trained", "max |Δlogp|", "KL", "loss", "gradient norm", "learning rate", "seconds"];
  const rows = data.iterations.map((record) => [
    whole(record.iteration), fixed(3)(record.reward), fixed(1)(record.responseTokens), whole(record.tokensPerSecond), whole(record.finished),
    whole(record.unfinished), whole(record.trained), tiny(record.maxAbsLogprobDifference), tiny(record.kl), tiny(record.loss),
    tiny(record.gradientNorm), tiny(record.learningRate), fixed(1)(record.seconds),
  ]);
  const body = count ? table("Iterations", columns.map((name) => [name]), rows) : html("p", { class: "empty" }, "no iteration finished");
  parent.append(html("details", {}, html("summary", {}, `All iterations (${whole(count)})`), body));
}

// Held-out sets: what each is measured at, over generations.

const DASHES = [undefined, "7 4", "2 4", "9 3 2 3"];

function evaluationTip({ ks }) {
  return (record) => [
    ...ks.map((k) => [`pass@${k}`, fixed(3)(record.passAt[k])]),
    ["reward", fixed(3)(record.meanReward)],
    ["response", `${fixed(1)(scoredTokens(record))} tokens`],
    ["cut at the limit", percent(record.cutShare)],
    ["problems", whole(record.problems)],
    ["samples", whole(record.samples)],
    ["not scored", whole(record.unscored)],
    ["took", duration(record.seconds)],
  ];
}

// A mean over no sample is none.
const scoredTokens = (record) => (record.samples ? record.meanTokens : null);

// The two charts of a set, which share one cursor.
function setCharts(set, color) {
  const group = new ChartGroup();
  const passes = set.ks.map((k, index) => ({ name: `pass@${k}`, of: (record) => record.passAt[k], dash: DASHES[index % DASHES.length] }));
  const dashed = passes.length > 1 ? ` (${passes.map(({ name }, index) => (index ? `${name} dashed` : name)).join(", ")})` : "";
  const shared = { color, at: "generation", tip: evaluationTip(set), empty: "no sample was scored", fromZero: true };
  group.charts = [
    { ...shared, title: `${set.name}: share solved${dashed}`, text: fixed(3), lines: passes },
    { ...shared, title: `${set.name}: response length`, text: fixed(1), unit: "tokens", lines: [{ name: "", of: scoredTokens }] },
  ].map((options) => new Chart(set.evaluations, options, group));
  return group.charts;
}

function evaluationTable(sets) {
  const columns = [["set", true], ["generation"], ["pass@k", true], ["reward"], ["tokens"], ["cut"], ["samples"], ["not scored"]];
  const rows = sets.flatMap((set) =>
    set.evaluations.map((record) => [
      set.name, whole(record.generation), set.ks.map((k) => `@${k} ${fixed(3)(record.passAt[k])}`).join("  "), fixed(3)(record.meanReward),
      fixed(1)(scoredTokens(record)), percent(record.cutShare), whole(record.samples), whole(record.unscored),
    ]),
  );
  return html("details", { class: "card wide" }, html("summary", {}, `All evaluations (${whole(rows.length)})`), table("Evaluations", columns, rows));
}

function drawEvaluations(data, parent) {
  if (!data.sets.length) {
    parent.remove();
    return;
  }
  data.sets.forEach((set, index) => {
    const charts = setCharts(set, data.colors.sets[index % data.colors.sets.length]);
    parent.append(...charts.map((chart) => chart.element));
  });
  parent.append(evaluationTable(data.sets));
}

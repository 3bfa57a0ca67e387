// The page: fills each section from the data.

const RESULTS = { Completed: "Completed", Stopped: "Stopped on request", Failed: "Failed" };

function drawHeader(data) {
  const { summary } = data;
  const result = document.getElementById("result");
  result.textContent = RESULTS[summary.result] ?? (data.startedAt === null ? "Not started" : "Running, or cut off");
  if (summary.result) result.classList.add(summary.result);
  const parts = [data.startedAt === null ? "no record yet" : `started ${new Date(1000 * data.startedAt).toLocaleString()}`];
  if (data.seams.length) parts.push(`resumed ${data.seams.length === 1 ? "once" : `${data.seams.length} times`}`);
  document.getElementById("subtitle").textContent = parts.join(" · ");
  if (summary.result !== "Failed") return;
  const failure = document.getElementById("failure");
  failure.append(html("strong", {}, "The run failed"), data.message || "No cause was recorded; see the log of the master.");
  failure.hidden = false;
}

function tile(name, value, note) {
  return html("dl", { class: "card tile" }, html("dt", {}, name), html("dd", { class: "value" }, value), html("dd", { class: "note" }, note));
}

function drawTiles(data, parent) {
  const { summary } = data;
  const trained = exists(summary.reward_first_5);
  const wanted = data.wantedIterations === null ? "" : ` / ${whole(data.wantedIterations)}`;
  const generation = summary.generation === null ? "none published" : `generation ${whole(summary.generation)}`;
  parent.append(
    tile("Reward", trained ? `${fixed(2)(summary.reward_first_5)} → ${fixed(2)(summary.reward_last_5)}` : ABSENT,
      trained ? `${signed(2)(summary.reward_gain)}, first 5 to last 5` : "no iteration yet"),
    tile("Iterations", `${whole(summary.iterations)}${wanted}`, generation),
    tile("Train → infer", duration(summary.train_to_infer_seconds_median), "median switch"),
    tile("Infer → train", duration(summary.infer_to_train_seconds_median), "median switch"),
    tile("Throughput", whole(summary.tokens_per_second_median), "tokens/s, median"),
    tile("Largest |Δlogp|", tiny(summary.max_abs_logprob_difference), "server against trainer"),
    tile("Wall time", clock(summary.seconds), `${whole(summary.switches)} ${summary.switches === 1 ? "switch" : "switches"}`),
  );
}

function drawShares(data, parent) {
  const { infer_share: infer, train_share: train, switch_share: between } = data.summary;
  if (!exists(infer)) {
    parent.remove();
    return;
  }
  const parts = [
    ["Infer", infer, data.colors.phases.Infer],
    ["Train", train, data.colors.phases.Train],
    ["Switch", between, data.colors.stages.start],
    ["Other", Math.max(0, 1 - infer - train - between), "var(--muted)"],
  ];
  const strip = html("div", { class: "shares", "aria-hidden": "true" });
  const legend = html("div", { class: "legend" });
  for (const [name, share, color] of parts) {
    if (share > 0.003) strip.append(html("span", { style: `width:${100 * share}%;background:${color}` }));
    legend.append(html("span", {}, html("span", { class: "swatch", style: `background:${color}` }), `${name} `, html("b", {}, percent(share))));
  }
  parent.append(strip, legend);
}

const data = JSON.parse(document.getElementById("data").textContent);
const section = (id) => document.getElementById(id);
drawHeader(data);
drawTiles(data, section("tiles"));
drawShares(data, section("shares"));
drawCharts(data, section("charts"));
drawEvaluations(data, section("evaluations"));
drawTimeline(data, section("timeline"));
drawStages(data, section("stages"));
drawIterations(data, section("iterations"));

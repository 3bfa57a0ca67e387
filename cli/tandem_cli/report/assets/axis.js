// Scales and ticks of axes.

const linear = (from, to, low, high) => (value) => low + ((value - from) / (to - from || 1)) * (high - low);

// Round values that cover [from, to] in about so many steps of 1, 2 or 5 times a power of ten.
function roundTicks(from, to, steps, smallest = 0) {
  const rough = (to - from) / steps || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(smallest, power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.75));
  const ticks = [];
  for (let index = Math.ceil(from / step - 1e-9) + 0; index * step <= to + step * 1e-9; index += 1) ticks.push(index * step);
  return { ticks, decimals: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

// The value axis of a chart: {y(value), ticks: [[value, text]]} over pixels [bottom, top].
function valueAxis(values, options, bottom, top) {
  const known = values.filter(exists);
  const positive = known.filter((value) => value > 0);
  if (options.log && positive.length) return logAxis(positive, bottom, top);
  let low = options.fromZero ? Math.min(0, ...known) : Math.min(...known);
  let high = Math.max(...known);
  const room = (high - low) * 0.12 || Math.abs(high) * 0.1 || 0.5;
  low = options.fromZero && low === 0 ? 0 : low - room;
  high += room;
  const { ticks, decimals } = roundTicks(low, high, 4);
  return { y: linear(low, high, bottom, top), ticks: ticks.map((tick) => [tick, fixed(decimals)(tick)]) };
}

// Decades; a value that is not positive sits on the floor.
function logAxis(positive, bottom, top) {
  const low = Math.floor(Math.log10(Math.min(...positive)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...positive))));
  const scale = linear(low, high, bottom, top);
  const stride = Math.ceil((high - low) / 5);
  const ticks = [];
  for (let decade = low; decade <= high; decade += stride) ticks.push([10 ** decade, `1e${decade}`]);
  return { y: (value) => (value > 0 ? scale(Math.log10(value)) : bottom), ticks };
}

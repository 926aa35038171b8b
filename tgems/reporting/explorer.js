// The page of tgems/reporting/explorer.py. Names are shown by textContent alone, and never become HTML or an expression.
"use strict";
(async () => {
  const run = await unpacked(document.getElementById("run").textContent);
  const NOTHING = "–";
  const at = (id) => document.getElementById(id);
  const policies = run.series.filter((one) => one.name === one.of);
  const looks = new Map(run.series.map((one) => [one.name, one]));
  const rows = decodedRows();
  const state = fromFragment();
  let range = state.range;
  let view = null;

  async function unpacked(base64) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const text = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(text).text());
  }

  function decodedRows() {
    const { columns, numbers } = run;
    return columns.series.codes.map((_, i) => {
      const row = {};
      for (const [name, { values, codes }] of Object.entries(columns)) row[name] = codes[i] < 0 ? null : values[codes[i]];
      for (const [name, values] of Object.entries(numbers)) row[name] = values[i];
      row.shown = shown(row);
      return row;
    });
  }

  function number(value, digits = 4) {
    return value === null ? NOTHING : String(Number(value.toPrecision(digits)));
  }

  function interval(low, high) {
    return low === null || high === null ? NOTHING : `${number(low)} to ${number(high)}`;
  }

  // What tooltip and table say of a row.
  function shown(row) {
    const sources = row.n_sources === null ? "" : ` images of ${row.n_sources} sources`;
    return {
      label: looks.get(row.series).label,
      value: number(row.value),
      interval: interval(row.low, row.high),
      rate: number(row.rate),
      rate_interval: row.rate_ci_low === row.rate_ci_high ? NOTHING : interval(row.rate_ci_low, row.rate_ci_high),
      gmacs: number(row.gmacs),
      threshold: row.threshold ?? NOTHING,
      rate_target: number(row.rate_target),
      exit_block: number(row.exit_block),
      images: row.n === null ? NOTHING : `${row.n}${sources}`,
      delta: number(row.delta_full),
      delta_interval: interval(row.delta_low, row.delta_high),
    };
  }

  // ---- the choice, which the fragment of the address keeps -------------------------------------------------------
  function matching(chosen, upTo) {
    const keys = run.choices.slice(0, upTo);
    return rows.filter((row) => keys.every((key) => row[key] === null || row[key] === chosen[key]));
  }

  function labelOf(key, value) {
    return run.labels[key]?.[value] ?? value;
  }

  function optionsOf(key, chosen) {
    const found = new Set(matching(chosen, run.choices.indexOf(key)).map((row) => row[key]));
    return run.columns[key].values.filter((value) => found.has(value));
  }

  function mainPolicies() {
    return policies.filter((one) => one.main).map((one) => one.name);
  }

  function fromFragment() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const chosen = {};
    const missing = [];
    for (const key of run.choices) {
      const options = optionsOf(key, chosen);
      const wanted = asked.get(key);
      if (wanted !== null && !options.includes(wanted)) missing.push(`${key} ${wanted}`);
      chosen[key] = options.includes(wanted) ? wanted : (options[0] ?? null);
    }
    const named = asked.has("policy") ? asked.getAll("policy").filter((name) => name !== "") : mainPolicies();
    missing.push(...named.filter((name) => !looks.has(name)).map((name) => `policy ${name}`));
    const [low, high] = (asked.get("rates") ?? "").split("-").map(Number);
    if (missing.length) at("note").textContent = `This run does not have what the link names: ${missing.join(", ")}.`;
    return {
      chosen,
      policies: new Set(named.filter((name) => looks.has(name))),
      shuffled: asked.get("shuffled") === "1",
      intervals: asked.get("intervals") !== "0",
      range: low < high ? [low, high] : null,
    };
  }

  function fragment() {
    const kept = new URLSearchParams();
    for (const key of run.choices) if (state.chosen[key] !== null) kept.set(key, state.chosen[key]);
    for (const name of state.policies.size ? state.policies : [""]) kept.append("policy", name);
    if (state.shuffled) kept.set("shuffled", "1");
    if (!state.intervals) kept.set("intervals", "0");
    if (range) kept.set("rates", range.map((rate) => rate.toFixed(4)).join("-"));
    return `#${kept}`;
  }

  function keepInAddress() {
    if (location.protocol === "data:") {
      at("link").hidden = true; // embedded in a report, the page has no address of its own
      return;
    }
    at("link").href = fragment();
    history.replaceState(null, "", fragment());
  }

  // ---- controls --------------------------------------------------------------------------------------------------
  const TITLES = {
    variant: "Variant",
    backbone: "Backbone",
    dataset: "Data set",
    metric: "Metric",
    score_normalisation: "Normalisation of scores",
    calibration: "Thresholds from",
  };

  function makeControls() {
    for (const key of run.choices) {
      const label = document.createElement("label");
      const select = document.createElement("select");
      select.id = key;
      select.addEventListener("change", () => choose(key, select.value));
      label.append(TITLES[key], select);
      const alone = run.columns[key].values.length < 2;
      if (alone && ["variant", "score_normalisation"].includes(key)) label.style.display = "none";
      at("choices").append(label);
    }
    for (const one of policies) {
      const label = document.createElement("label");
      const box = document.createElement("input");
      const swatch = document.createElement("span");
      Object.assign(box, { type: "checkbox", value: one.name, name: "policy" });
      box.addEventListener("change", () => {
        state.policies[box.checked ? "add" : "delete"](one.name);
        update();
      });
      swatch.className = "swatch";
      swatch.style.background = one.color;
      label.append(box, swatch, one.label);
      at("policies").append(label);
    }
    const pick = (wanted) => () => {
      state.policies = new Set(wanted());
      update();
    };
    at("main").addEventListener("click", pick(mainPolicies));
    at("all").addEventListener("click", pick(() => policies.map((one) => one.name)));
    at("none").addEventListener("click", pick(() => []));
    for (const key of ["shuffled", "intervals"]) {
      at(key).addEventListener("change", () => {
        state[key] = at(key).checked;
        update();
      });
    }
    at("clear").addEventListener("click", () => view.signal("brush_x", [0, 0]).runAsync());
    window.addEventListener("hashchange", () => location.reload());
  }

  function choose(key, value) {
    state.chosen[key] = value;
    for (const later of run.choices.slice(run.choices.indexOf(key) + 1)) {
      const options = optionsOf(later, state.chosen);
      if (!options.includes(state.chosen[later])) state.chosen[later] = options[0] ?? null;
    }
    at("note").textContent = "";
    update();
  }

  function showControls() {
    for (const key of run.choices) {
      const make = (value) => new Option(labelOf(key, value), value, false, value === state.chosen[key]);
      at(key).replaceChildren(...optionsOf(key, state.chosen).map(make));
    }
    const present = new Set(matching(state.chosen, run.choices.length).map((row) => row.series));
    for (const box of document.getElementsByName("policy")) {
      box.checked = state.policies.has(box.value);
      box.parentElement.style.opacity = present.has(box.value) ? 1 : 0.4;
    }
    for (const key of ["shuffled", "intervals"]) at(key).checked = state[key];
  }

  // ---- figure and table ------------------------------------------------------------------------------------------
  function points() {
    return matching(state.chosen, run.choices.length).filter((row) => {
      const { name, of } = looks.get(row.series);
      return state.policies.has(of) && (state.shuffled || name === of);
    });
  }

  function drawn() {
    return points().map((row) => (state.intervals ? { ...row } : { ...row, low: null, high: null }));
  }

  async function update() {
    showControls();
    const { dataset, metric, backbone } = state.chosen;
    at("title").textContent = `${dataset}: ${labelOf("metric", metric)}, ${backbone}`;
    await view.data("points", drawn()).runAsync();
    showTable();
    keepInAddress();
  }

  const COLUMNS = [
    ["label", "Policy"], ["rate_target", "Target"], ["exit_block", "Exit"], ["rate", "Rate"],
    ["rate_interval", "95 % interval"], ["gmacs", "GMACs"], ["value", "Value"], ["interval", "95 % interval"],
    ["delta", "To full encoder"], ["delta_interval", "95 % interval"], ["threshold", "Threshold"], ["images", "n"],
  ];

  function rowOf(tag, texts) {
    const line = document.createElement("tr");
    for (const text of texts) {
      const cell = document.createElement(tag);
      cell.textContent = text;
      line.append(cell);
    }
    return line;
  }

  function showTable() {
    const inside = range ? points().filter((row) => range[0] <= row.rate && row.rate <= range[1]) : [];
    inside.sort((a, b) => a.rate - b.rate);
    const said = range ? `${inside.length} points at rates from ${number(range[0], 3)} to ${number(range[1], 3)}` : "";
    at("caption").textContent = said || "No range of rates is selected.";
    at("head").replaceChildren(...(inside.length ? [rowOf("th", COLUMNS.map(([, title]) => title))] : []));
    at("rows").replaceChildren(...inside.map((row) => rowOf("td", COLUMNS.map(([field]) => row.shown[field]))));
  }

  makeControls();
  if (range) run.chart.params.find((one) => one.name === "brush").value = { x: range };
  run.chart.datasets = { points: drawn() };
  const options = { mode: "vega-lite", renderer: "svg", ast: true, logLevel: 1 }; // errors; a figure may be empty
  options.actions = { export: true, source: false, compiled: false, editor: false };
  view = (await vegaEmbed("#chart", run.chart, options)).view;
  view.addSignalListener("brush", (_, selected) => {
    range = selected.rate ? [...selected.rate].sort((a, b) => a - b) : null;
    showTable();
    keepInAddress();
  });
  await update();
  document.body.dataset.ready = "yes";
})();

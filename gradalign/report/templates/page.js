"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const fail = (text) => { $("failure").textContent = text; $("failure").hidden = false; };
  // Everything that a model wrote goes through textContent: it can be read, not run.
  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    element.append(...children.map((child) => child instanceof Node ? child : document.createTextNode(String(child))));
    return element;
  };
  const unpack = async () => {
    const bytes = Uint8Array.from(atob($("data").textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };
  let data;
  try { data = await unpack(); } catch (error) {
    fail("This browser cannot unpack the data of the charts; use one from 2023 or later. " + error);
    return;
  }
  const [POOLED, LOW, HIGH, MEAN, MLOW, MHIGH, POSITIVE, COVERAGE, NODES, FLAT, GAIN, GLOW, GHIGH] = [...Array(13).keys()];
  const arms = data.arms.map(([teacher, method], index) => ({ teacher, method, index, name: teacher ? method + "@" + teacher : method }));
  const teachers = [...new Set(arms.map((arm) => arm.teacher))];
  const methods = [...new Set(arms.map((arm) => arm.method))];
  const readers = teachers.filter(Boolean);
  const colour = (teacher) => data.colours[teachers.indexOf(teacher) % data.colours.length];
  const nameOf = (teacher) => (teacher || "(no teacher)") + data.marks[teacher];
  const signed = (value, digits = 3) => value === null || value === undefined ? "-" : (value < 0 ? "" : "+") + value.toFixed(digits);
  const ranged = (row, value, low, high) =>
    signed(row[value]) + (row[low] === null && row[high] === null ? "" : " [" + signed(row[low]) + ", " + signed(row[high]) + "]");

  // Theme: the system's, until the button is used.
  const root = document.documentElement;
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  const setTheme = (dark) => { root.dataset.theme = dark ? "dark" : "light"; };
  setTheme(preferred.matches);
  preferred.addEventListener("change", (event) => { setTheme(event.matches); draw(); });
  $("theme").addEventListener("click", () => { setTheme(root.dataset.theme !== "dark"); draw(); });

  // Filters.
  const option = (value, text) => make("option", { value }, text);
  $("f-question").append(option("", "all " + data.num_questions), ...data.questions.map((question, i) => option(i, question.id)));
  $("f-teacher").append(option("", "all"), ...teachers.map((teacher, i) => option(i, nameOf(teacher))));
  $("f-method").append(option("", "all"), ...methods.map((method, i) => option(i, method)));
  const chosen = () => {
    const pick = (id, list) => $(id).value === "" ? null : list[Number($(id).value)];
    return {
      question: $("f-question").value === "" ? null : Number($("f-question").value),
      teacher: pick("f-teacher", teachers), method: pick("f-method", methods), correct: $("f-correct").value,
    };
  };
  const shownArms = (filter) => arms.filter((arm) =>
    (filter.teacher === null || arm.teacher === filter.teacher) && (filter.method === null || arm.method === filter.method));
  const row = (split, arm) => (data.summary[split] || [])[arm.index] || null;
  const pooledOf = (arm) => { const found = row("all", arm); return found && found[POOLED] !== null ? found[POOLED] : -Infinity; };
  const focus = (filter) => {
    const some = shownArms(filter);
    const read = some.filter((arm) => arm.teacher);
    if (some.some((arm) => arm.index === data.best)) return arms[data.best];
    return (read.length ? read : some).reduce((best, arm) => best && pooledOf(best) >= pooledOf(arm) ? best : arm, null);
  };

  // Charts.
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const layout = (changes) => ({
    margin: { l: 56, r: 14, t: 8, b: 42 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: css("--ink"), size: 12, family: "system-ui, DejaVu Sans, sans-serif" },
    hoverlabel: { bgcolor: css("--card"), font: { color: css("--ink") } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, ...changes,
    xaxis: { gridcolor: css("--grid"), zerolinecolor: css("--soft"), automargin: true, ...(changes.xaxis || {}) },
    yaxis: { gridcolor: css("--grid"), zerolinecolor: css("--soft"), automargin: true, ...(changes.yaxis || {}) },
  });
  // Plotly reads tags such as <b> in its own text: model-made names must not be read so.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const plot = (id, traces, changes) => Plotly.react(id, traces, layout(changes), { responsive: true, displaylogo: false, displayModeBar: false });
  const bars = (rows, orientation) => ({
    ["error_" + orientation]: {
      type: "data", symmetric: false, thickness: 1.4, width: 3,
      array: rows.map((r) => r[HIGH] === null ? 0 : Math.max(r[HIGH] - r[POOLED], 0)),
      arrayminus: rows.map((r) => r[LOW] === null ? 0 : Math.max(r[POOLED] - r[LOW], 0)),
    },
  });
  const table = (id, titles, rows) => {
    const head = make("tr", {}, ...titles.map((title, i) => make("th", i >= 2 ? { class: "n" } : {}, title)));
    const body = rows.map((cells) => make("tr", {}, ...cells.map((cell, i) => make("td", i >= 2 ? { class: "n" } : {}, make("bdi", {}, cell)))));
    $(id).replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  };
  const known = (split, some) => some.map((arm) => [arm, row(split, arm)]).filter(([, found]) => found && found[POOLED] !== null);

  const drawMethods = (filter, some) => {
    const split = filter.question !== null ? "question:" + data.questions[filter.question].id : filter.correct || "all";
    $("methods-note").textContent = filter.question !== null
      ? "Pooled alignment on one question; a single question has no interval." + (filter.correct ? " Correct and incorrect responses of a question are not summed apart." : "")
      : "Pooled alignment with 95 % intervals over questions" + (filter.correct ? ", " + filter.correct + " responses only." : ".");
    const present = known(split, some);
    const shown = teachers.filter((teacher) => present.some(([arm]) => arm.teacher === teacher));
    const order = shown.flatMap((teacher) => present.filter(([arm]) => arm.teacher === teacher)
      .sort((a, b) => b[1][POOLED] - a[1][POOLED]).map(([arm]) => arm.index));
    const traces = shown.map((teacher) => {
      const own = present.filter(([arm]) => arm.teacher === teacher);
      return {
        type: "scatter", mode: "markers", name: plain(nameOf(teacher)), x: own.map(([, r]) => r[POOLED]), y: own.map(([arm]) => order.indexOf(arm.index)),
        text: own.map(([arm, r]) => plain(arm.name) + "<br>" + ranged(r, POOLED, LOW, HIGH) + "<br>" + r[NODES] + " positions"), hoverinfo: "text",
        marker: { size: 9, color: colour(teacher) }, ...bars(own.map(([, r]) => r), "x"),
      };
    });
    plot("chart-methods", traces, {
      height: 110 + 26 * order.length, xaxis: { title: { text: "pooled alignment" }, zeroline: true },
      yaxis: { tickvals: order.map((_, i) => i), ticktext: order.map((i) => plain(arms[i].method)), range: [order.length - 0.4, -0.6], zeroline: false },
    });
    // An interval without a value is no finding: it is in the table, and in no chart.
    const open = some.filter((arm) => { const r = row(split, arm); return r && r[POOLED] === null && (r[LOW] !== null || r[HIGH] !== null); });
    const rows = [...order, ...open.map((arm) => arm.index)];
    if (open.length) $("methods-note").textContent += " Without a value: too few questions.";
    const there = (low) => rows.some((i) => row(split, arms[i])[low] !== null);
    const levels = there(GLOW) ? [["gain per step", GAIN, GLOW, GHIGH]] : [];
    table("table-methods", ["teacher", "method", "pooled", ...levels.map(([title]) => title), "mean", "above 0", "coverage", "positions", "flat"], rows.map((i) => {
      const r = row(split, arms[i]);
      return [nameOf(arms[i].teacher), arms[i].method, ranged(r, POOLED, LOW, HIGH), ...levels.map(([, value, low, high]) => ranged(r, value, low, high)), ranged(r, MEAN, MLOW, MHIGH),
        r[POSITIVE] === null ? "-" : Math.round(100 * r[POSITIVE]) + " %", r[COVERAGE] === null ? "-" : Math.round(100 * r[COVERAGE]) + " %", r[NODES], r[FLAT]];
    }));
  };

  const DASHES = ["solid", "dash", "dashdot", "longdash", "longdashdot"];
  const drawRehearsal = (some) => {
    const present = some.filter((arm) => data.curves[arm.index].length);
    $("rehearsal").hidden = !present.length;
    if (!present.length) return;
    const traces = present.flatMap((arm) => {
      const points = data.curves[arm.index], trusted = points.filter((p) => !p[4]), beyond = points.filter((p) => p[4]);
      const trace = (own, changes) => ({
        type: "scatter", mode: "lines+markers", x: own.map((p) => p[0]), y: own.map((p) => p[1]), name: plain(arm.name), legendgroup: arm.name,
        text: own.map((p) => plain(arm.name) + ", " + p[0] + " steps<br>" + ranged(p, 1, 2, 3) + (p[4] ? "<br>trust ends here: " + plain(p[4]) : "")), hoverinfo: "text",
        marker: { size: 7 }, ...changes,
      });
      const line = { color: colour(arm.teacher), width: 2 }, dash = DASHES[methods.indexOf(arm.method) % DASHES.length];
      return [
        trace([[0, 0, 0, 0, ""], ...trusted], { line: { ...line, dash } }),
        ...(beyond.length ? [trace([...(trusted.length ? trusted.slice(-1) : [[0, 0, 0, 0, ""]]), ...beyond], { line: { ...line, width: 1, dash: "dot" }, showlegend: false })] : []),
      ];
    });
    const measured = (data.measured || []).filter((item) => present.some((arm) => arm.index === item[0]));
    if (measured.length) traces.push({
      type: "scatter", mode: "markers", name: "measured", x: measured.map((m) => m[1]), y: measured.map((m) => m[2]), marker: { symbol: "x", size: 8, color: measured.map((m) => colour(arms[m[0]].teacher)) },
      text: measured.map((m) => plain(arms[m[0]].name) + ", measured: " + signed(m[2])), hoverinfo: "text",
    });
    plot("chart-rehearsal", traces, { height: 420, xaxis: { title: { text: "steps of training" }, rangemode: "tozero" }, yaxis: { title: { text: "gain of success" }, zeroline: true } });
    const steps = [...new Set(present.flatMap((arm) => data.curves[arm.index].map((p) => p[0])))].sort((a, b) => a - b);
    table("table-rehearsal", ["teacher", "method", ...steps.map((n) => n + (n === 1 ? " step" : " steps"))], present.map((arm) => [nameOf(arm.teacher), arm.method,
      ...steps.map((n) => { const p = data.curves[arm.index].find((q) => q[0] === n); return !p ? "-" : p[4] ? "trust ends" : ranged(p, 1, 2, 3); })]));
  };

  const drawCorrect = (filter, some) => {
    const shades = { correct: "rgb(" + css("--plus") + ")", incorrect: "rgb(" + css("--minus") + ")" };
    const kinds = filter.correct ? [filter.correct] : ["correct", "incorrect"];
    const present = some.filter((arm) => known("correct", [arm]).length || known("incorrect", [arm]).length);
    const traces = kinds.map((kind, k) => {
      const own = known(kind, present);
      return {
        type: "scatter", mode: "markers", name: kind, x: own.map(([, r]) => r[POOLED]), y: own.map(([arm]) => present.indexOf(arm) + (kinds.length > 1 ? 0.3 * k - 0.15 : 0)),
        text: own.map(([arm, r]) => plain(arm.name) + ", " + kind + "<br>" + ranged(r, POOLED, LOW, HIGH)), hoverinfo: "text",
        marker: { size: 8, color: shades[kind], symbol: kind === "correct" ? "circle" : "diamond" }, ...bars(own.map(([, r]) => r), "x"),
      };
    });
    plot("chart-correct", traces, {
      height: 130 + 24 * present.length, xaxis: { title: { text: "pooled alignment" } },
      yaxis: { tickvals: present.map((_, i) => i), ticktext: present.map((arm) => plain(arm.name)), range: [present.length - 0.4, -0.6], zeroline: false, tickfont: { size: 10 } },
    });
    table("table-correct", ["teacher", "method", ...kinds], present.map((arm) => [nameOf(arm.teacher), arm.method,
      ...kinds.map((kind) => { const r = row(kind, arm); return r ? ranged(r, POOLED, LOW, HIGH) : "-"; })]));
  };

  const drawDistribution = (filter, arm) => {
    const bins = data.histograms[0][0].length, width = 2 / bins;
    let counts = data.histograms[arm.index];
    if (filter.question !== null) {
      counts = [new Array(bins).fill(0), new Array(bins).fill(0)];
      for (const spine of data.spines.filter((item) => item.q === filter.question)) for (const node of spine.nodes) {
        const value = node.cos[arm.index];
        if (value !== null && value !== undefined && spine.correct !== null) counts[spine.correct ? 0 : 1][Math.min(Math.floor((value + 1) / width), bins - 1)] += 1;
      }
    }
    $("distribution-note").textContent = "Cosines of single positions under " + arm.name + (filter.question !== null ? ", one question" : "") + "; noise spreads them, so the mean of them is not the headline.";
    const centres = counts[0].map((_, i) => -1 + (i + 0.5) * width);
    const wanted = [["correct", 0, "--plus"], ["incorrect", 1, "--minus"]].filter(([name]) => !filter.correct || filter.correct === name);
    plot("chart-distribution", wanted.map(([name, i, shade]) => ({ type: "bar", name, x: centres, y: counts[i], marker: { color: "rgb(" + css(shade) + ")" }, hovertemplate: "%{y} positions<extra>" + name + "</extra>" })),
      { barmode: "stack", bargap: 0.06, height: 320, xaxis: { title: { text: "cosine with the ideal gradient" }, range: [-1, 1] }, yaxis: { title: { text: "positions" } } });
    table("table-distribution", ["from", "to", ...wanted.map(([name]) => name)],
      centres.map((centre, i) => [(centre - width / 2).toFixed(2), (centre + width / 2).toFixed(2), ...wanted.map(([, k]) => counts[k][i])]));
  };

  const drawLines = (id, kind, names, title, filter, some, method) => {
    const lines = some.filter((arm) => arm.method === method);
    plot("chart-" + id, lines.map((arm) => {
      const own = names.map((name) => row(kind + ":" + name, arm));
      const there = own.map((r) => r || [null, null, null]);
      return { type: "scatter", mode: "lines+markers", name: plain(nameOf(arm.teacher)), x: names, y: there.map((r) => r[POOLED]), line: { color: colour(arm.teacher), width: 2 }, marker: { size: 8 },
        hovertext: there.map((r) => plain(arm.name) + "<br>" + ranged(r, POOLED, LOW, HIGH)), hoverinfo: "text", ...bars(there, "y") };
    }), { height: 320, xaxis: { title: { text: title }, type: "category" }, yaxis: { title: { text: "pooled alignment" } } });
    table("table-" + id, ["teacher", "method", ...names], lines.map((arm) => [nameOf(arm.teacher), arm.method,
      ...names.map((name) => { const r = row(kind + ":" + name, arm); return r ? ranged(r, POOLED, LOW, HIGH) : "-"; })]));
  };

  // Responses.
  let limit = 12;
  const shade = (value) => "rgba(var(" + (value < 0 ? "--minus" : "--plus") + ")," + (0.08 + 0.72 * Math.abs(value)).toFixed(2) + ")";
  const drawSpines = (filter, arm) => {
    const wanted = data.spines.filter((spine) => (filter.question === null || spine.q === filter.question)
      && (!filter.correct || spine.correct === (filter.correct === "correct")));
    $("responses-note").textContent = wanted.length + " of " + data.spines.length + " responses in this page; colour: " + arm.name + ". Click a token to see what was tried there.";
    let question = null;
    const blocks = wanted.slice(0, limit).map((spine) => {
      const nodes = new Map(spine.nodes.map((node) => [node.t, node]));
      const tokens = make("div", { class: "tokens" }, ...spine.tokens.map((text, position) => {
        const node = nodes.get(position);
        if (!node) return make("span", { class: "tok" }, text);
        const value = node.cos[arm.index];
        const empty = value === null || value === undefined;
        const button = make("button", { class: "tok node" + (empty ? " flat" : ""), type: "button", title: position + ": " + (empty ? node.why[arm.index] || "no alignment" : "alignment " + signed(value, 2)) }, text);
        if (!empty) button.style.background = shade(value);
        button.addEventListener("click", () => openNode(spine, node, arm, button));
        return button;
      }));
      const parts = [make("h3", {}, make("bdi", {}, spine.id), ...(spine.correct === null ? [make("span", { class: "chip" }, "not verified")] : [
          make("span", { class: "chip " + (spine.correct ? "ok" : "no") }, spine.correct ? "correct" : "incorrect"), make("span", { class: "chip" }, "reward " + spine.reward)]), ...(spine.finish === "length" ? [make("span", { class: "chip no" }, "cut off")] : []))];
      if (spine.q !== question) {
        question = spine.q;
        const asked = data.questions[question];
        parts.push(make("p", { class: "prompt" }, asked.prompt + (asked.answer ? "   (answer: " + asked.answer + ")" : "")));
      }
      return make("article", { class: "spine" }, ...parts, tokens);
    });
    $("spines").replaceChildren(...blocks);
    $("more").hidden = wanted.length <= limit;
  };
  const bar = (value) => { const element = make("span", { class: "bar" }); element.style.width = Math.round(44 * Math.max(value || 0, 0)) + "px"; return element; };
  const signedBar = (value) => {
    const fill = make("i", {}), size = 50 * Math.min(Math.abs(value || 0), 1);
    fill.style.cssText = "width:" + size + "%;" + (value < 0 ? "right:50%;background:rgb(" : "left:50%;background:rgb(") + css(value < 0 ? "--minus" : "--plus") + ")";
    return make("span", { class: "signed" }, fill);
  };
  const span = (low, high) => low === null || high === null ? "" : " [" + low.toFixed(2) + ", " + high.toFixed(2) + "]";
  const openNode = (spine, node, arm, button) => {
    document.querySelectorAll(".tok.open").forEach((other) => other.classList.remove("open"));
    if (button) button.classList.add("open");
    const filter = chosen();
    // The arm that colours the tokens first; then what the filters leave, or its teacher's methods.
    const others = filter.teacher === null && filter.method === null ? arms.filter((other) => other.teacher === arm.teacher) : shownArms(filter);
    const columns = [arm, ...others.filter((other) => other.index !== arm.index)].slice(0, 8);
    const heading = (text) => make("th", { class: "n" }, make("bdi", {}, text));
    const pushed = (other, i) => { const value = node.m[other.index][i]; return make("td", { class: "n" }, signedBar(value), signed(value, 2)); };
    const [first, ...rest] = columns;
    const head = make("tr", {}, make("th", {}, "token"), ...["P", "V (95 %)", "n", "ideal", first.name, ...readers.map((teacher) => "Q " + teacher), ...rest.map((other) => other.name)].map(heading));
    const rows = node.candidates.map(([text, p, v, low, high, n, ideal, why], i) => make("tr", {},
      make("td", { title: why }, make("code", {}, make("bdi", {}, text))), make("td", { class: "n" }, bar(p), p === null ? "-" : p.toFixed(3)),
      make("td", { class: "n" }, bar(v), v === null ? "-" : v.toFixed(2) + span(low, high)), make("td", { class: "n" }, n),
      make("td", { class: "n" }, signedBar(ideal), signed(ideal, 2)), pushed(first, i),
      ...readers.map((_, k) => make("td", { class: "n" }, node.q[k][i] === null ? "-" : node.q[k][i].toFixed(3))),
      ...rest.map((other) => pushed(other, i))));
    const cosine = node.cos[arm.index];
    $("node").replaceChildren(
      make("h3", {}, make("bdi", {}, spine.id + ", position " + node.t + ": " + spine.tokens[node.t])),
      make("p", { class: "note" }, "alignment " + (cosine === null || cosine === undefined ? "undefined (" + (node.why[arm.index] || "no such node") + ")" : signed(cosine, 2)) + " under " + arm.name
        + "; success here " + (node.value === null ? "-" : node.value.toFixed(2) + span(...node.ends)) + "; " + node.rollouts + " rollouts forced here; candidates cover "
        + Math.round(100 * (node.coverage || 0)) + " % of P; entropy " + (node.entropy || 0).toFixed(3) + " nats"),
      make("div", { class: "scroll" }, make("table", { id: "candidates" }, make("thead", {}, head), make("tbody", {}, ...rows))),
      make("p", { class: "note" }, "V: success after forcing the token, with Wilson's interval; n: continuations behind it. Ideal and methods: where they push each token, scaled to length 1. Methods that use rollouts themselves are shown with all of them; their alignment compares halves."));
    $("panel").hidden = false;
  };
  const closePanel = () => { $("panel").hidden = true; document.querySelectorAll(".tok.open").forEach((other) => other.classList.remove("open")); };
  $("close").addEventListener("click", closePanel);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") closePanel(); });
  $("more").addEventListener("click", () => { limit += 24; draw(); });

  const drawMixtures = (filter) => {
    const kept = data.mixtures.filter((mix) => (filter.method === null || mix.label.includes(filter.method))
      && (filter.teacher === null || mix.teacher === filter.teacher || mix.label.includes("@" + filter.teacher)));
    $("mixtures").hidden = !kept.length;
    if (!kept.length) return;
    // No more lines than colours: those that get highest.
    const peak = (mix) => Math.max(...mix.points.map((point) => point[1] === null ? -Infinity : point[1]));
    const shown = [...kept].sort((a, b) => peak(b) - peak(a)).slice(0, data.colours.length);
    $("mixtures-note").textContent = shown.length < kept.length ? "Drawn are the " + shown.length + " of " + kept.length + " that get highest; filters show others." : "";
    const span = (numbers) => numbers && numbers[0] !== null ? signed(numbers[0]) + " [" + signed(numbers[1]) + ", " + signed(numbers[2]) + "]" : "-";
    plot("chart-mixtures", shown.map((mix, i) => ({
      type: "scatter", mode: "lines+markers", name: plain((mix.teacher ? nameOf(mix.teacher) + ": " : "") + mix.label),
      x: mix.points.map((point) => point[0]), y: mix.points.map((point) => point[1]),
      line: { color: data.colours[i] }, marker: { size: 5 },
      text: mix.points.map((point) => plain(mix.label) + "<br>share " + point[0] + "<br>" + span(point.slice(1))), hoverinfo: "text",
    })), { height: 320 + 18 * shown.length, xaxis: { title: { text: "share of the second" }, range: [-0.02, 1.02] }, yaxis: { title: { text: "pooled alignment" } } });
    table("table-mixtures", ["teacher", "mixture", "best share", "its alignment on the other half"], kept.map((mix) =>
      [mix.teacher ? nameOf(mix.teacher) : "several", mix.label, span(mix.best.best_share), span(mix.best.best_alignment)]));
  };

  // What is said of contexts is said of their model; of the student's own prefixes, to compare with.
  const concerns = (line, teacher) => line.teacher === teacher || (line.mechanism === "prefix" && !line.teacher)
    || (line.mechanism === "contexts" && teacher.startsWith(line.teacher + "+"));
  const draw = () => {
    const filter = chosen(), some = shownArms(filter), arm = focus(filter);
    $("failure").hidden = some.length > 0;
    if (!some.length) { fail("No teacher was scored with this method."); return; }
    drawMethods(filter, some);
    drawRehearsal(some);
    drawCorrect(filter, some);
    drawDistribution(filter, arm);
    $("positions-note").textContent = "Quarters of the response, method " + arm.method + ".";
    drawLines("positions", "position", ["0-25%", "25-50%", "50-75%", "75-100%"], "position in the response", filter, some, arm.method);
    drawLines("entropy", "entropy", ["low", "middle", "high"], "entropy of the student", filter, some, arm.method);
    drawMixtures(filter);
    drawSpines(filter, arm);
    document.querySelectorAll("#diagnostics [data-teacher]").forEach((line) => { line.hidden = filter.teacher !== null && !concerns(line.dataset, filter.teacher); });
    root.dataset.ready = "yes";
  };
  $("filters").addEventListener("change", () => { limit = 12; closePanel(); draw(); });
  $("filters").addEventListener("reset", () => setTimeout(() => { limit = 12; closePanel(); draw(); }));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  draw();
})();

// The page of one run: filters, charts with their tables, and the diagnostics that they concern.
(async () => {
  const data = await load();
  if (!data) return;
  const [POOLED, LOW, HIGH, MEAN, MLOW, MHIGH, POSITIVE, COVERAGE, NODES, FLAT, GAIN, GLOW, GHIGH] = [...Array(13).keys()];
  const nameOf = (teacher) => (teacher || "(no teacher)") + data.teachers[teacher].mark;
  const colour = (teacher) => data.teachers[teacher].colour;
  const arms = data.arms.map(([teacher, method], index) => ({
    teacher, method, index, role: data.roles[index], name: teacher ? method + "@" + teacher : method,
    label: teacher ? method + " @ " + data.teachers[teacher].short : method,
  }));
  const unique = (list) => [...new Set(list)];
  const teachers = unique(arms.map((arm) => arm.teacher)), methods = unique(arms.map((arm) => arm.method));
  document.querySelectorAll("#table-ranking, #table-diagnostics").forEach((made) => prepare(made, made.id));

  const same = (value) => value;
  const filters = {
    question: [data.questions.map((question) => question.id), same, "all " + data.num_questions],
    teacher: [teachers, nameOf, "all"], method: [methods, same, "all"],
    correct: [["correct", "incorrect"], same, "correct and incorrect"],
  };
  const chosen = makeFilters(filters);
  const shownArms = (filter) => arms.filter((arm) =>
    (filter.teacher === null || arm.teacher === filter.teacher) && (filter.method === null || arm.method === filter.method));
  const row = (split, arm) => (data.summary[split] || [])[arm.index] || null;
  const known = (split, some) => some.map((arm) => [arm, row(split, arm)]).filter(([, found]) => found && found[POOLED] !== null);
  const between = (found, value = POOLED, low = LOW, high = HIGH) => found ? ranged(found[value], found[low], found[high]) : "-";
  const percent = (value) => value === null ? "-" : Math.round(100 * value) + " %";
  // The arm that colours the tokens: the best of the run, or of what the filters leave.
  const focus = (some) => {
    if (some.some((arm) => arm.index === data.best)) return arms[data.best];
    const pooled = (arm) => { const found = row("all", arm); return found && found[POOLED] !== null ? found[POOLED] : -Infinity; };
    const read = some.filter((arm) => arm.teacher);
    return (read.length ? read : some).reduce((best, arm) => best && pooled(best) >= pooled(arm) ? best : arm, null);
  };
  const narrow = () => window.innerWidth < 600;
  const tick = (arm) => plain(arm.label).replace(" @ ", narrow() ? "<br>" : " @ ");
  const rowsAxis = (labels, changes) => ({
    tickvals: labels.map((_, i) => i), ticktext: labels, range: [labels.length - 0.4, -0.6], zeroline: false, ...changes });

  const drawMethods = (filter, some) => {
    const split = filter.question !== null ? "question:" + filter.question : filter.correct || "all";
    const notes = ["Cosine of each update with the gradient of success: +1 leads to success, -1 away, 0 does nothing."];
    notes.push(filter.question === null ? "95 % intervals over questions" + (filter.correct ? "; " + filter.correct + " responses only." : ".")
      : "One question has no interval." + (filter.correct ? " Correct and incorrect responses of a question are not summed apart." : ""));
    // Best first; controls apart below; what needs no teacher is the measure, and in no chart of others.
    const present = known(split, some).sort((a, b) => b[1][POOLED] - a[1][POOLED]);
    const by = (role) => present.filter(([arm]) => arm.role === role);
    const candidates = by("candidate"), controls = by("control"), references = by("reference");
    const drawn = candidates.length || controls.length ? [...candidates, ...controls] : references;
    if (drawn !== references && references.length) {
      notes.push("For reference, not drawn: " + references.map(([arm, found]) => arm.label + " " + signed(found[POOLED])).join(", ") + ".");
    }
    const place = new Map(drawn.map(([arm], i) => [arm, i]));
    const traces = unique(drawn.map(([arm]) => arm.teacher)).map((teacher) => {
      const own = drawn.filter(([arm]) => arm.teacher === teacher);
      return {
        type: "scatter", mode: "markers", name: plain(nameOf(teacher)), x: own.map(([, found]) => found[POOLED]), y: own.map(([arm]) => place.get(arm)),
        text: own.map(([arm, found]) => plain(arm.name) + "<br>" + between(found) + "<br>" + found[NODES] + " positions"), hoverinfo: "text",
        marker: { size: 9, color: colour(teacher), symbol: own.map(([arm]) => arm.role === "control" ? "diamond" : "circle") },
        error_x: errorBars(own.map(([, found]) => [found[POOLED], found[LOW], found[HIGH]])),
      };
    });
    const rule = candidates.length && controls.length ? candidates.length - 0.5 : null;
    plot("chart-methods", traces, {
      height: 110 + (narrow() ? 36 : 26) * drawn.length, showlegend: !narrow(), xaxis: { title: { text: "pooled alignment" }, ...ZERO },
      yaxis: rowsAxis(drawn.map(([arm]) => tick(arm))),
      shapes: rule === null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: rule, y1: rule, line: { color: SOFT, width: 1, dash: "dot" } }],
      annotations: rule === null ? [] : [{ text: "controls", xref: "paper", x: 1, xanchor: "right", y: rule, yanchor: "top", showarrow: false, font: { size: 11, color: SOFT } }],
    });
    // An interval without a value is no finding: it is in the table, and in no chart.
    const open = some.filter((arm) => { const found = row(split, arm); return found && found[POOLED] === null && (found[LOW] !== null || found[HIGH] !== null); });
    if (open.length) notes.push("Without a value, in the table only: too few questions.");
    notes.push(named(Object.fromEntries(drawn.map(([{ teacher }]) => [teacher, data.teachers[teacher].short]))));
    $("methods-note").textContent = notes.join(" ");
    const listed = [...candidates, ...open.map((arm) => [arm, row(split, arm)]), ...controls, ...references];
    const levels = listed.some(([, found]) => found[GLOW] !== null) ? [["gain per step", GAIN, GLOW, GHIGH]] : [];
    table("table-methods", ["teacher", "method", "role", "pooled", ...levels.map(([title]) => title), "mean", "above 0", "coverage", "positions", "flat"],
      listed.map(([arm, found]) => [nameOf(arm.teacher), arm.method, arm.role, between(found),
        ...levels.map(([, value, low, high]) => between(found, value, low, high)), between(found, MEAN, MLOW, MHIGH),
        percent(found[POSITIVE]), percent(found[COVERAGE]), found[NODES], found[FLAT]]), [3, Infinity]);
  };

  const DASHES = ["solid", "dash", "longdash", "dashdot", "longdashdot"];
  const drawRehearsal = (some) => {
    const present = some.filter((arm) => data.curves[arm.index].length);
    $("rehearsal").hidden = !present.length;
    if (!present.length) return;
    const start = [0, 0, 0, 0, ""];
    const traces = present.flatMap((arm) => {
      const points = data.curves[arm.index], trusted = points.filter((point) => !point[4]), beyond = points.filter((point) => point[4]);
      const trace = (own, changes) => ({
        type: "scatter", mode: "lines+markers", x: own.map((point) => point[0]), y: own.map((point) => point[1]), name: plain(arm.label), legendgroup: arm.name,
        text: own.map((point) => plain(arm.name) + ", " + point[0] + " steps<br>" + ranged(point[1], point[2], point[3])
          + (point[4] ? "<br>trust ends here: " + plain(point[4]) : "")), hoverinfo: "text",
        marker: { size: 7 }, ...changes,
      });
      const line = { color: colour(arm.teacher), width: 2 }, dash = DASHES[methods.indexOf(arm.method) % DASHES.length];
      return [
        trace([start, ...trusted], { line: { ...line, dash } }),
        ...(beyond.length ? [trace([...(trusted.length ? trusted.slice(-1) : [start]), ...beyond], { line: { ...line, width: 1, dash: "dot" }, showlegend: false })] : []),
      ];
    });
    const measured = data.measured.filter((item) => present.some((arm) => arm.index === item[0]));
    if (measured.length) traces.push({
      type: "scatter", mode: "markers", name: "measured", x: measured.map((item) => item[1]), y: measured.map((item) => item[2]),
      marker: { symbol: "x", size: 8, color: measured.map((item) => colour(arms[item[0]].teacher)) },
      text: measured.map((item) => plain(arms[item[0]].name) + ", measured: " + signed(item[2])), hoverinfo: "text",
    });
    plot("chart-rehearsal", traces, { height: 420, xaxis: { title: { text: "steps of training" }, rangemode: "tozero" }, yaxis: { title: { text: "gain of success" }, ...ZERO } });
    const steps = unique(present.flatMap((arm) => data.curves[arm.index].map((point) => point[0]))).sort((a, b) => a - b);
    table("table-rehearsal", ["teacher", "method", ...steps.map((count) => count + (count === 1 ? " step" : " steps"))], present.map((arm) => [nameOf(arm.teacher), arm.method,
      ...steps.map((count) => { const point = data.curves[arm.index].find((other) => other[0] === count); return !point ? "-" : point[4] ? "trust ends" : ranged(point[1], point[2], point[3]); })]));
  };

  const drawCorrect = (filter, some) => {
    const kinds = filter.correct ? [filter.correct] : ["correct", "incorrect"];
    const best = (arm) => Math.max(...known("incorrect", [arm]).map(([, found]) => found[POOLED]), -Infinity);
    const present = some.filter((arm) => arm.role !== "reference" && kinds.some((kind) => known(kind, [arm]).length)).sort((a, b) => best(b) - best(a));
    const traces = kinds.map((kind, k) => {
      const own = known(kind, present);
      return {
        type: "scatter", mode: "markers", name: kind, x: own.map(([, found]) => found[POOLED]),
        y: own.map(([arm]) => present.indexOf(arm) + (kinds.length > 1 ? 0.3 * k - 0.15 : 0)),
        text: own.map(([arm, found]) => plain(arm.name) + ", " + kind + "<br>" + between(found)), hoverinfo: "text",
        marker: { size: 8, color: own.map(([arm]) => colour(arm.teacher)), symbol: kind === "correct" ? "circle" : "circle-open", line: { width: kind === "correct" ? 0 : 2 } },
        error_x: { ...errorBars(own.map(([, found]) => [found[POOLED], found[LOW], found[HIGH]])), color: SOFT },
      };
    });
    plot("chart-correct", traces, {
      height: 130 + (narrow() ? 36 : 24) * present.length, xaxis: { title: { text: "pooled alignment" }, ...ZERO },
      yaxis: rowsAxis(present.map(tick), { tickfont: { size: 10 } }),
    });
    table("table-correct", ["teacher", "method", ...kinds], present.map((arm) => [nameOf(arm.teacher), arm.method, ...kinds.map((kind) => between(row(kind, arm)))]));
  };

  const drawDistribution = (filter, arm) => {
    const bins = data.histograms[0][0].length, width = 2 / bins;
    let counts = data.histograms[arm.index];
    if (filter.question !== null) {
      counts = [new Array(bins).fill(0), new Array(bins).fill(0)];
      for (const spine of data.spines.filter((item) => data.questions[item.q].id === filter.question)) for (const node of spine.nodes) {
        const value = node.cos[arm.index];
        if (value !== null && spine.correct !== null) counts[spine.correct ? 0 : 1][Math.min(Math.floor((value + 1) / width), bins - 1)] += 1;
      }
    }
    $("distribution-note").textContent = "Cosines of single positions under " + arm.name + (filter.question !== null ? ", one question" : "") + "; noise spreads them, so the mean of them is not the headline.";
    const centres = counts[0].map((_, i) => -1 + (i + 0.5) * width);
    const wanted = [["correct", 0, ""], ["incorrect", 1, "/"]].filter(([name]) => !filter.correct || filter.correct === name);
    const any = counts.some((own) => own.some((count) => count > 0));
    plot("chart-distribution", any ? wanted.map(([name, i, shape]) => ({
      type: "bar", name, x: centres, y: counts[i], marker: { color: colour(arm.teacher), pattern: { shape } }, hovertemplate: "%{y} positions<extra>" + name + "</extra>",
    })) : [], { barmode: "stack", bargap: 0.06, height: 320, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" },
      xaxis: { title: { text: "cosine with the ideal gradient" }, range: [-1, 1] }, yaxis: { title: { text: "positions" } } });
    table("table-distribution", ["from", "to", ...wanted.map(([name]) => name)],
      centres.map((centre, i) => [(centre - width / 2).toFixed(2), (centre + width / 2).toFixed(2), ...wanted.map(([, k]) => counts[k][i])]), [0, Infinity]);
  };

  const drawLines = (id, kind, names, about, some, method) => {
    const lines = some.filter((arm) => arm.method === method && arm.role !== "reference");
    const at = (arm) => names.map((name) => row(kind + ":" + name, arm));
    const unknown = names.filter((_, i) => lines.every((arm) => { const found = at(arm)[i]; return !found || found[POOLED] === null; }));
    $(id + "-note").textContent = about + ", method " + method + "." + (lines.length && unknown.length
      ? " No number for " + unknown.join(", ") + ": all positions there are flat, or too few questions have any." : "") + " Hollow: no interval.";
    plot("chart-" + id, lines.map((arm) => {
      const there = at(arm).map((found) => found || [null, null, null]);
      return {
        type: "scatter", mode: "lines+markers", name: plain(nameOf(arm.teacher)), x: names, y: there.map((found) => found[POOLED]), line: { color: colour(arm.teacher), width: 2 },
        marker: { size: 8, symbol: there.map((found) => found[LOW] === null && found[HIGH] === null ? "circle-open" : "circle") },
        text: there.map((found) => plain(arm.name) + "<br>" + between(found)), hoverinfo: "text", error_y: errorBars(there),
      };
    }), { height: 320, xaxis: { title: { text: kind === "position" ? "position in the response" : "entropy of the student" }, type: "category", range: [-0.3, names.length - 0.7] },
      yaxis: { title: { text: "pooled alignment" }, ...ZERO } });
    table("table-" + id, ["teacher", "method", ...names], lines.map((arm) => [nameOf(arm.teacher), arm.method, ...at(arm).map((found) => between(found))]));
  };

  const drawMixtures = (filter) => {
    const kept = data.mixtures.filter((mix) => (filter.method === null || mix.label.includes(filter.method))
      && (filter.teacher === null || mix.teacher === filter.teacher || mix.label.includes("@" + filter.teacher)));
    $("mixtures").hidden = !kept.length;
    if (!kept.length) return;
    // No more lines than colours: those that get highest.
    const peak = (mix) => Math.max(...mix.points.map((point) => point[1] === null ? -Infinity : point[1]));
    const shown = [...kept].sort((a, b) => peak(b) - peak(a)).slice(0, data.palette.length);
    $("mixtures-note").textContent = shown.length < kept.length ? "Drawn are the " + shown.length + " of " + kept.length + " that get highest; filters show others." : "";
    const numbers = (found) => found && found[0] !== null ? ranged(...found) : "-";
    plot("chart-mixtures", shown.map((mix, i) => ({
      type: "scatter", mode: "lines+markers", name: plain((mix.teacher ? nameOf(mix.teacher) + ": " : "") + mix.label),
      x: mix.points.map((point) => point[0]), y: mix.points.map((point) => point[1]),
      line: { color: data.palette[i], dash: DASHES[i % DASHES.length] }, marker: { size: 5 },
      text: mix.points.map((point) => plain(mix.label) + "<br>share " + point[0] + "<br>" + numbers(point.slice(1))), hoverinfo: "text",
    })), { height: 320 + 20 * shown.length, xaxis: { title: { text: "share of the second" }, range: [-0.02, 1.02] }, yaxis: { title: { text: "pooled alignment" }, ...ZERO } });
    table("table-mixtures", ["teacher", "mixture", "best share", "its alignment on the other half"], kept.map((mix) =>
      [mix.teacher ? nameOf(mix.teacher) : "several", mix.label, numbers(mix.best.best_share), numbers(mix.best.best_alignment)]));
  };

  // What is said of contexts is said of their model; of the student's own prefixes, to compare with.
  const concerns = (mechanism, about, teacher) => about === teacher || (mechanism === "prefix" && !about)
    || (mechanism === "contexts" && teacher.startsWith(about + "+"));
  const drawDiagnostics = (filter) => document.querySelectorAll("#diagnostics [data-teachers]").forEach((line) => {
    line.hidden = filter.teacher !== null && !JSON.parse(line.dataset.teachers).some((about) => concerns(line.dataset.mechanism, about, filter.teacher));
  });

  const responses = makeResponses(data, arms, linkTo);
  const draw = () => {
    const filter = chosen(), some = shownArms(filter);
    $("failure").hidden = some.length > 0;
    if (!some.length) { fail("No teacher was scored with this method."); return; }
    const arm = focus(some);
    drawMethods(filter, some);
    drawRehearsal(some);
    drawCorrect(filter, some);
    drawDistribution(filter, arm);
    drawLines("positions", "position", ["0-25%", "25-50%", "50-75%", "75-100%"], "Quarters of the response", some, arm.method);
    drawLines("entropy", "entropy", ["low", "middle", "high"], "Thirds of the positions by the entropy of the student's distribution", some, arm.method);
    drawMixtures(filter);
    drawDiagnostics(filter);
    responses.draw(filter, some, arm);
    root.dataset.ready = "yes";
  };
  let drawn = "";
  const follow = () => {
    readAddress(filters);
    const wanted = JSON.stringify(chosen());
    if (wanted !== drawn) draw();
    drawn = wanted;
    responses.open(address().get("token"));
  };
  const changed = () => {
    writeAddress(filters, chosen());
    remember({ token: null });
    follow();
  };
  $("filters").addEventListener("change", changed);
  $("filters").addEventListener("reset", () => setTimeout(changed));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", follow);
  follow();
})();

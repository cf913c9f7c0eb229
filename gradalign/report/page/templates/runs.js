// The page of many runs: a leaderboard of students, tasks, teachers, contexts and methods.
(async () => {
  const data = await load();
  if (!data) return;
  document.querySelectorAll("#table-heads").forEach((made) => prepare(made, made.id));
  const MOST = 30;
  const values = (name) => [...new Set(data.rows.map((row) => row[name]))];
  const same = (value) => value;
  const SHOW = { best: "best method of each teacher", all: "all methods", controls: "controls and references too" };
  const filters = {
    run: [data.runs, same, "all"], student: [values("student"), same, "all"], task: [values("task"), same, "all"],
    teacher: [values("teacher"), (value) => value || "(no teacher)", "all"],
    context: [values("context"), (value) => value || "(none)", "all"], method: [values("method"), same, "all"],
    show: [Object.keys(SHOW), (value) => SHOW[value], null],
  };
  const chosen = makeFilters(filters);

  const draw = () => {
    const filter = chosen();
    const keys = ["run", "student", "task", "teacher", "context", "method"];
    let rows = data.rows.filter((row) => keys.every((name) => filter[name] === null || row[name] === filter[name])
      && (filter.show === "controls" || row.role === "candidate"));
    if (filter.show === "best") {  // rows come best first
      const seen = new Set();
      rows = rows.filter((row) => { const key = row.run + "\n" + row.teacher; return !seen.has(key) && seen.add(key); });
    }
    const drawn = rows.filter((row) => row.pooled[0] !== null).slice(0, MOST);
    const several = (name) => new Set(rows.map((row) => row[name])).size > 1;
    const label = (row) => plain([row.method + (row.teacher ? " @ " + data.short[row.teacher] : ""), ...(several("run") ? [row.run] : [])].join(" · "));
    $("board-note").textContent = ["Pooled alignment with 95 % intervals over questions, best first.",
      ...(drawn.length < rows.length ? [drawn.length + " of " + rows.length + " rows of the table are drawn: the best that have a value."] : []),
      named(Object.fromEntries(drawn.map(({ teacher }) => [teacher, data.short[teacher]])))].join(" ");
    const names = [...new Set(drawn.map((row) => row.run))];
    plot("chart-board", names.map((name) => {
      const own = drawn.filter((row) => row.run === name);
      return {
        type: "scatter", mode: "markers", name: plain(name), x: own.map((row) => row.pooled[0]), y: own.map((row) => drawn.indexOf(row)),
        text: own.map((row) => label(row) + "<br>" + ranged(...row.pooled)), hoverinfo: "text",
        marker: { size: 9, color: data.palette[data.runs.indexOf(name) % data.palette.length] }, error_x: errorBars(own.map((row) => row.pooled)),
      };
    }), {
      height: 110 + 26 * drawn.length, showlegend: names.length > 1, xaxis: { title: { text: "pooled alignment" }, ...ZERO },
      yaxis: { tickvals: drawn.map((_, i) => i), ticktext: drawn.map(label), range: [drawn.length - 0.4, -0.6], zeroline: false },
    });
    const gain = rows.some((row) => row.gain[0] !== null);
    table("table-board", ["run", "teacher", "method", "pooled", ...(gain ? ["gain per step"] : []), "accuracy", "questions", "context", "student", "task", "role"],
      rows.map((row) => [row.run, row.teacher || "(no teacher)", row.method, ranged(...row.pooled), ...(gain ? [ranged(...row.gain)] : []), row.accuracy, row.questions,
        row.context || "-", row.student, row.task, row.role]), [3, gain ? 7 : 6]);
    root.dataset.ready = "yes";
  };
  const changed = () => { writeAddress(filters, chosen()); draw(); };
  $("filters").addEventListener("change", changed);
  $("filters").addEventListener("reset", () => setTimeout(changed));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => { readAddress(filters); draw(); });
  readAddress(filters);
  draw();
})();

// The responses of a run's page, token by token, and the panel with what was tried at a token.
const makeResponses = (data, arms, linkTo) => {
  const STEP = 12, MOST = 50;
  const ORDERS = { harmful: "most harmful first", helpful: "most helpful first" };
  const readers = [...new Set(arms.map((arm) => arm.teacher))].filter(Boolean);
  const nodeAt = new Map(data.spines.flatMap((spine) => spine.nodes.map((node) => [spine.id + "/" + node.t, [spine, node]])));
  const keyOf = (spine, node) => spine.id + "/" + node.t;
  let limit = STEP, now = null, opened = null;

  const shade = (value) => "rgba(var(" + (value < 0 ? "--minus" : "--plus") + ")," + (0.08 + 0.6 * Math.abs(value)).toFixed(2) + ")";
  // Text reads as text: a line end ends a line.
  const shown = (text) => text.replaceAll("⏎", "⏎\n");
  const token = (spine, text, position, node, arm) => {
    if (!node) return make("span", { class: "tok" }, shown(text));
    const value = node.cos[arm.index];
    const link = make("a", {
      class: "tok node" + (value === null ? " flat" : ""), href: linkTo({ token: keyOf(spine, node) }), "data-token": keyOf(spine, node),
      title: "position " + position + ": " + (value === null ? node.why[arm.index] || "no alignment" : "alignment " + signed(value, 2)),
    }, shown(text));
    if (value !== null) link.style.background = shade(value);
    return link;
  };
  const response = (spine, arm, first) => {
    const nodes = new Map(spine.nodes.map((node) => [node.t, node]));
    const chip = (text, kind = "") => make("span", { class: "chip " + kind }, text);
    const head = make("h3", {}, make("bdi", {}, spine.id),
      ...(spine.correct === null ? [chip("not verified")] : [chip(spine.correct ? "correct" : "incorrect", spine.correct ? "ok" : "no"), chip("reward " + spine.reward)]),
      ...(spine.finish === "length" ? [chip("cut off", "no")] : []));
    const asked = data.questions[spine.q], about = [];
    if (first) {  // what is asked; opened, the prompt as the model sees it
      const short = asked.asked + (asked.answer ? "   (answer: " + asked.answer + ")" : ""), whole = make("p", { class: "prompt" }, asked.prompt);
      about.push(asked.prompt === asked.asked ? make("p", { class: "prompt" }, short)
        : make("details", {}, make("summary", { class: "prompt", title: "The prompt as the model sees it" }, short), whole));
    }
    return make("article", { class: "spine" }, head, ...about,
      make("div", { class: "tokens" }, ...spine.tokens.map((text, position) => token(spine, text, position, nodes.get(position), arm))));
  };

  const drawList = () => {
    let question = null;
    $("spines").replaceChildren(...now.spines.slice(0, limit).map((spine) => {
      const first = spine.q !== question;
      question = spine.q;
      return response(spine, now.arm, first);
    }));
    $("more").hidden = now.spines.length <= limit;
  };
  const drawExtremes = () => {
    const sign = $("f-order").value === "helpful" ? -1 : 1, { index } = now.arm;
    const found = now.spines.flatMap((spine) => spine.nodes.map((node) => [spine, node])).filter(([, node]) => node.adds[index] !== null)
      .sort(([, a], [, b]) => sign * (a.adds[index] - b.adds[index])).slice(0, MOST);
    table("table-extremes", ["token", "response", "position", "alignment", "adds to pooled"], found.map(([spine, node]) => [
      make("a", { href: linkTo({ token: keyOf(spine, node) }) }, make("code", {}, make("bdi", {}, spine.tokens[node.t].trim() || "(blank)"))),
      spine.id, node.t, signed(node.cos[index], 2), signed(node.adds[index], 5)]));
  };
  const draw = (filter, some, arm) => {
    const spines = data.spines.filter((spine) => (filter.question === null || data.questions[spine.q].id === filter.question)
      && (!filter.correct || spine.correct === (filter.correct === "correct")));
    now = { filter, some, arm, spines, keys: spines.flatMap((spine) => [...spine.nodes].sort((a, b) => a.t - b.t).map((node) => keyOf(spine, node))) };
    limit = STEP;
    $("responses-note").textContent = spines.length + " of " + data.spines.length + " responses in this page; colour: " + arm.name + ". Choose a token to see what was tried there.";
    drawList();
    drawExtremes();
  };

  // The panel.
  const bar = (value) => { const element = make("span", { class: "bar" }); element.style.width = Math.round(44 * Math.max(value || 0, 0)) + "px"; return element; };
  const signedBar = (value) => {
    const fill = make("i", {}), size = 50 * Math.min(Math.abs(value || 0), 1);
    fill.style.cssText = "width:" + size + "%;" + (value < 0 ? "right:50%;background:rgb(var(--minus))" : "left:50%;background:rgb(var(--plus))");
    return make("span", { class: "signed" }, fill);
  };
  const ends = (low, high) => low === null || high === null ? "" : " [" + low.toFixed(2) + ", " + high.toFixed(2) + "]";
  const fixed = (value, digits) => value === null ? "-" : value.toFixed(digits);
  const candidates = (node, arm) => {
    const { filter, some } = now;
    // The arm that colours the tokens first; then what the filters leave, or its teacher's methods.
    const others = filter.teacher === null && filter.method === null ? arms.filter((other) => other.teacher === arm.teacher) : some;
    const rest = others.filter((other) => other.index !== arm.index).slice(0, 7);
    const cell = (...children) => make("td", { class: "n" }, ...children);
    const pushed = (other, i) => { const value = node.m[other.index][i]; return cell(signedBar(value), signed(value, 2)); };
    const titles = ["P", "V (95 %)", "n", "ideal", arm.name, ...readers.map((teacher) => "Q " + teacher), ...rest.map((other) => other.name)];
    const head = make("tr", {}, make("th", {}, "token"), ...titles.map((title) => make("th", { class: "n" }, make("bdi", {}, title))));
    const rows = node.candidates.map(([text, p, v, low, high, count, ideal, why], i) => make("tr", {},
      make("td", { title: why }, make("code", {}, make("bdi", {}, text))), cell(bar(p), fixed(p, 3)), cell(bar(v), v === null ? "-" : fixed(v, 2) + ends(low, high)), cell(count),
      cell(signedBar(ideal), signed(ideal, 2)), pushed(arm, i), ...readers.map((_, k) => cell(fixed(node.q[k][i], 3))), ...rest.map((other) => pushed(other, i))));
    return make("table", { id: "candidates" }, make("thead", {}, head), make("tbody", {}, ...rows));
  };
  const close = () => {
    document.querySelectorAll(".tok.open").forEach((other) => other.classList.remove("open"));
    $("panel").hidden = true;
    document.body.style.paddingBottom = root.style.scrollPaddingBottom = "";
    opened = null;
  };
  // Show what was tried at a token; null closes the panel.
  const open = (key) => {
    close();
    if (!nodeAt.has(key)) return;
    const [spine, node] = nodeAt.get(key), { arm } = now, cosine = node.cos[arm.index];
    const place = now.spines.indexOf(spine);
    if (place >= limit) { limit = place + 1; drawList(); }
    const tried = make("div", { class: "scroll" }, candidates(node, arm));
    scrolls(tried, "Candidates");
    $("node").replaceChildren(
      make("h2", {}, make("bdi", {}, spine.id + ", position " + node.t + ": " + spine.tokens[node.t])),
      make("p", { class: "note" }, "alignment " + (cosine === null ? "undefined (" + (node.why[arm.index] || "no such node") + ")" : signed(cosine, 2)) + " under " + arm.name
        + "; adds " + signed(node.adds[arm.index], 5) + " to pooled; success here " + (node.value === null ? "-" : node.value.toFixed(2) + ends(...node.ends)) + "; " + node.rollouts
        + " rollouts forced here; candidates cover " + Math.round(100 * (node.coverage || 0)) + " % of P; entropy " + (node.entropy || 0).toFixed(3) + " nats"),
      tried,
      make("p", { class: "note" }, "V: success after forcing the token, with Wilson's interval, which few continuations (n) make wide and draw towards one half. Ideal and methods: where they push each token, scaled to length 1. Methods that use rollouts themselves are shown with all of them; their alignment compares halves."));
    const at = now.keys.indexOf(key);
    $("previous").disabled = at <= 0;
    $("next").disabled = at < 0 || at >= now.keys.length - 1;
    $("panel").hidden = false;
    opened = key;
    // The token stays in sight above the panel, which takes the keyboard.
    document.body.style.paddingBottom = root.style.scrollPaddingBottom = $("panel").offsetHeight + 32 + "px";
    const link = linkOf(key);
    if (link) { link.classList.add("open"); link.scrollIntoView({ block: "center" }); }
    $("panel").focus({ preventScroll: true });
  };
  const linkOf = (key) => [...document.querySelectorAll("#spines .tok.node")].find((link) => link.dataset.token === key);
  const go = (step) => {
    const key = now.keys[now.keys.indexOf(opened) + step];
    if (opened !== null && key !== undefined) { remember({ token: key }); open(key); }
  };
  const leave = () => {
    if (opened === null) return;
    const link = linkOf(opened);
    remember({ token: null });
    close();
    if (link) link.focus();
  };

  $("f-order").replaceChildren(...Object.entries(ORDERS).map(([value, text]) => make("option", { value }, text)));
  $("f-order").addEventListener("change", drawExtremes);
  $("close").addEventListener("click", leave);
  $("previous").addEventListener("click", () => go(-1));
  $("next").addEventListener("click", () => go(1));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") leave();
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && opened !== null && !event.target.closest(".scroll, select, input")) { event.preventDefault(); go(step); }
  });
  $("more").addEventListener("click", () => { limit += 2 * STEP; drawList(); });
  let before = limit;
  window.addEventListener("beforeprint", () => { before = limit; limit = Infinity; drawList(); });
  window.addEventListener("afterprint", () => { limit = before; drawList(); });
  return { draw, open };
};

"use strict";
(() => {
  const root = document.documentElement;

  const theme = document.getElementById("theme");
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const nameTheme = () => { theme.textContent = dark() ? "Light page" : "Dark page"; };
  theme.hidden = false;
  nameTheme();
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; nameTheme(); });

  // On paper everything is open; afterwards what was closed is closed again.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => { for (const part of closed) part.open = false; });

  const source = document.getElementById("rollout-data");
  if (!source) return;
  const { problems } = JSON.parse(source.textContent);
  const form = document.getElementById("filters");
  const list = document.getElementById("problems");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const PAGE = 8;
  let shown = PAGE;

  // Text of models is only ever set as textContent, so it cannot become markup.
  const make = (name, className, text) => {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const VERDICTS = { __proto__: null, right: ["✓ right", "good"], wrong: ["✗ wrong", "bad"], no_answer: ["no answer", "even"], unknown: ["unknown", "even"] };

  const tile = (row, dim) => {
    const [arm, step, text, strict, lenient, answer, code] = row;
    const node = make("article", dim ? "tile dim" : "tile");
    const who = node.appendChild(make("div", "who"));
    who.append(make("b", "", step === 0 ? "before training" : arm));
    const [words, kind] = VERDICTS[strict] || [String(strict), "even"];
    who.append(make("span", kind, words));
    node.append(make("p", "text", text));
    const parts = [code ? "code" : "words", answer === null ? "no answer found" : `answer ${answer}`];
    if (lenient !== strict) parts.push(`lenient: ${lenient === "no_answer" ? "no answer" : lenient}`);
    if (step !== 0) parts.push(`step ${step}`);
    node.append(make("p", "foot", parts.join(" · ")));
    return node;
  };

  const draw = () => {
    const wanted = Object.fromEntries(new FormData(form));
    const needle = (wanted.text || "").toLowerCase();
    const byRow = Boolean(wanted.arm || wanted.verdict || wanted.strategy || needle);
    const fits = (row, problem) =>
      (!wanted.arm || row[0] === wanted.arm)
      && (!wanted.verdict || row[3] === wanted.verdict)
      && (!wanted.strategy || (wanted.strategy === "code") === Boolean(row[6]))
      && (!needle || row[2].toLowerCase().includes(needle) || problem.q.toLowerCase().includes(needle)
        || problem.id.toLowerCase().includes(needle));
    const found = [];
    for (const problem of problems) {
      if (wanted.family && problem.f !== wanted.family) continue;
      if (wanted.unit && problem.u !== wanted.unit) continue;
      if (wanted.decoding && problem.d !== wanted.decoding) continue;
      const rows = problem.rows.filter((row) => !wanted.step || row[1] === 0 || String(row[1]) === wanted.step);
      if (!rows.length) continue;
      const hits = rows.map((row) => fits(row, problem));
      if (byRow && !hits.includes(true)) continue;
      if (wanted.differ && new Set(rows.filter((row) => row[1] !== 0).map((row) => row[3])).size < 2) continue;
      found.push([problem, rows, hits]);
    }
    list.replaceChildren();
    for (const [problem, rows, hits] of found.slice(0, shown)) {
      const node = list.appendChild(make("article", "problem"));
      node.append(make("h3", "", problem.q));
      node.append(make("p", "where", `right answer ${problem.g} · ${problem.f} · ${problem.u} · ${problem.d} · ${problem.id}`));
      const tiles = node.appendChild(make("div", "tiles"));
      rows.forEach((row, i) => tiles.append(tile(row, byRow && !hits[i])));
    }
    count.textContent = `${found.length} of ${problems.length} problems match; ${Math.min(shown, found.length)} shown.`;
    more.hidden = found.length <= shown;
    const state = new URLSearchParams(Object.entries(wanted).filter(([key, value]) => value && key !== "step"));
    if (wanted.step !== form.elements.step.dataset.first) state.set("step", wanted.step);
    return String(state);
  };
  const remember = () => {
    shown = PAGE;
    const state = draw();
    try { history.replaceState(null, "", state ? `#rollouts:${state}` : "#rollouts"); } catch { /* a sandboxed page has no history */ }
  };

  form.hidden = false;
  form.elements.step.dataset.first = form.elements.step.value;
  if (location.hash.startsWith("#rollouts:")) {
    for (const [key, value] of new URLSearchParams(location.hash.slice(10))) {
      const field = form.elements.namedItem(key);
      if (!field) continue;
      if (field.type === "checkbox") field.checked = true; else field.value = value;
    }
    document.getElementById("rollouts").scrollIntoView();
  }
  form.addEventListener("input", remember);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(remember));
  more.addEventListener("click", () => { shown += PAGE; draw(); });
  draw();
})();

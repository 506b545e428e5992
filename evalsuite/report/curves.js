"use strict";
// The curve that a reader chooses, and its place in the address of the page.
(() => {
  const { find, views, rounded, percent, drawn, copier, charts, curves: data } = window.evalsuite;
  const explorer = find("explorer");
  if (!explorer) return;
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const isRatio = (axis) => axis === "ratio" || axis === "prunable_ratio";
  const metric = find("metric");
  const condition = find("condition");
  const axis = find("axis");
  const close = find("close");
  const figure = find("curve-figure");
  const boxes = [...document.querySelectorAll(".methods input")];
  let view = null;

  const offer = (wanted) => {
    const groups = new Map();
    for (const curve of data.curves.filter((item) => item.metric === metric.value)) {
      if (!groups.has(curve.of)) groups.set(curve.of, []);
      groups.get(curve.of).push(new Option(curve.label, curve.condition));
    }
    condition.replaceChildren();
    for (const [name, choices] of groups) {
      if (!name) { condition.append(...choices); continue; }
      const group = document.createElement("optgroup");
      group.label = name;
      group.append(...choices);
      condition.append(group);
    }
    if ([...condition.options].some((option) => option.value === wanted)) condition.value = wanted;
  };

  const chosen = () => data.curves.find((item) => item.metric === metric.value && item.condition === condition.value);

  // The choice as the part of the address behind #, and back.
  const address = () => {
    const parts = [`curve=${encodeURIComponent(condition.value).replaceAll("%2F", "/")}`, `metric=${encodeURIComponent(metric.value)}`];
    if (axis.value !== axis.options[0].value) parts.push(`over=${encodeURIComponent(axis.value)}`);
    if (close.checked) parts.push("close=1");
    const hidden = boxes.filter((box) => !box.checked).map((box) => data.methods[box.value]);
    if (hidden.length) parts.push(`without=${hidden.map(encodeURIComponent).join(",")}`);
    return `#${parts.join("&")}`;
  };
  const restore = () => {
    if (!location.hash.startsWith("#curve=")) return false;
    const wanted = new Map(location.hash.slice(1).split("&").map((part) => {
      const [name, ...value] = part.split("=");
      return [name, value.join("=")];
    }));
    const text = (name) => { try { return decodeURIComponent(wanted.get(name) ?? ""); } catch { return ""; } };
    if (!data.curves.some((item) => item.metric === text("metric") && item.condition === text("curve"))) return false;
    metric.value = text("metric");
    offer(text("curve"));
    axis.value = data.axes[text("over")] ? text("over") : axis.options[0].value;
    close.checked = wanted.get("close") === "1";
    const hidden = (wanted.get("without") ?? "").split(",").filter(Boolean).map((name) => { try { return decodeURIComponent(name); } catch { return name; } });
    for (const box of boxes) box.checked = !hidden.includes(data.methods[box.value]);
    return true;
  };
  const keep = () => { try { history.replaceState(null, "", address()); } catch { /* where a page may not change its address */ } };

  // The control has no ratio of its own: it stands where the network stands that was trained as long.
  const at = (candidate) => (isRatio(axis.value) && data.controls.includes(candidate.method) ? candidate.target_ratio : candidate[axis.value]);

  const datasets = (curve) => {
    const names = data.methods.filter((_, index) => boxes[index].checked);
    const show = (value) => rounded(value, curve.n);
    const all = curve.points
      .map(([index, value, low, high]) => ({ ...data.candidates[index], value, low, high }))
      .filter((point) => at(point) !== null && at(point) !== undefined);
    const parents = all.filter((point) => point.target_ratio === 0);
    const parent = parents.length && curve.reference !== null
      ? [{ x: mean(parents.map(at)), y: curve.reference, at: "parent", value: show(curve.reference) }] : [];
    const line = [];
    const seed = [];
    const mark = [];
    for (const method of names) {
      const points = all.filter((point) => point.method === method && point.target_ratio > 0);
      const control = data.controls.includes(method);
      const targets = [...new Set(points.map((point) => point.target_ratio))].sort((a, b) => a - b);
      const seeds = [...new Set(points.map((point) => point.seed))];
      for (const target of targets) {
        const same = points.filter((point) => point.target_ratio === target);
        const values = same.map((point) => point.value);
        const one = seeds.length === 1;
        const low = one ? same[0].low ?? values[0] : Math.min(...values);
        const high = one ? same[0].high ?? values[0] : Math.max(...values);
        const ratio = mean(same.map((point) => (control ? point.target_ratio : point.ratio)));
        line.push({ method, control, order: target, ratio, x: mean(same.map(at)), y: mean(values), low, high,
          at: percent(ratio), value: show(mean(values)), interval: low < high ? `${show(low)} to ${show(high)}` : "" });
      }
      if (seeds.length > 1) {
        for (const point of points) seed.push({ method, seed: point.seed, order: point.target_ratio, x: at(point), y: point.value });
      }
      const potential = curve.potentials[method];
      if (potential > 0) {
        const tested = line.filter((point) => point.method === method);
        const distance = (point) => Math.min(Math.abs(point.ratio - potential), Math.abs(point.order - potential));
        if (tested.length) mark.push(tested.reduce((a, b) => (distance(b) < distance(a) ? b : a)));
      }
    }
    return { line, seed, mark, parent, limit: bounds(curve), several: seed.length > 0, all };
  };

  const bounds = (curve) => {
    if (curve.reference === null) return [];
    const higher = data.metrics[curve.metric].higher;
    const tolerance = higher === null ? 0 : curve.tolerance ?? 0;
    const low = higher === true ? curve.reference - tolerance : curve.reference;
    const high = higher === true ? curve.reference : curve.reference + tolerance;
    return [{ reference: curve.reference, low, high }];
  };

  const describe = (curve, several) => {
    const about = data.metrics[curve.metric];
    const better = { true: "higher is better", false: "lower is better" }[String(about.higher)] ?? "";
    const heading = document.createElement("b");
    heading.textContent = `${about.label}, ${curve.label}`;
    find("y-title").replaceChildren(heading, better ? ` – ${better}` : "");
    find("x-title").textContent = `${data.axes[axis.value]} →`;
    const parts = [about.text];
    if (curve.reference !== null) parts.push(`Horizontal line: the parent, ${rounded(curve.reference, curve.n)}.`);
    if (curve.tolerance !== null) {
      parts.push(`Blue band: within the tolerance of ${curve.tolerance}.`);
      parts.push("Ring: the last ratio up to which all pass.");
    }
    if (several) parts.push("Bold: mean over seeds; thin: each seed; bars: their range.");
    else if (curve.points.some((point) => point.length > 2)) parts.push(`Bars: 95\u202f% interval ${about.counted === "images" ? "of the paired difference from the parent" : `over ${about.counted}`}.`);
    if (curve.n) parts.push(`${curve.n.toLocaleString("en")} ${about.counted}.`);
    find("chart-note").textContent = parts.filter(Boolean).join(" ");
    find("chart").setAttribute("aria-label", `${about.label}, ${curve.label}, over ${data.axes[axis.value]}; the numbers are in the table below`);
  };

  const list = (points, n) => {
    const rows = points.map((point) => {
      const row = document.createElement("tr");
      const interval = point.low === undefined ? "–" : `${rounded(point.low, n)} to ${rounded(point.high, n)}`;
      for (const text of [point.method, point.seed, percent(point.ratio), rounded(point.value, n), interval]) {
        const cell = document.createElement("td");
        if (row.childElementCount) cell.className = "num";
        cell.textContent = text;
        row.append(cell);
      }
      return row;
    });
    find("numbers").tBodies[0].replaceChildren(...rows);
  };

  const draw = () => {
    const curve = chosen();
    if (!view || !curve) return;
    const numbers = datasets(curve);
    for (const name of ["limit", "line", "seed", "mark", "parent"]) view.data(name, numbers[name]);
    const [limit] = numbers.limit;
    const tolerance = curve.tolerance ?? 0;
    const near = close.checked && limit && tolerance > 0;
    const higher = data.metrics[curve.metric].higher;
    view.signal("bottom", near && higher ? limit.low - 2 * tolerance : null);
    view.signal("top", near && !higher ? limit.high + 2 * tolerance : null);
    view.signal("axis", axis.value).runAsync();
    describe(curve, numbers.several);
    list(numbers.all, curve.n);
    figure.dataset.metric = curve.metric;
    figure.dataset.condition = curve.condition;
  };
  figure.fileName = () => `${metric.value} ${condition.value} over ${axis.value}`;
  figure.querySelector(".save")?.prepend(copier("Copy link", () => { keep(); return location.href.split("#")[0] + address(); }));

  explorer.hidden = false;
  offer("clean");
  restore();
  metric.addEventListener("change", () => { offer(condition.value); draw(); keep(); });
  for (const control of [condition, axis, close, ...boxes]) control.addEventListener("change", () => { draw(); keep(); });
  const show = () => { if (restore()) { draw(); find("explorer").scrollIntoView(); } };
  addEventListener("hashchange", show);
  drawn("#chart", charts.curve).then((made) => {
    view = made;
    draw();
    if (location.hash.startsWith("#curve=")) find("explorer").scrollIntoView();
    document.body.dataset.ready = "yes";
  });
})();

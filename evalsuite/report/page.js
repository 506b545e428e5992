"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(find(id).textContent);
  const data = read("curve-data");
  const charts = read("charts");
  const options = { actions: false, renderer: "svg", logLevel: 1 }; // 1: errors; an empty layer is none
  const isRatio = (axis) => axis === "ratio" || axis === "prunable_ratio";
  const significant = (value) => Number(value.toPrecision(5)).toString();
  const percent = (ratio) => (100 * ratio).toFixed(1).replace(/\.0$/, "") + "\u202f%";
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  // Explanations: a tooltip that also opens for the keyboard; without scripts the title attribute is shown.
  const tip = find("tip");
  const conceal = () => { tip.hidden = true; };
  const explain = (target) => {
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    const box = target.getBoundingClientRect();
    const left = Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8));
    const below = box.bottom + 22;
    tip.style.left = `${left}px`;
    tip.style.top = `${below + tip.offsetHeight > innerHeight ? Math.max(8, box.top - tip.offsetHeight - 8) : below}px`;
  };
  for (const target of document.querySelectorAll(".matrix [title], .every [title]")) {
    target.dataset.tip = target.title;
    target.setAttribute("aria-description", target.title);
    target.removeAttribute("title");
    for (const event of ["mouseenter", "focus"]) target.addEventListener(event, () => explain(target));
    for (const event of ["mouseleave", "blur"]) target.addEventListener(event, conceal);
  }
  addEventListener("scroll", conceal, { passive: true, capture: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") conceal(); });

  // The table of every threshold.
  const filter = find("filter");
  if (filter) {
    filter.closest(".tools").hidden = false;
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
      for (const body of document.querySelectorAll("#every tbody")) {
        const title = body.querySelector(".block").textContent.toLowerCase();
        let shown = 0;
        for (const row of body.querySelectorAll("tr:not(.block)")) {
          const text = `${title} ${row.querySelector("th").textContent.toLowerCase()}`;
          row.hidden = !words.every((word) => text.includes(word));
          shown += row.hidden ? 0 : 1;
        }
        body.hidden = shown === 0;
      }
    });
  }
  for (const link of document.querySelectorAll('a[href="#every"]')) {
    link.addEventListener("click", () => { find("every").open = true; });
  }

  // Paper: all details open, and wide charts drawn again at its width, or their labels would shrink with them.
  const views = (window.evalsuiteViews ??= []);
  const paper = 680;
  let wide = [];
  addEventListener("beforeprint", () => {
    for (const item of document.querySelectorAll("details")) item.open = true;
    wide = views.filter((view) => view.container().clientWidth > paper);
    for (const view of wide) view.width(paper).run();
  });
  addEventListener("afterprint", () => { for (const view of wide) view.width(view.container().clientWidth).run(); });

  // The curves.
  const explorer = find("explorer");
  if (explorer) {
    const metric = find("metric");
    const condition = find("condition");
    const axis = find("axis");
    const close = find("close");
    const boxes = [...document.querySelectorAll(".methods input")];
    let view = null;

    const offer = (wanted) => {
      const groups = new Map();
      for (const curve of data.curves.filter((item) => item.metric === metric.value)) {
        if (!groups.has(curve.group)) groups.set(curve.group, []);
        groups.get(curve.group).push(new Option(curve.label, curve.condition));
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

    const datasets = (curve) => {
      const names = data.methods.filter((_, index) => boxes[index].checked);
      const at = (candidate) => candidate[axis.value];
      const all = curve.points
        .map(([index, value, low, high]) => ({ ...data.candidates[index], value, low, high }))
        .filter((point) => at(point) !== null && at(point) !== undefined);
      const parents = all.filter((point) => point.target_ratio === 0);
      const start = parents.length ? mean(parents.map(at)) : null;
      const line = [];
      const seed = [];
      const mark = [];
      for (const method of names) {
        const points = all.filter((point) => point.method === method && point.target_ratio > 0);
        const targets = [...new Set(points.map((point) => point.target_ratio))].sort((a, b) => a - b);
        const seeds = [...new Set(points.map((point) => point.seed))];
        if (start !== null && points.length && curve.reference !== null) {
          line.push({ method, order: 0, x: start, y: curve.reference, low: curve.reference, high: curve.reference,
            at: "parent", value: significant(curve.reference), interval: "" });
        }
        for (const target of targets) {
          const same = points.filter((point) => point.target_ratio === target);
          const values = same.map((point) => point.value);
          const one = seeds.length === 1;
          const low = one ? same[0].low ?? values[0] : Math.min(...values);
          const high = one ? same[0].high ?? values[0] : Math.max(...values);
          line.push({ method, order: target, ratio: mean(same.map((point) => point.ratio)), x: mean(same.map(at)),
            y: mean(values), low, high, at: percent(mean(same.map((point) => point.ratio))),
            value: significant(mean(values)), interval: `${significant(low)} to ${significant(high)}` });
        }
        if (seeds.length > 1) {
          const begin = new Map(parents.map((point) => [point.seed, point]));
          for (const point of [...points, ...seeds.map((name) => begin.get(name)).filter(Boolean)]) {
            seed.push({ method, seed: point.seed, order: point.target_ratio, x: at(point), y: point.value });
          }
        }
        const potential = curve.potentials[method];
        if (potential > 0) {
          const tested = line.filter((point) => point.method === method && point.order > 0);
          const distance = (point) => Math.min(Math.abs(point.ratio - potential), Math.abs(point.order - potential));
          if (tested.length) mark.push(tested.reduce((a, b) => (distance(b) < distance(a) ? b : a)));
        }
      }
      return { line, seed, mark, limit: bounds(curve), several: seed.length > 0, all };
    };

    const bounds = (curve) => {
      if (curve.reference === null) return [];
      const higher = data.metrics[curve.metric].higher;
      const tolerance = higher === null ? null : curve.tolerance;
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
      if (curve.reference !== null) parts.push(`Horizontal line: the parent, ${significant(curve.reference)}.`);
      if (curve.tolerance !== null) {
        parts.push(`Blue band: within the tolerance of ${significant(curve.tolerance)}.`);
        parts.push("Ring: the last ratio up to which all pass.");
      }
      if (several) parts.push("Bold: mean over seeds; thin: each seed; shaded: their range.");
      else if (curve.points.some((point) => point.length > 2)) parts.push(`Shaded: 95\u202f% interval ${about.counted === "images" ? "of the paired difference from the parent" : `over ${about.counted}`}.`);
      if (curve.n) parts.push(`${curve.n.toLocaleString("en")} ${about.counted}.`);
      find("chart-note").textContent = parts.filter(Boolean).join(" ");
      find("chart").setAttribute("aria-label", `${about.label}, ${curve.label}, over ${data.axes[axis.value]}; the numbers are in the table below`);
    };

    const list = (points) => {
      const rows = points.map((point) => {
        const row = document.createElement("tr");
        const interval = point.low === undefined ? "–" : `${significant(point.low)} to ${significant(point.high)}`;
        for (const text of [point.method, point.seed, percent(point.ratio), point.value, interval]) {
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
      for (const name of ["limit", "line", "seed", "mark"]) view.data(name, numbers[name]);
      const [limit] = numbers.limit;
      const tolerance = curve.tolerance ?? 0;
      const near = close.checked && limit && tolerance > 0;
      const higher = data.metrics[curve.metric].higher;
      view.signal("bottom", near && higher ? limit.low - 2 * tolerance : null);
      view.signal("top", near && !higher ? limit.high + 2 * tolerance : null);
      view.signal("axis", axis.value).runAsync();
      describe(curve, numbers.several);
      list(numbers.all);
    };

    explorer.hidden = false;
    offer("clean");
    metric.addEventListener("change", () => { offer(condition.value); draw(); });
    for (const control of [condition, axis, close, ...boxes]) control.addEventListener("change", draw);
    for (const link of document.querySelectorAll("[data-metric]")) {
      link.addEventListener("click", () => {
        metric.value = link.dataset.metric;
        offer(link.dataset.condition);
        draw();
      });
    }
    vegaEmbed("#chart", charts.curve, options).then((result) => { view = result.view; views.push(view); draw(); document.body.dataset.ready = "yes"; });
  }
})();

"use strict";
// The breakdown: tables of drops, attacks and detector scores at one prune ratio, chosen once for all of them.
(() => {
  const find = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(find(id).textContent);
  const data = read("breakdown-data");
  const charts = read("charts");
  const options = { actions: false, renderer: "svg", logLevel: 1 };
  const percent = (ratio) => (100 * ratio).toFixed(1).replace(/\.0$/, "") + "\u202f%";
  const points = (drop) => (100 * drop).toFixed(1).replace(/^-0\.0$/, "0.0").replace("-", "\u2212");
  const target = find("target");
  const attack = find("attack");
  const detector = find("detector");
  const outliers = find("outliers");
  const views = { robust: null, scores: [] };

  // Ratios are measured: the ratio of a method nearest to the chosen one is shown.
  const near = (ratios) => {
    const chosen = Number(target.value);
    const best = ratios.reduce((a, b) => (Math.abs(b - chosen) < Math.abs(a - chosen) ? b : a), Infinity);
    return Math.abs(best - chosen) <= 0.02 ? best : null;
  };
  // As Python writes a ratio: 0.0, 0.5.
  const key = (ratio) => (ratio === null ? "" : Number.isInteger(ratio) ? `${ratio}.0` : String(ratio));

  const tables = () => {
    for (const table of document.querySelectorAll("[data-table]")) {
      const drops = data.tables[Number(table.dataset.table)];
      const at = drops.method === null ? Number(target.value) : near(data.ratios[drops.method]);
      table.querySelector(".at").textContent = at === null ? "not measured near this ratio" : percent(at);
      [...table.tBodies[0].rows].forEach((row, i) => drops.cells[i].forEach((cell, j) => {
        const place = cell && `${cell[0]}@${key(near(data.ratios[cell[0]]))}`;
        const drop = cell ? data.drops[cell[1]]?.[place] : undefined;
        const box = row.cells[j + 1];
        box.textContent = drop === undefined ? "–" : points(drop);
        box.style.setProperty("--d", drop === undefined ? 0 : Math.min(0.5, Math.max(0, drop)));
      }));
    }
  };

  const robust = () => {
    if (!views.robust) return;
    const rows = data.robust[attack.value].filter(([method, ratio]) => {
      const index = data.methods.indexOf(method);
      return index < 0 || ratio === near(data.ratios[index]);
    });
    const drawn = rows.map(([method, ratio, epsilon, value]) => ({
      method: data.methods.includes(method) ? method : "parent", line: method, epsilon, value,
      at: ratio > 0 ? percent(ratio) : "parent", radius: epsilon, accuracy: percent(value),
    }));
    views.robust.data("robust", drawn).runAsync();
    const unit = attack.value.endsWith("Linf") ? "in units of 1/255" : "for images in [0, 1]";
    find("robust-note").textContent = `Accuracy over the radius, ${unit}; at 0 that of the same images without attack. Grey: the parent; in colour and with their marks the candidates.`;
  };

  const shares = (counts) => {
    const total = counts.reduce((sum, one) => sum + one, 0) || 1;
    return counts.map((one) => one / total);
  };
  const scores = () => {
    const histograms = data.scores[detector?.value];
    if (!histograms) return;
    views.scores.forEach((view, index) => {
      const at = near(data.ratios[index]);
      const rows = [];
      for (const [model, who] of [["parent", "dense@0.0"], ["candidate", `${data.methods[index]}@${key(at)}`]]) {
        for (const [sample, name] of [["known", "test"], ["outliers", outliers.value]]) {
          const counts = histograms.counts[`${who}@${name}`];
          if (!counts) continue;
          const all = shares(counts);
          [...all, all[all.length - 1]].forEach((share, i) => rows.push({ model, sample, score: histograms.edges[i], share }));
        }
      }
      document.querySelector(`[data-scores-note="${index}"]`).textContent = at === null ? " not measured near this ratio" : ` ${percent(at)}`;
      view.data("scores", rows).runAsync();
    });
  };
  const offer = () => {
    const wanted = outliers.value;
    const sets = data.scores[detector.value].sets;
    outliers.replaceChildren(...sets.map((name) => new Option(name.replaceAll("-", " "), name)));
    if (sets.includes(wanted)) outliers.value = wanted;
  };

  const drawn = async (holder, chart) => {
    const { view } = await vegaEmbed(holder, chart, options);
    (window.evalsuiteViews ??= []).push(view);
    return view;
  };
  const draw = async () => {
    // One after the other, so that the page answers in between.
    for (const holder of document.querySelectorAll("[data-chart]")) {
      await drawn(holder, charts.diagrams[Number(holder.dataset.chart)]);
    }
    for (const holder of document.querySelectorAll("[data-static]")) {
      await drawn(holder, charts[holder.dataset.static]);
    }
    if (attack) {
      views.robust = await drawn("#robust", charts.robust);
      robust();
    }
    for (const holder of document.querySelectorAll("[data-scores]")) {
      views.scores.push(await drawn(holder, charts.scores[Number(holder.dataset.scores)]));
    }
    scores();
    document.body.dataset.drawn = "yes";
  };

  for (const part of document.querySelectorAll(".script")) part.hidden = false;
  if (detector) offer();
  target?.addEventListener("change", () => { tables(); robust(); scores(); });
  attack?.addEventListener("change", robust);
  detector?.addEventListener("change", () => { offer(); scores(); });
  outliers?.addEventListener("change", scores);
  if (target) tables();
  draw();
})();

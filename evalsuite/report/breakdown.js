"use strict";
// The breakdown: tables of drops, attacks and detector scores at one prune ratio, chosen once for all of them.
(() => {
  const { find, read, percent, drawn, charts } = window.evalsuite;
  const data = read("breakdown-data");
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

  const place = (cell) => `${cell[0]}@${key(near(data.ratios[cell[0]]))}`;
  const dropOf = (cell) => (cell ? data.drops[cell[1]]?.[place(cell)] : undefined);
  // Tables of a block share the scale of their colours, a point of accuracy at least.
  const scales = () => {
    const largest = new Map();
    for (const { block, cells } of data.tables) {
      const drops = cells.flat().map(dropOf).filter((drop) => drop !== undefined).map(Math.abs);
      largest.set(block, Math.max(data.smallest, largest.get(block) ?? 0, ...drops));
    }
    return largest;
  };
  const loss = (cells) => {
    const drops = cells.map(dropOf).filter((drop) => drop !== undefined);
    return drops.length ? drops.reduce((sum, drop) => sum + drop, 0) / drops.length : -Infinity;
  };

  const tables = () => {
    const largest = scales();
    for (const table of document.querySelectorAll("[data-table]")) {
      const drops = data.tables[Number(table.dataset.table)];
      const scale = largest.get(drops.block);
      const at = drops.method === null ? Number(target.value) : near(data.ratios[drops.method]);
      table.querySelector(".at").textContent = at === null ? "not measured near this ratio" : percent(at);
      table.querySelectorAll(".end").forEach((end, i) => { end.textContent = points(i ? scale : -scale); });
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => a.dataset.row - b.dataset.row);
      rows.forEach((row, i) => drops.cells[i].forEach((cell, j) => {
        const drop = dropOf(cell);
        const box = row.cells[j + 1];
        box.textContent = drop === undefined ? "–" : points(drop);
        box.className = `num ${(drop ?? 0) < 0 ? "gain" : "loss"}${cell && data.failing[cell[1]]?.includes(place(cell)) ? " fails" : ""}`;
        box.style.setProperty("--d", Math.min(1, Math.abs(drop ?? 0) / scale));
      }));
      body.append(...rows.map((row, i) => [row, loss(drops.cells[i])]).sort((a, b) => b[1] - a[1]).map(([row]) => row));
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

  const draw = async () => {
    // One after the other, so that the page answers in between.
    if (attack) {
      views.robust = await drawn("#robust", charts.robust);
      find("robust").closest("figure").rows = () => views.robust.data("robust").map(({ line, at, epsilon, value }) => ({ model: line, ratio: at, attack: attack.value, epsilon, value }));
      robust();
    }
    for (const holder of document.querySelectorAll("[data-scores]")) {
      const view = await drawn(holder, charts.scores[Number(holder.dataset.scores)]);
      holder.closest("figure").rows = () => view.data("scores").map(({ model, sample, score, share }) => ({ model, sample, score, share }));
      views.scores.push(view);
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

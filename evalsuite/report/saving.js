"use strict";
// Charts as PNG, SVG and CSV, and texts to the clipboard.
(() => {
  const { charts, curves } = window.evalsuite;
  const button = (text, label, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.setAttribute("aria-label", label);
    made.addEventListener("click", act);
    return made;
  };
  const copied = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = document.createElement("textarea"); // where the clipboard needs a secure page
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };
  const copier = (words, text) => {
    const made = button(words, words, async () => {
      made.textContent = (await copied(text())) ? "Copied" : "Not copied";
      setTimeout(() => { made.textContent = words; }, 2000);
    });
    return made;
  };

  // Outside the page its colours have no names, so each is written out.
  const stand = (figure) => {
    const style = getComputedStyle(document.documentElement);
    const shown = [...figure.querySelectorAll("svg")].find((svg) => !svg.classList.contains("swatch"));
    const box = shown.getBoundingClientRect();
    const copy = shown.cloneNode(true);
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("width", box.width);
    copy.setAttribute("height", box.height);
    const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of [["width", "100%"], ["height", "100%"], ["fill", "var(--paper)"]]) ground.setAttribute(name, value);
    copy.prepend(ground);
    const text = new XMLSerializer().serializeToString(copy)
      .replace(/var\(--([\w-]+)\)/g, (_, name) => style.getPropertyValue(`--${name}`).trim());
    return { text, width: box.width, height: box.height };
  };
  const png = async (figure) => {
    const { text, width, height } = stand(figure);
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await new Promise((done, failed) => { image.onload = done; image.onerror = failed; });
    const canvas = document.createElement("canvas");
    const scale = 3;
    canvas.width = scale * width;
    canvas.height = scale * height;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => { canvas.toBlob(done, "image/png"); });
  };
  const csv = (rows) => {
    const cell = (value) => {
      const text = String(value ?? "");
      return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
    return [names, ...rows.map((row) => names.map((name) => row[name]))].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  };
  const rowsOfCurve = (metric, condition) => {
    const curve = curves.curves.find((item) => item.metric === metric && item.condition === condition);
    return (curve?.points ?? []).map(([index, value, low, high]) => {
      const { method, seed, target_ratio, ratio } = curves.candidates[index];
      return { method, seed, target_ratio, ratio, metric, condition, value, low, high, n: curve.n };
    });
  };
  const rows = (figure) => {
    if (figure.rows) return figure.rows();
    const { metric, condition } = figure.dataset;
    return metric ? rowsOfCurve(metric, condition) : charts.rows[figure.dataset.rows] ?? [];
  };
  const texts = { SVG: (figure) => stand(figure).text, CSV: (figure) => csv(rows(figure)) };
  const makers = {
    PNG: png,
    SVG: (figure) => new Blob([texts.SVG(figure)], { type: "image/svg+xml" }),
    CSV: (figure) => new Blob([texts.CSV(figure)], { type: "text/csv" }),
  };
  const save = async (figure, kind) => {
    const link = document.createElement("a");
    const name = figure.fileName?.() ?? figure.dataset.name;
    link.download = `${name.toLowerCase().replace(/[^\w.]+/g, "-").replace(/^-|-$/g, "")}.${kind.toLowerCase()}`;
    link.href = URL.createObjectURL(await makers[kind](figure));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  for (const figure of document.querySelectorAll("figure[data-name]")) {
    const bar = document.createElement("div");
    bar.className = "save";
    for (const kind of Object.keys(makers)) bar.append(button(kind, `Save ${figure.dataset.name} as ${kind}`, () => save(figure, kind)));
    figure.append(bar);
  }
  for (const box of document.querySelectorAll(".command")) box.append(copier("Copy", () => box.querySelector("code").textContent));
  Object.assign(window.evalsuite, { copier, texts });
})();

"use strict";
// What every part of the page uses, and explanations, the filter of thresholds, and paper.
(() => {
  const find = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(find(id).textContent);
  const views = [];
  // As evalsuite.report.labels.rounded: as many decimals as tell one image more or less apart.
  const rounded = (value, n) => {
    const places = n ? Math.min(6, Math.max(1, Math.ceil(Math.log10(n) - 1e-9))) : 3;
    const whole = String(Math.trunc(Math.abs(value))).length - 1;
    const text = value.toLocaleString("en", { minimumFractionDigits: Math.max(0, places - whole), maximumFractionDigits: Math.max(0, places - whole) });
    return (/[1-9]/.test(text) ? text : text.replace("-", "")).replace("-", "\u2212");
  };
  const percent = (ratio) => (100 * ratio).toFixed(1).replace(/\.0$/, "") + "\u202f%";
  const drawn = async (holder, chart) => {
    // Interpreted expressions: a policy that lets Vega compile them would let any text be run.
    const { view } = await vegaEmbed(holder, chart, { actions: false, renderer: "svg", logLevel: 1, ast: true });
    views.push(view);
    return view;
  };
  window.evalsuite = { find, read, views, rounded, percent, drawn, charts: read("charts"), curves: read("curve-data") };

  // Explanations: a tooltip that also opens for the keyboard; without scripts the title attribute is shown.
  const tip = find("tip");
  const gap = 8;
  const conceal = () => { tip.hidden = true; };
  // Below what it explains, else above it, else beside it: never over it.
  const place = (box) => {
    const { offsetWidth: width, offsetHeight: height } = tip;
    const fit = (start, size, room) => Math.max(gap, Math.min(start, room - size - gap));
    if (box.bottom + gap + height <= innerHeight) return [fit(box.left, width, innerWidth), box.bottom + gap];
    if (box.top - gap - height >= 0) return [fit(box.left, width, innerWidth), box.top - gap - height];
    const left = box.right + gap + width <= innerWidth ? box.right + gap : Math.max(0, box.left - gap - width);
    return [left, fit(box.top, height, innerHeight)];
  };
  const explain = (target) => {
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    const [left, top] = place((target.closest("td, tr") ?? target).getBoundingClientRect());
    tip.style.left = `${left}px`;
    tip.style.top = `${top}px`;
  };
  for (const target of document.querySelectorAll(".matrix [title], .every [title], .bars [title], .step[title]")) {
    target.dataset.tip = target.title;
    if (target.tagName === "A" || target.tagName === "TD") target.setAttribute("aria-description", target.title);
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
  // A link into a folded part opens it.
  const unfold = () => {
    const target = find(location.hash.slice(1));
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    if (target?.tagName === "DETAILS") target.scrollIntoView();
  };
  addEventListener("hashchange", unfold);
  unfold();

  // Paper: all details open, and wide charts drawn again at its width, or their labels would shrink with them.
  const paper = 680;
  let wide = [];
  addEventListener("beforeprint", () => {
    for (const item of document.querySelectorAll("details")) item.open = true;
    wide = views.filter((view) => view.container().clientWidth > paper);
    for (const view of wide) view.width(paper).run();
  });
  addEventListener("afterprint", () => { for (const view of wide) view.width(view.container().clientWidth).run(); });
})();

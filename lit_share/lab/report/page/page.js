"use strict";
(() => {
  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg" },
  };
  const night = matchMedia("(prefers-color-scheme: dark)");
  let isPrinted = false;
  // What is drawn on paper in black or gray has to be seen on a dark screen, too.
  const day = { ink: "#2a3f5f", grid: "#e1e5ed", zero: "#cfd6e2", paper: "#ffffff" };
  const dark = { ink: "#d0d4da", grid: "#31363e", zero: "#4a515b", paper: "#16181c" };
  const lighter = { "#000000": "#e6e6e6", "#666666": "#a3a9b2", "#0072B2": "#4ea3dc", "rgba(0, 0, 0, 0.15)": "rgba(230, 230, 230, 0.15)" };
  const isDark = () => night.matches && !isPrinted;
  const recolored = (value) => {
    if (typeof value === "string") return lighter[value] ?? value;
    if (Array.isArray(value)) return value.map(recolored);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, recolored(item)]));
  };
  const themed = (figure) => {
    const { ink, grid, zero, paper } = isDark() ? dark : day;
    const layout = { ...figure.layout, paper_bgcolor: paper, plot_bgcolor: paper };
    layout.font = { ...layout.font, color: ink };
    for (const [name, axis] of Object.entries(layout)) {
      if (/^[xy]axis/.test(name)) layout[name] = { ...axis, gridcolor: grid, zerolinecolor: zero, linecolor: zero };
    }
    if (!isDark()) return { data: figure.data, layout };
    const shown = recolored(figure.data.map((trace) => (trace.type === "heatmap" ? {} : trace)));
    const data = figure.data.map((trace, i) => (trace.type === "heatmap" ? trace : shown[i]));
    return { data, layout: { ...layout, hoverlabel: { ...layout.hoverlabel, bgcolor: "#20242a", font: { color: ink } } } };
  };
  const read = (chart) => themed(JSON.parse(chart.parentElement.querySelector("script").textContent));
  const isOpen = (chart) => chart.closest("details:not([open])") === null;
  // A chart in closed details has no width: it is drawn when they are opened.
  const draw = (within) => {
    for (const chart of within.querySelectorAll(".chart")) {
      if (!isOpen(chart) || chart.dataset.drawn) continue;
      chart.dataset.drawn = "yes";
      const figure = read(chart);
      Plotly.newPlot(chart, figure.data, figure.layout, config);
    }
  };
  for (const details of document.querySelectorAll("details")) {
    details.addEventListener("toggle", () => draw(details));
  }
  draw(document);
  // Paper is narrower than most windows, and the charts are measured before the page is laid out for it.
  const resize = (layout) => {
    for (const chart of document.querySelectorAll(".chart[data-drawn]")) Plotly.relayout(chart, layout(chart));
  };
  const restyle = () => {
    for (const chart of document.querySelectorAll(".chart[data-drawn]")) {
      const { data, layout } = read(chart);
      Plotly.react(chart, data, layout, config);
    }
  };
  night.addEventListener("change", restyle);
  addEventListener("beforeprint", () => {
    isPrinted = true;
    if (night.matches) restyle();
    resize((chart) => ({ width: chart.closest(".small") ? 325 : 660 }));
  });
  addEventListener("afterprint", () => {
    isPrinted = false;
    if (night.matches) restyle();
    resize(() => ({ width: null, autosize: true }));
  });
})();

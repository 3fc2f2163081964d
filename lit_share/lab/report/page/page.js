"use strict";
(() => {
  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg" },
  };
  const isOpen = (chart) => chart.closest("details:not([open])") === null;
  // A chart in closed details has no width: it is drawn when they are opened.
  const draw = (within) => {
    for (const chart of within.querySelectorAll(".chart")) {
      if (!isOpen(chart) || chart.dataset.drawn) continue;
      chart.dataset.drawn = "yes";
      const figure = JSON.parse(chart.parentElement.querySelector("script").textContent);
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
  addEventListener("beforeprint", () => resize((chart) => ({ width: chart.closest(".small") ? 325 : 660 })));
  addEventListener("afterprint", () => resize(() => ({ width: null, autosize: true })));
})();

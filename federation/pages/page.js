"use strict";
(function () {
  var options = { displayModeBar: false, responsive: true };
  document.querySelectorAll("script[data-plot]").forEach(function (source) {
    var spec = JSON.parse(source.textContent);
    Plotly.newPlot(source.getAttribute("data-plot"), spec.data, spec.layout, options);
  });
  // a closed <details> does not print
  addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (one) { one.open = true; });
  });
})();

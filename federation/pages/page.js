"use strict";
(function () {
  var root = document.documentElement;
  var dark = matchMedia("(prefers-color-scheme: dark)");
  var drawn = [];
  var opened = [];

  // plotly.js lies packed in the page
  function unpacked(text) {
    var bytes = Uint8Array.from(atob(text), function (c) { return c.charCodeAt(0); });
    var stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  // a value that is the name of a colour becomes that colour, as page.css has it now
  function coloured(text) {
    var style = getComputedStyle(root);
    return JSON.parse(text, function (key, value) {
      var name = typeof value === "string" && /^var\((--plot-[a-z0-9]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    });
  }

  function draw(one) {
    var spec = coloured(one.text);
    if (one.choice) { spec.data.forEach(function (trace) { choose(trace, one.choice); }); }
    if (one.width) { spec.layout.width = one.width; }
    Plotly.react(one.place, spec.data, spec.layout, { displayModeBar: false, responsive: !one.width });
  }

  function drawAll() { drawn.forEach(draw); }

  // traces without meta are of all hospitals; "alone" belongs to one that is chosen by itself
  function shown(trace, choice) {
    if (trace.meta === undefined) { return true; }
    if (choice.slice(0, 3) === "of:") { return trace.meta.of === choice.slice(3); }
    return choice === "each" && !trace.meta.alone;
  }

  function choose(trace, choice) {
    trace.visible = shown(trace, choice);
    if (trace.visible && trace.meta && choice !== "each") {
      trace.showlegend = true;
      if (!trace.meta.alone) {
        var colour = getComputedStyle(root).getPropertyValue("--plot-2").trim();
        trace.line = { color: colour, width: 2.6, dash: "dash" };
      }
    }
  }

  function choosers() {
    document.querySelectorAll("select[data-figures]").forEach(function (select) {
      var followers = select.dataset.figures.split(" ");
      function follow(first) {
        drawn.forEach(function (one) {
          if (followers.indexOf(one.name) < 0) { return; }
          one.choice = select.value;
          if (!first) { draw(one); }
          one.place.closest("figure").querySelectorAll("tbody tr").forEach(function (row) {
            var of = row.firstElementChild;
            row.hidden = select.value.slice(0, 3) === "of:" && !of.classList.contains("total") &&
              of.firstChild.textContent !== select.value.slice(3);
          });
        });
      }
      if (select.options.length <= 14) { select.value = "each"; }
      follow(true);
      select.addEventListener("change", function () { follow(false); });
    });
  }

  // "1,234", "−0.3", "<10", "42%" by their number; what has none comes last
  function sortKey(cell) {
    if (!cell || cell.colSpan > 1) { return null; }
    var text = (cell.firstChild ? cell.firstChild.textContent : "").trim();
    var number = parseFloat(text.replace(/[,<≤≥>=ε ]/g, "").replace("−", "-"));
    if (!isNaN(number)) { return number; }
    return text === "–" || text === "" || cell.className === "withheld" ? null : text.toLowerCase();
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") { return a - b; }
    if (typeof a !== typeof b) { return typeof a === "number" ? -1 : 1; }
    return a < b ? -1 : a > b ? 1 : 0;
  }

  function sort(table, head, column) {
    var body = table.tBodies[0];
    var direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    var sign = direction === "ascending" ? 1 : -1;
    var rows = Array.from(body.rows).map(function (row) {
      var top = row.cells[0].classList.contains("total");
      return { row: row, top: top, key: sortKey(row.cells[column]) };
    });
    rows.sort(function (a, b) {
      if (a.top || b.top) { return b.top - a.top; }
      if (a.key === null || b.key === null) { return (a.key === null) - (b.key === null); }
      return sign * compare(a.key, b.key);
    });
    rows.forEach(function (one) { body.appendChild(one.row); });
    Array.from(table.tHead.rows[0].cells).forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", direction);
  }

  // a spreadsheet must not take a name for a formula
  function csvField(text) {
    text = text.trim().replace(/^−/, "-");
    if (/^[=+@\t]/.test(text) || (/^-/.test(text) && isNaN(Number(text)))) { text = "'" + text; }
    return /[",\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  }

  function csv(table) {
    var noted = Array.from(table.tHead.rows[0].cells).map(function (_, k) {
      return Array.from(table.tBodies[0].rows).some(function (row) {
        return row.cells[k] && row.cells[k].querySelector("small");
      });
    });
    function line(cells, label) {
      return cells.map(function (cell, k) {
        var small = cell.querySelector("small");
        var text = Array.from(cell.childNodes).filter(function (n) { return n !== small; })
          .map(function (n) { return n.textContent; }).join("");
        var note = label ? text + " (interval or note)" : small ? small.textContent : "";
        return csvField(text) + (noted[k] ? "," + csvField(note) : "");
      }).join(",");
    }
    var rows = [line(Array.from(table.tHead.rows[0].cells), true)];
    Array.from(table.tBodies[0].rows).forEach(function (row) { rows.push(line(Array.from(row.cells), false)); });
    return "\ufeff" + rows.join("\r\n") + "\r\n";
  }

  function download(table, caption) {
    var link = document.createElement("a");
    var name = (document.querySelector("h1").textContent + " " + caption).toLowerCase();
    link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
    link.download = name.replace(/[^a-z0-9]+/g, "-").slice(0, 90) + ".csv";
    link.click();
    setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
  }

  function tables() {
    document.querySelectorAll("table").forEach(function (table) {
      var caption = table.caption.textContent.trim();
      var rows = table.tBodies[0].rows.length;
      if (rows > 2) {
        Array.from(table.tHead.rows[0].cells).forEach(function (head, column) {
          if (!head.textContent) { return; }
          var button = document.createElement("button");
          button.type = "button";
          button.className = "sort";
          button.textContent = head.textContent;
          button.title = "Sort";
          button.addEventListener("click", function () { sort(table, head, column); });
          head.textContent = "";
          head.appendChild(button);
        });
      }
      if (rows > 0) {
        var save = document.createElement("button");
        save.type = "button";
        save.className = "csv";
        save.textContent = "Download CSV";
        save.setAttribute("aria-label", "Download CSV: " + caption);
        save.addEventListener("click", function () { download(table, caption); });
        table.parentNode.after(save);
      }
    });
  }

  // of a long table paper gets the totals, of a wide one a word: the file and its CSV have the rest
  function forPaper() {
    document.querySelectorAll("table").forEach(function (table) {
      var rows = Array.from(table.tBodies[0].rows);
      var totals = rows.filter(function (row) { return row.cells[0].classList.contains("total"); });
      var wide = table.tHead.rows[0].cells.length > 12;
      if (!wide && (rows.length <= 60 || !totals.length)) { return; }
      (wide ? [table.parentNode] : rows).forEach(function (one) {
        if (totals.indexOf(one) < 0) { one.dataset.paper = "no"; }
      });
      var left = document.createElement("p");
      left.className = "note paper-only";
      left.textContent = wide ? table.caption.textContent.trim() + ": too wide for paper; open the page on a screen for it." :
        "The first rows alone; the page on a screen has all " + rows.length + ".";
      table.parentNode.after(left);
    });
  }

  // paper is light and narrow, and a closed <details> does not print
  addEventListener("beforeprint", function () {
    root.dataset.scheme = "light";
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach(function (one) { one.open = true; });
    drawn.forEach(function (one) { one.width = 680; });
    drawAll();
  });
  addEventListener("afterprint", function () {
    delete root.dataset.scheme;
    opened.forEach(function (one) { one.open = false; });
    drawn.forEach(function (one) { one.width = undefined; });
    drawAll();
  });

  forPaper();
  tables();
  document.querySelectorAll("script[data-plot]").forEach(function (source) {
    var name = source.dataset.plot;
    drawn.push({ name: name, place: document.getElementById(name), text: source.textContent });
  });
  choosers();
  if (!drawn.length) { return; }
  if (typeof DecompressionStream === "undefined") {
    drawn.forEach(function (one) {
      one.place.textContent = "This browser is too old to draw the figure. Its numbers are below.";
      one.place.className = "note";
      one.place.closest("figure").querySelector("details").open = true;
    });
    return;
  }
  unpacked(document.getElementById("plotly").textContent).then(function (code) {
    var script = document.createElement("script");
    script.textContent = code;
    document.head.appendChild(script);
    drawAll();
    root.dataset.drawn = "true";
    dark.addEventListener("change", drawAll);
  });
})();

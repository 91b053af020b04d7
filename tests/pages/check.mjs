// Opens HTML pages in headless Chromium, light at desktop and dark at phone width, and reports what
// axe-core finds, what the page logs, what it asks the network for, what is cut off, and what does
// not work by keyboard. With --shots all four of them are opened and kept as pictures, and as a PDF.
//   node tests/pages/check.mjs [--shots FOLDER] PAGE...
// axe-core and playwright-core are taken from $WARDROUND_PAGES/node_modules.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const tools = createRequire(join(process.env.WARDROUND_PAGES, "package.json"));
const { chromium } = tools("playwright-core");
const axe = readFileSync(tools.resolve("axe-core/axe.min.js"), "utf8");

const given = process.argv.slice(2);
const shots = given[0] === "--shots" ? given.splice(0, 2)[1] : null;
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});

const widths = { desktop: 1280, phone: 400 };
const findings = [];
for (const page of given) {
  for (const [device, width] of Object.entries(widths)) {
    for (const scheme of ["light", "dark"]) {
      if (!shots && (device === "desktop") !== (scheme === "light")) continue;
      findings.push(...(await look(page, device, width, scheme)).map((one) => ({ page, device, scheme, ...one })));
    }
  }
}
await browser.close();
console.log(JSON.stringify(findings, null, 1));
process.exitCode = findings.length ? 1 : 0;

async function look(file, device, width, scheme) {
  const found = [];
  const context = await browser.newContext({
    viewport: { width, height: device === "phone" ? 800 : 900 },
    colorScheme: scheme,
  });
  const page = await context.newPage();
  page.on("pageerror", (error) => found.push({ kind: "error", what: String(error) }));
  page.on("console", (line) => line.type() === "error" && found.push({ kind: "logged", what: line.text() }));
  page.on("request", (request) => {
    if (!/^(file|data|blob):/.test(request.url())) found.push({ kind: "network", what: request.url() });
  });
  await page.goto(pathToFileURL(resolve(file)).href);
  await page.waitForFunction(() => !document.querySelector(".plot") || document.documentElement.dataset.drawn);
  if (shots) await page.screenshot({ path: shot(file, device, scheme, "first") });
  if (device === "desktop" && scheme === "light") found.push(...(await use(page)));
  await page.evaluate(() => document.querySelectorAll("details").forEach((one) => (one.open = true)));
  if (shots) await page.screenshot({ path: shot(file, device, scheme, "whole"), fullPage: true });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wide > 0) found.push({ kind: "cut off", what: `the page is ${wide} pixels wider than the window` });
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run({ resultTypes: ["violations"] }));
  for (const one of violations) {
    if (!["serious", "critical"].includes(one.impact)) continue;
    found.push({ kind: "axe", what: `${one.id}: ${one.help}`, at: one.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)) });
  }
  if (shots && device === "desktop" && scheme === "dark") {
    await page.pdf({ path: shot(file, "print", scheme, "whole").replace(/png$/, "pdf"), format: "A4", preferCSSPageSize: true });
  }
  await context.close();
  return found;
}

// by keyboard alone: sort the longest table, save it, choose whose curves are drawn
async function use(page) {
  const found = [];
  const table = await page.evaluateHandle(() =>
    [...document.querySelectorAll("main > section > .scroll table")]
      .sort((a, b) => b.tBodies[0].rows.length - a.tBodies[0].rows.length)[0]);
  const column = () => table.evaluate((one) => [...one.tBodies[0].rows].map((row) => row.cells[0].textContent));
  const before = await column();
  const head = await table.$("thead th");
  for (const order of ["ascending", "descending"]) {
    await (await head.$("button")).focus();
    await page.keyboard.press("Enter");
    if ((await head.getAttribute("aria-sort")) !== order) found.push({ kind: "sort", what: `the head is not ${order}` });
  }
  const after = await column();
  if (String([...before].sort()) !== String([...after].sort())) found.push({ kind: "sort", what: "rows were lost" });
  const save = await table.evaluateHandle((one) => one.closest(".scroll").nextElementSibling);
  const [download] = await Promise.all([page.waitForEvent("download"), save.focus().then(() => page.keyboard.press("Enter"))]);
  const lines = readFileSync(await download.path(), "utf8").trim().split("\r\n");
  if (lines.length !== after.length + 1) found.push({ kind: "csv", what: `${lines.length} lines for ${after.length} rows` });
  const choice = await page.$("select[data-figures]");
  if (choice) {
    const drawn = () => page.evaluate(() => [...document.querySelectorAll(".plot")].map((one) => one.data.filter((trace) => trace.visible !== false).length).join());
    const all = await drawn();
    await choice.focus();
    await page.keyboard.press("End"); // the last hospital
    if ((await drawn()) === all) found.push({ kind: "choice", what: "choosing one hospital drew the same" });
    await page.keyboard.press("Home");
  }
  return found;
}

function shot(file, device, scheme, part) {
  return join(shots, `${basename(dirname(resolve(file)))}-${device}-${scheme}-${part}.png`);
}

// Shows the table or figure that controls choose, sorts tables by a click on a column's head, copies, and shows the
// details of a cell in a dialog. Text from the results is set as text; the markup of tables and figures was escaped when
// the page was made.
"use strict";

const dialog = document.querySelector("dialog");
const title = document.getElementById("opened");
const content = dialog.querySelector(".content");
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "1 2", "12 4"];

/** An element with attributes; its children are elements, strings, lists of them, or null for none. */
function make(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "text", "line"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.flat().filter(child => child !== null));
  return element;
}

// Sorting

const number = text => parseFloat(text.replace(/^[<\s]+/, ""));

/** Order of two texts: numbers before words, dashes last whichever way the column is sorted. */
function compare(a, b, sign) {
  const [x, y] = [number(a), number(b)];
  const empty = [a, b].map(text => /^\s*(\u2013|$)/.test(text));
  if (empty[0] || empty[1]) return empty[0] - empty[1];
  if (!isNaN(x) && !isNaN(y)) return sign * (x - y);
  if (isNaN(x) !== isNaN(y)) return isNaN(x) - isNaN(y);
  return sign * a.localeCompare(b, "en", { numeric: true });
}

/** Numbers fall first, words rise first; the third click restores the order of the report. */
function sort(head) {
  const table = head.closest("table"), body = table.tBodies[0], place = head.cellIndex;
  for (const [i, row] of [...body.rows].entries()) row.dataset.order ??= i;
  const text = row => place ? row.cells[place].textContent : row.cells[0].textContent.trim();
  const words = place === 0 || [...body.rows].every(row => isNaN(number(text(row))));
  const turns = words ? ["ascending", "descending", "none"] : ["descending", "ascending", "none"];
  const turn = turns[(turns.indexOf(head.ariaSort) + 1) % 3];
  for (const other of head.parentNode.cells) other.ariaSort = other === head ? turn : "none";
  const sign = turn === "ascending" ? 1 : -1;
  const byText = (a, b) => place ? compare(text(a), text(b), sign)
    : sign * text(a).localeCompare(text(b), "en", { numeric: true });
  body.append(...[...body.rows].sort((a, b) =>
    (turn === "none" ? 0 : byText(a, b)) || a.dataset.order - b.dataset.order));
}

document.addEventListener("click", event => {
  const button = event.target.closest("thead button");
  if (button) sort(button.closest("th"));
});

// Payloads

const unpacked = new Map();

/** The content of a packed element of the page, or null if there is none of that id. */
async function unpack(id) {
  const element = document.getElementById(id);
  if (!element) return null;
  if (!unpacked.has(id)) {
    const bytes = Uint8Array.from(atob(element.textContent), letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    unpacked.set(id, JSON.parse(await new Response(stream).text()));
  }
  return unpacked.get(id);
}

// Explorers: one table or figure at a time, by its facets

/** The choices that a control for `facet` offers: those that agree with the shown one in all facets before it. */
function offered(choices, shown, facet) {
  const facets = Object.keys(shown.facets), before = facets.slice(0, facets.indexOf(facet));
  return choices.filter(choice => facet in choice.facets && before.every(name => choice.facets[name] === shown.facets[name]));
}

/** The choice with this value of a facet that agrees with the shown one in most of the others. */
function nearest(choices, shown, facet, value) {
  const agreeing = choice => Object.entries(shown.facets).filter(([name, of]) => choice.facets[name] === of).length;
  return offered(choices, shown, facet).filter(choice => choice.facets[facet] === value)
    .reduce((best, choice) => agreeing(choice) > agreeing(best) ? choice : best);
}

function controls(choices, shown, choose) {
  return Object.keys(shown.facets).map(facet => {
    const values = [...new Set(offered(choices, shown, facet).map(choice => choice.facets[facet]))];
    if (values.length < 2) return null;
    const select = make("select", { name: facet }, values.map(value => make("option", { value }, value)));
    select.value = shown.facets[facet];
    select.addEventListener("change", () => choose(nearest(choices, shown, facet, select.value), facet));
    return make("label", {}, facet === "dataset" ? "data set" : facet, select);
  }).filter(Boolean);
}

/** Gives an explorer its controls. What is chosen stands in the address, as `?tables=NAME`. */
function explore(section) {
  const name = section.dataset.name, choices = JSON.parse(section.dataset.choices);
  const [group, place] = [section.querySelector(".choices"), section.querySelector(".shown")];
  const choose = async (choice, facet) => {
    const items = await unpack(`items-${name}`);
    place.innerHTML = items[choice.name].html;
    section.dataset.shown = choice.name;
    group.replaceChildren(...controls(choices, choice, choose));
    group.querySelector(`[name="${facet}"]`)?.focus();
    const address = new URL(location.href);
    address.searchParams.set(name, choice.name);
    history.replaceState(null, "", address);
  };
  section.dataset.shown = choices[0].name;
  group.replaceChildren(...controls(choices, choices[0], choose));
  const asked = choices.find(choice => choice.name === new URLSearchParams(location.search).get(name));
  return asked ? choose(asked) : null;
}

// Copying

document.addEventListener("click", async event => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const section = button.closest(".explorer");
  const text = button.dataset.text ?? (await unpack(`items-${section.dataset.name}`))[section.dataset.shown][button.dataset.copy];
  await navigator.clipboard.writeText(text);
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
});

// Tables in the dialog

const link = (group, category, text) =>
  make("a", { href: `#cell/${encodeURIComponent(group)}/${encodeURIComponent(category)}` }, text);
const nameOf = group => `${group.variant}-${group.dataset}-${group.protocol}`;
const FRACTION = 4;  // the place in a metric's entry that tells whether its values are shown in percent
const write = (value, digits, isFraction) => typeof value !== "number" ? "\u2013"
  : isFraction ? (100 * value).toFixed(digits) : String(Number(value.toPrecision(4)));

/** Mean and sample standard deviation, as the tables of the report print them. */
function spread(values, isFraction) {
  const known = values.filter(value => typeof value === "number");
  if (!known.length) return "\u2013";
  const mean = known.reduce((a, b) => a + b, 0) / known.length;
  const variance = known.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (known.length - 1);
  return write(mean, 1, isFraction) + (known.length > 1 ? ` \u00b1 ${write(Math.sqrt(variance), 1, isFraction)}` : "");
}

function table(caption, heads, rows, foot = []) {
  const row = ([first, ...cells]) => make("tr", {}, make("th", { scope: "row" }, first), cells.map(cell => make("td", {}, cell)));
  const head = heads.map(text => make("th", { scope: "col", "aria-sort": "none" }, make("button", { type: "button" }, text)));
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Table: ${caption}` },
    make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, head)),
      make("tbody", {}, rows.map(row)), foot.length ? make("tfoot", {}, row(foot)) : null));
}

/** The label of a metric: its name, and its convention, subset and selection where they are not the usual ones. */
function metricName([metric, convention, subset, selection]) {
  const more = [convention === "folder label" ? "" : convention, subset === "all" ? "" : subset,
    selection === "last" ? "" : selection].filter(Boolean);
  return metric + (more.length ? ` (${more.join("; ")})` : "");
}

const inPercent = group => group.metrics.every(metric => metric[FRACTION]) ? ", percent" : "";

function scoreTable(group, cell) {
  const seeds = Object.keys(cell.scores);
  const rows = group.metrics.map((metric, i) => {
    const values = seeds.map(seed => cell.scores[seed][i]);
    const why = values.find(value => typeof value === "string" && value);
    return [metricName(metric), spread(values, metric[FRACTION]), ...values.map(value => write(value, 2, metric[FRACTION])), ...(why ? [why] : [])];
  });
  return table(`Scores${inPercent(group)}`, ["metric", "mean \u00b1 deviation", ...seeds.map(seed => `seed ${seed}`)], rows);
}

/** The mean over categories, within each seed; of a seed that lacks one that others have, there is none. */
function means(group, i) {
  const cells = Object.values(group.categories).map(cell => cell.scores);
  const known = cells.filter(scores => Object.values(scores).some(values => typeof values[i] === "number"));
  const value = (scores, seed) => typeof scores[seed]?.[i] === "number" ? scores[seed][i] : NaN;
  const seeds = [...new Set(cells.flatMap(Object.keys))];
  return seeds.map(seed => known.reduce((sum, scores) => sum + value(scores, seed), 0) / known.length).filter(mean => !isNaN(mean));
}

/** Every category of a group, each leading to its own cell, and their mean. */
function categoryTable(group) {
  const rows = Object.entries(group.categories).map(([category, cell]) => [
    link(nameOf(group), category, category),
    ...group.metrics.map((metric, i) => spread(Object.values(cell.scores).map(scores => scores[i]), metric[FRACTION]))]);
  return table(`Mean \u00b1 deviation over seeds${inPercent(group)}`, ["category", ...group.metrics.map(metricName)], rows,
    ["mean", ...group.metrics.map((metric, i) => spread(means(group, i), metric[FRACTION]))]);
}

// Curves

/** A chart of `lines`, each { name, key, dash, x, y }; lines of one key share a colour and an entry of the legend. */
function chart(heading, lines, { label, upward, log = false, diagonal = false, across, up }) {
  const [left, top, width, height] = [62, 8, 240, 160];
  const flat = axis => lines.flatMap(line => line[axis]);
  const scaled = log ? lines.map(line => ({ ...line, y: line.y.map(Math.log10) })) : lines;
  const ys = scaled.flatMap(line => line.y);
  const [x0, x1] = across ?? [Math.min(...flat("x")), Math.max(...flat("x"))];
  const [y0, y1] = up ?? [Math.min(...ys), Math.max(...ys)];
  const px = x => left + width * (x - x0) / (x1 - x0 || 1), py = y => top + height * (1 - (y - y0) / (y1 - y0 || 1));
  const path = line => "M" + line.x.map((x, i) => `${px(x).toFixed(1)} ${py(line.y[i]).toFixed(1)}`).join("L");
  const short = value => String(Number(value.toPrecision(2)));
  const ticks = (low, high) => [low, (low + high) / 2, high];
  const steps = log ? [...new Set(ticks(x0, x1).map(Math.round))] : ticks(x0, x1);  // epochs are whole
  const drawing = make("svg", { viewBox: "0 0 310 208", role: "img", "aria-label": `${heading}: ${upward} against ${label}` },
    make("path", { class: "axis", d: `M${left} ${top}V${top + height}H${left + width}` }),
    diagonal ? make("path", { class: "guide", d: `M${left} ${top + height}L${left + width} ${top}` }) : null,
    steps.map((x, i) => make("text", { x: px(x), y: top + height + 15, "text-anchor": i === 0 ? "start" : x === x1 ? "end" : "middle" }, String(+x.toFixed(2)))),
    ticks(y0, y1).map(y => make("text", { x: left - 6, y: py(y) + 4, "text-anchor": "end" }, short(log ? 10 ** y : y))),
    make("text", { x: left + width / 2, y: 204, "text-anchor": "middle" }, label),
    make("text", { transform: `translate(11 ${top + height / 2}) rotate(-90)`, "text-anchor": "middle" }, upward),
    scaled.map(line => make("path", { class: `line k${line.key % 8}`, "stroke-dasharray": DASHES[line.dash % DASHES.length], d: path(line) })));
  const legend = lines.filter((line, i) => line.name && lines.findIndex(other => other.name === line.name) === i);
  return make("figure", {}, make("h4", {}, heading), drawing, make("ul", {}, legend.map(line => make("li", {},
    make("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" }, make("path", { class: `line k${line.key % 8}`, "stroke-dasharray": DASHES[line.dash % DASHES.length], d: "M0 4H26" })),
    make("span", {}, line.name)))));
}

function curves(cell, kind, heading, label, upward) {
  const lines = Object.entries(cell.curves).filter(([, found]) => found[kind]).map(([seed, found], i) => ({
    name: `seed ${seed}`, key: i, dash: i, x: found[kind][0].map(v => v / 1000), y: found[kind][1].map(v => v / 1000) }));
  const reach = Math.max(...lines.flatMap(line => line.x));
  return lines.length ? chart(heading, lines, { label, upward, across: [0, reach], up: [0, 1], diagonal: kind === "roc" }) : null;
}

/** Loss by epoch: a chart for each stage of the training, a colour for each term, a line for each seed. */
function losses(runs) {
  const terms = [...new Set(runs.flatMap(run => Object.keys(run.losses)))];
  const stages = [...new Set(terms.map(term => term.includes(": ") ? term.split(": ")[0] : ""))];
  return stages.map(stage => {
    const mine = terms.filter(term => (term.includes(": ") ? term.split(": ")[0] : "") === stage);
    const lines = mine.flatMap((term, key) => runs.filter(run => run.losses[term]).map(run => {
      const [epochs, values] = run.losses[term];
      const kept = epochs.map((epoch, i) => [epoch, values[i]]).filter(([, value]) => value > 0);
      return { name: stage ? term.slice(stage.length + 2) : term, key, dash: key, x: kept.map(pair => pair[0]), y: kept.map(pair => pair[1]) };
    })).filter(line => line.x.length);
    return lines.length ? chart(stage ? `Loss: ${stage}` : "Loss", lines, { label: "epoch", upward: "weighted loss term", log: true }) : null;
  });
}

function charts(drawn) {
  const found = drawn.filter(Boolean);
  return found.length ? [make("h3", {}, "Curves"), make("div", { class: "charts" }, found)] : [];
}

// Maps

async function maps(group, cell) {
  const seeds = Object.entries(cell.maps);
  const payload = await unpack(`payload-examples-${group.dataset}`);
  return seeds.flatMap(([seed, found], i) => {
    const examples = payload[found.examples];
    const first = i === 0 || seeds[i - 1][1].examples !== found.examples;
    return [
      first ? make("img", { src: `data:image/webp;base64,${examples.sheet}`, alt: `Test images, and below them the ground truth: ${examples.labels.join(", ")}` }) : null,
      first ? make("ol", {}, examples.labels.map(label => make("li", {}, label))) : null,
      make("div", { class: "overlay" }, make("img", { class: "under", src: `data:image/webp;base64,${examples.sheet}`, alt: "" }),
        make("img", { class: "maps", src: `data:image/webp;base64,${found.sheet}`, alt: `Anomaly maps over the same images, seed ${seed}` })),
      make("ol", { "aria-label": `Image scores, seed ${seed}` }, found.scores.map((score, at) => make("li", {}, `${at ? "" : `seed ${seed}: `}${score ?? "\u2013"}`)))];
  });
}

// Records

/** Nested entries as [dotted name, text]. */
function flat(value, prefix = "") {
  if (value !== null && typeof value === "object" && !Array.isArray(value))
    return Object.entries(value).flatMap(([name, inner]) => flat(inner, prefix ? `${prefix}.${name}` : name));
  return [[prefix, Array.isArray(value) ? value.join(", ") : String(value ?? "\u2013")]];
}

/** The entries of the records: once where all seeds agree, otherwise seed by seed. */
function recordTable(runs) {
  const parts = [...new Set(runs.flatMap(run => Object.keys(run.facts)))];
  const inner = part => runs.some(run => run.facts[part] !== null && typeof run.facts[part] === "object" && !Array.isArray(run.facts[part]));
  const row = (name, values) => make("tr", {}, make("th", { scope: "row" }, name),
    new Set(values).size === 1 ? make("td", { class: "words", colspan: runs.length }, values[0])
      : values.map(value => make("td", { class: "words" }, value)));
  const rowsOf = part => {
    const found = runs.map(run => new Map(flat(run.facts[part])));
    const names = [...new Set(found.flatMap(entries => [...entries.keys()]))];
    return names.map(name => row(name || part.replaceAll("_", " "), found.map(entries => entries.get(name) ?? "\u2013")));
  };
  const skipped = ["variant", "dataset", "protocol", "seed", "deviations"];  // shown elsewhere
  const body = [make("tbody", {}, parts.filter(part => !inner(part) && !skipped.includes(part)).flatMap(rowsOf)),
    ...parts.filter(inner).map(part => make("tbody", {}, make("tr", { class: "part" },
      make("th", { scope: "rowgroup", colspan: runs.length + 1 }, part.replaceAll("_", " "))), rowsOf(part)))];
  const heads = ["", ...runs.map(run => `seed ${run.seed}`)];
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table: record" }, make("table", { class: "record" },
    make("thead", {}, make("tr", {}, heads.map(text => text ? make("th", { scope: "col" }, text) : make("td", {})))), body));
}

function reproduction(runs) {
  const commit = run => run.facts.provenance?.git_commit;
  const commits = [...new Set(runs.map(run => commit(run) ?? "unknown"))];
  const dirty = runs.filter(run => run.facts.provenance?.git_dirty).map(run => run.seed);
  const sentences = [`In the project at commit ${commits.join(", ")}, with the suite's params.yaml. `];
  if (dirty.length) sentences.push(`There were uncommitted changes (${dirty.length === 1 ? "seed" : "seeds"} ${dirty.join(", ")}). `);
  sentences.push("`--force` makes a finished run again, in place of the stored one.");
  return [make("p", { class: "soft" }, sentences.join("")),
    ...runs.map(run => make("pre", { tabindex: 0, "aria-label": `Commands, seed ${run.seed}` }, make("code", {}, run.commands.join("\n")),
      make("button", { type: "button", class: "copy", "data-text": run.commands.join("\n") }, "Copy")))];
}

function details(runs) {
  const deviations = [...new Set(runs.flatMap(run => run.facts.deviations ?? []))];
  return [
    make("h3", {}, "Reproduce"), ...reproduction(runs),
    make("h3", {}, "Record"), recordTable(runs),
    ...(deviations.length ? [make("h3", {}, "Deviations"), make("ul", {}, deviations.map(text => make("li", {}, text)))] : []),
    make("h3", {}, "Log"),
    ...runs.map(run => make("details", {}, make("summary", {}, `seed ${run.seed}, ${run.path}`),
      run.log ? make("pre", { tabindex: 0, "aria-label": `Log, seed ${run.seed}` }, run.log)
        : make("p", { class: "soft" }, "This run has no log.")))];
}

// The dialog

/** What the dialog shows of a cell; of a mean its categories, and the runs where all of them share these. */
async function contents(group, category) {
  const shared = group.runs.every(run => run.split === group.runs[0]?.split);
  if (category === "mean")
    return [categoryTable(group), ...(shared && group.runs.length ? [...charts(losses(group.runs)), ...details(group.runs)] : [])];
  const cell = group.categories[category];
  if (!cell) return [make("p", {}, "No results of this category are stored.")];
  const runs = group.runs.filter(run => run.categories.includes(category));
  return [
    Object.keys(cell.scores).length ? scoreTable(group, cell) : null,
    ...charts([curves(cell, "roc", "ROC", "false positive rate of images", "true positive rate"),
      curves(cell, "pro", "PRO", "false positive rate of pixels", "per-region overlap"), ...losses(runs)]),
    ...(Object.keys(cell.maps).length ? [make("h3", {}, "Anomaly maps"),
      make("p", { class: "soft" }, "Test images chosen without regard to scores; below them the ground truth, then each seed's maps over the images, each seed on its own scale, with the image scores. Point at a strip to see its maps alone."),
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Anomaly maps" }, make("div", { class: "strip" }, await maps(group, cell)))] : []),
    ...(runs.length ? details(runs) : [make("p", {}, "There is no record of its run.")])];
}

/** Shows the cells that the address names, `#cell/GROUP/CATEGORY/GROUP/CATEGORY...`, or closes the dialog. */
async function route() {
  const [kind, ...words] = location.hash.slice(1).split("/");
  if (kind !== "cell") { if (dialog.open) dialog.close(); return; }
  const names = words.map(decodeURIComponent);
  const cells = names.flatMap((name, i) => i % 2 ? [] : [[name, names[i + 1]]]);
  const groups = await Promise.all(cells.map(([name]) => unpack(`payload-${name}`)));
  const label = (group, category) => `${group.printed.variant} \u00b7 ${category === "mean" ? "all categories" : category} \u00b7 ${group.printed.dataset} \u00b7 ${group.printed.protocol}`;
  const shown = cells.map(([, category], i) => [groups[i], category]).filter(([group]) => group);
  if (shown.length === 1) {
    title.textContent = label(...shown[0]);
    content.replaceChildren(...(await contents(...shown[0])).filter(Boolean));
  } else {
    title.textContent = shown.length ? "Computed from" : "This page has no such record";
    content.replaceChildren(make("ul", {}, shown.map(([group, category]) => make("li", {}, link(nameOf(group), category, label(group, category))))));
  }
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  title.focus();
}

dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
// Closed by button, key or click, the address is that of the page again; the browser gives the focus back.
dialog.addEventListener("close", () => {
  if (location.hash.startsWith("#cell/")) history.replaceState(null, "", location.href.split("#")[0]);
});
addEventListener("hashchange", route);
Promise.all([...document.querySelectorAll(".explorer")].map(explore)).then(() => {
  route();
  // What was chosen may be higher than what the browser scrolled past.
  if (location.hash && !location.hash.includes("/")) document.getElementById(location.hash.slice(1))?.scrollIntoView();
});

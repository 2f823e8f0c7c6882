// One sample as elements. Texts of models and people become text nodes only.
const FOLD = 4000, MORE = 50000; // characters of a long text that are shown at first, and with each click
// C0 and C1 controls, marks that change the direction of writing, halves of surrogate pairs.
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

function make(tag, of = "", ...children) {
  const made = document.createElement(tag);
  if (of) made.className = of;
  made.append(...children);
  return made;
}
const code = (character) => `U+${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
const visible = (text) => text.replace(CONTROLS, code);

// Append a text as it is, controls by their names.
function say(to, text) {
  let from = 0;
  for (const found of text.matchAll(CONTROLS)) {
    if (found[0] === "\r" && text[found.index + 1] === "\n") continue;
    to.append(text.slice(from, found.index), make("span", "ctl", code(found[0])));
    from = found.index + found[0].length;
  }
  to.append(text.slice(from));
}
function cut(text, length) {
  return /[\ud800-\udbff]/.test(text[length - 1] || "") ? length - 1 : length;
}

// A text, folded if it is long: a button shows more of it.
function said(text, of = "") {
  const to = make("div", `said ${of}`);
  to.dir = "auto";
  if (!text) return make("div", "empty", "(empty)");
  if (text.length <= FOLD) { say(to, text); return to; }
  let from = cut(text, FOLD / 2);
  say(to, text.slice(0, from));
  const more = make("button");
  const label = () => { more.textContent = `show ${Math.min(MORE, text.length - from).toLocaleString("en")} more of ${text.length.toLocaleString("en")} characters`; };
  more.onclick = () => {
    const until = Math.min(text.length, from + cut(text.slice(from, from + MORE), MORE));
    const piece = make("span");
    say(piece, text.slice(from, until));
    to.append(piece);
    from = until;
    if (from < text.length) label(); else more.remove();
  };
  label();
  return make("div", "", to, more);
}
function block(of, titles, ...children) {
  return make("div", `block ${of}`, make("div", "title", ...titles.filter(Boolean).map((each) => (typeof each === "string" ? make("span", "", visible(each)) : each))), ...children);
}
const chip = (text, of = "") => make("span", `chip ${of}`, visible(text));
function folded(title, text, of) {
  const details = make("details", `block ${of}`, make("summary", "", title));
  details.ontoggle = () => { if (details.open && details.children.length === 1) details.append(said(text)); };
  return details;
}
function meter(p) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 8");
  svg.setAttribute("class", "meter");
  svg.setAttribute("preserveAspectRatio", "none");
  const shape = (name, values) => { const made = document.createElementNS(svg.namespaceURI, name); for (const key in values) made.setAttribute(key, values[key]); svg.append(made); };
  shape("rect", { width: 100, height: 8, rx: 2 });
  shape("rect", { width: 100 * p, height: 8, rx: 2 });
  shape("line", { x1: 50, x2: 50, y1: 0, y2: 8 });
  return svg;
}
const percent = (p) => (p === null || p === undefined ? "unparsed" : p.toFixed(3));


function drawSample(sample) {
  const to = make("div");
  if (sample.error) to.append(block("bad", [chip("quarantined", "bad")], said(sample.error)));
  for (const message of sample.prompt) to.append(block("prompt", [message.role], said(message.content)));
  if (sample.reference) to.append(block("reference", ["reference answer"], said(sample.reference)));
  for (const answer of sample.candidates || []) {
    const parent = (answer.parent ?? null) === null ? null : sample.candidates[answer.parent];
    const critique = (sample.critiques || [])[(sample.replies || {})[answer.index]];
    if (critique) {
      to.append(block("critique", [`critique of answer ${critique.candidate}`, ...critique.principle_ids.map((id) => chip(id))], said(critique.text)));
      if (critique.reasoning) to.append(folded("thought before the critique", critique.reasoning, "thought"));
    }
    if (answer.reasoning) to.append(folded(`thought before answer ${answer.index} (${answer.reasoning.length.toLocaleString("en")} characters)`, answer.reasoning, "thought"));
    const titles = [parent ? `answer ${answer.index}, revision of answer ${parent.index}` : `answer ${answer.index}`, make("span", "muted", visible(`${answer.origin} · ${answer.model}`))];
    if (answer.drop_reason) titles.push(chip(`dropped: ${answer.drop_reason}`, "bad"));
    if (answer.finish_reason === "length") titles.push(chip("cut at max_tokens", "warn"));
    for (const score of sample.scores || []) if (score.candidate === answer.index) titles.push(chip(`${score.name} ${(score.value ?? null) === null ? "unparsed" : Number(score.value.toPrecision(4))}`));
    const holder = block(`answer${answer.drop_reason ? " dropped" : ""}`, titles);
    holder.append(parent ? revision(parent.text, answer.text) : said(answer.text));
    to.append(holder);
    for (const steps of sample.step_labels || []) if (steps.candidate === answer.index) to.append(stepTable(steps));
  }
  const answered = new Set(Object.values(sample.replies || {}));
  (sample.critiques || []).forEach((critique, i) => {
    if (!answered.has(i)) to.append(block("critique", [`critique of answer ${critique.candidate}, without a revision`, ...critique.principle_ids.map((id) => chip(id))], said(critique.text)));
  });
  for (const verdict of sample.verdicts || []) to.append(drawVerdict(verdict));
  const fates = Object.entries(sample.fates || {});
  if (fates.length) to.append(block("fates", fates.map(([view, reasons]) => (reasons.length ? chip(`${view}: dropped, ${[...new Set(reasons)].join(", ")}`, "bad") : chip(`${view}: a row`, "good")))));
  if (sample.extra) to.append(folded("other columns of the source", sample.extra, "mono"));
  return to;
}

function revision(before, after) {
  const steps = wordDiff(before, after);
  if (!steps || steps.every(([kind]) => kind === "=")) return said(after);
  const length = steps.reduce((sum, [, text]) => sum + text.length, 0);
  const plain = said(after);
  if (length > 40000) return plain;
  const diff = make("div", "said");
  diff.dir = "auto";
  for (const [kind, text] of steps) {
    const part = kind === "=" ? diff : make(kind === "+" ? "ins" : "del");
    say(part, text);
    if (part !== diff) diff.append(part);
  }
  const button = make("button", "", "without changes marked");
  const holder = make("div", "", diff, button);
  button.onclick = () => {
    const isDiff = holder.firstChild === diff;
    holder.firstChild.replaceWith(isDiff ? plain : diff);
    button.textContent = isDiff ? "with changes marked" : "without changes marked";
  };
  return holder;
}

function drawVerdict(verdict) {
  const p = verdict.p ?? null;
  const titles = [visible(verdict.judge), make("span", "", `P(answer ${verdict.a} better than answer ${verdict.b}) = ${percent(p)}`)];
  if (p !== null) titles.push(meter(p));
  if (verdict.is_consistent === false) titles.push(chip("flipped with the order", "warn"));
  const byPrinciple = new Map();
  for (const reading of verdict.readings) {
    if (!byPrinciple.has(reading.principle_id)) byPrinciple.set(reading.principle_id, []);
    byPrinciple.get(reading.principle_id)[reading.is_swapped ? 1 : 0] = reading;
  }
  const holder = block("verdict", titles);
  if (byPrinciple.size) {
    const table = make("table", "", make("thead", "", make("tr", "", ...["principle", `${verdict.a} shown first`, `${verdict.b} shown first`].map((each) => make("th", "", each)))));
    const body = make("tbody");
    for (const [id, both] of byPrinciple) body.append(make("tr", "", make("td", "", visible(id || "none")), ...[0, 1].map((i) => make("td", "n", both[i] ? percent(both[i].p) : "–"))));
    table.append(body);
    holder.append(table);
  }
  for (const reading of verdict.readings) if (reading.reasoning) holder.append(folded(visible(`what the judge wrote${reading.principle_id ? ` on ${reading.principle_id}` : ""}, answer ${reading.is_swapped ? verdict.b : verdict.a} shown first`), reading.reasoning, "thought"));
  return holder;
}

function stepTable(labeled) {
  const body = make("tbody");
  labeled.steps.forEach((step, i) => {
    const label = labeled.labels[i], score = labeled.scores[i];
    body.append(make("tr", "", make("td", "", label === null ? chip("?") : label ? chip("right", "good") : chip("wrong", "bad")), make("td", "n", score === null ? "–" : score.toFixed(2)), make("td", "", said(step))));
  });
  return block("steps", [`steps of answer ${labeled.candidate}: ${labeled.name}`], make("table", "", body));
}

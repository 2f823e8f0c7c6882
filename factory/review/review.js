// The review's page. Texts of models become text nodes, never HTML. A decision shows as taken only once
// the server has answered that it is on disk.
"use strict";

const AT_ONCE = 20000; // characters of an answer that are shown before "show the rest"
const PAUSE = 250; // ms in which keys do nothing after a new pair, so that none decides an unseen one
const CELLS = 4e6; // of the table of word differences; larger ones would hold up the page
const ODD = /[\0-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/;
const ODD_ALL = new RegExp(ODD.source, "g");

const $ = (id) => document.getElementById(id);
const SIDES = ["left", "right"];
let pair = null;
let before = null; // what was decided on the pair that was just taken back
let editing = null; // the side in the editor
let hasMarks = false;
let isBusy = false;
let ready = 0;

// -- texts

/** The text with control and direction characters spelled out, as they could hide or reorder it. */
function put(node, text) {
  const line = document.createDocumentFragment();
  let at = 0;
  if (ODD.test(text)) {
    for (const found of text.matchAll(ODD_ALL)) {
      line.append(text.slice(at, found.index), spelled(found[0]));
      at = found.index + 1;
    }
  }
  line.append(text.slice(at));
  node.append(line);
}

function spelled(character) {
  const span = element("span", "odd");
  span.textContent = `[U+${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;
  return span;
}

function element(name, kind) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  return made;
}

function titled(title, text) {
  const turn = element("div", "turn");
  const heading = element("h2");
  heading.textContent = title;
  const body = element("div", "text");
  body.dir = "auto";
  put(body, text);
  turn.append(heading, body);
  return turn;
}

// -- the differences of two texts, by words

/** For each text: its words and white space, and which of them the other lacks. None: too long. */
function differences(one, other) {
  const [a, b] = [one, other].map((text) => text.match(/\s+|\S+/g) ?? []);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  const most = Math.min(a.length, b.length) - start;
  while (end < most && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const [n, m] = [a.length - start - end, b.length - start - end];
  if (n * m > CELLS) return null;
  // lengths[i * (m + 1) + j]: the longest common subsequence of what follows i and j
  const lengths = new Uint16Array((n + 1) * (m + 1));
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      lengths[i * (m + 1) + j] = a[start + i] === b[start + j]
        ? lengths[(i + 1) * (m + 1) + j + 1] + 1
        : Math.max(lengths[(i + 1) * (m + 1) + j], lengths[i * (m + 1) + j + 1]);
    }
  }
  const kept = [new Set(), new Set()];
  for (let i = 0, j = 0; i < n && j < m;) {
    if (a[start + i] === b[start + j]) {
      kept[0].add(start + i++);
      kept[1].add(start + j++);
    } else if (lengths[(i + 1) * (m + 1) + j] >= lengths[i * (m + 1) + j + 1]) i++;
    else j++;
  }
  return [a, b].map((words, side) => words.map((word, place) => ({
    word,
    differs: place >= start && place < words.length - end && !kept[side].has(place) && /\S/.test(word),
  })));
}

// -- showing

function show(state) {
  pair = state.pair;
  before = state.before ?? null;
  editing = null;
  const { pairs, decided, skipped } = state.progress;
  $("progress").textContent = `${state.reviewer}: ${decided} of ${pairs} decided`
    + (skipped ? `, ${skipped} skipped` : "");
  $("bar").value = pairs ? decided / pairs : 0;
  tell(pair && decided + skipped === pairs ? "All others are decided. These were skipped." : null);
  for (const id of ["main", "choices"]) $(id).hidden = !pair;
  $("end").hidden = Boolean(pair);
  $("editor").hidden = true;
  $("answers").hidden = false;
  delete document.body.dataset.picking;
  document.activeElement?.blur();
  if (pair) showPair();
  if (!$("agreement").hidden) showAgreement();
  document.body.dataset.pair = pair ? pair.pair : "";
  document.body.dataset.state = "ready";
  ready = performance.now() + PAUSE;
  scrollTo(0, 0);
}

function showPair() {
  const turns = pair.prompt.map((m) => titled({ user: "Prompt", system: "System" }[m.role] ?? "Answer before", m.content));
  $("prompt").replaceChildren(...turns);
  $("principles").hidden = !pair.principles.length;
  $("principles").replaceChildren(...pair.principles.map(({ title, question }) => {
    const line = element("p");
    put(line, `${title}: ${question}`);
    return line;
  }));
  $("reference").hidden = !pair.reference;
  $("reference").open = false;
  $("reference").lastElementChild.replaceChildren();
  put($("reference").lastElementChild, pair.reference ?? "");
  for (const side of SIDES) {
    const thought = $(side).querySelector(".thought");
    thought.hidden = !pair[side].thought;
    thought.open = false;
    thought.lastElementChild.replaceChildren();
    put(thought.lastElementChild, pair[side].thought ?? "");
    $(side).toggleAttribute("data-before", before?.choice === side);
  }
  $("note").value = before?.note ?? "";
  showAnswers(AT_ONCE);
}

function showAnswers(most) {
  const marked = hasMarks ? differences(pair.left.text, pair.right.text) : null;
  if (hasMarks && !marked) tell("These answers are too long and too different to mark words.");
  SIDES.forEach((side, i) => {
    const body = $(side).querySelector(".answer");
    const { text } = pair[side];
    body.replaceChildren();
    if (marked) {
      for (const { word, differs } of marked[i]) {
        const node = differs ? body.appendChild(element("mark", "differs")) : body;
        put(node, word);
      }
    } else put(body, text.slice(0, most));
    const rest = $(side).querySelector(".rest");
    rest.hidden = Boolean(marked) || text.length <= most;
    rest.textContent = `Show the other ${(text.length - most).toLocaleString("en")} characters`;
  });
}

async function showAgreement() {
  const lines = await ask("agreement");
  if (!lines) return;
  $("agreement").querySelector("ul").replaceChildren(...lines.map((text) => {
    const line = element("li");
    line.textContent = text;
    return line;
  }));
}

function tell(text, kind = "") {
  $("message").hidden = !text;
  $("message").className = kind;
  $("message").textContent = text ?? "";
}

// -- the server

/** Its answer; null, with a message on the page, if there is none or it refuses. */
async function ask(path, value) {
  const lost = value === undefined ? "" : "Not saved: ";
  try {
    const options = value === undefined ? {} : { method: "POST", body: JSON.stringify(value) };
    const answer = await fetch(path, options);
    if (!(answer.headers.get("content-type") ?? "").includes("json")) throw new Error(await answer.text());
    const held = await answer.json();
    if (answer.ok) return held;
    tell(held.error, "alarm");
  } catch (error) {
    const isGone = error instanceof TypeError;
    const why = isGone ? "the review has ended; start it again and open its new address" : error.message;
    tell(`${lost}${why}`, "alarm");
  }
  return null;
}

async function step(path, value) {
  if (isBusy) return;
  isBusy = true;
  document.body.dataset.state = "saving";
  const state = await ask(path, value);
  isBusy = false;
  document.body.dataset.state = state ? "ready" : "failed";
  if (state) show(state);
}

function decide(choice, edit) {
  if (!pair || performance.now() < ready) return;
  const note = $("note").value;
  // Chosen again as it was before the undo: so is its edited text.
  const kept = edit === undefined && before?.choice === choice ? before.edit : edit;
  step("decide", { pair: pair.pair, choice, edit: kept ?? null, note: note || null });
}

// -- the editor

function edit(side) {
  editing = side;
  delete document.body.dataset.picking;
  $("edit").value = (before?.choice === side && before.edit) || pair[side].text;
  $("editor").hidden = false;
  $("edit").focus();
  $("edit").setSelectionRange(0, 0);
  $("editor").scrollIntoView({ block: "nearest" });
}

function close() {
  editing = null;
  $("editor").hidden = true;
  delete document.body.dataset.picking;
  document.activeElement?.blur();
  tell(null);
}

function pick() {
  document.body.dataset.picking = "";
  tell("Edit which answer? ← left, → right, Esc neither.");
}

// -- keys and buttons

function toggle(id, key) {
  $(id).hidden = !$(id).hidden;
  press(key, !$(id).hidden);
  if (!$(id).hidden) $(id).scrollIntoView({ block: "nearest" });
}

function press(key, isOn) {
  document.querySelector(`[data-key="${key}"]`).setAttribute("aria-pressed", isOn);
}

function side(name) {
  if ("picking" in document.body.dataset) {
    tell(null);
    edit(name);
  } else decide(name);
}

const KEYS = {
  ArrowLeft: () => side("left"),
  ArrowRight: () => side("right"),
  1: () => side("left"),
  2: () => side("right"),
  t: () => decide("tie"),
  b: () => decide("both_bad"),
  s: () => decide("skip"),
  u: () => step("undo", {}),
  e: () => pair && pick(),
  n: () => pair && $("note").focus(),
  d: () => {
    hasMarks = !hasMarks;
    press("d", hasMarks);
    if (pair) showAnswers(AT_ONCE);
  },
  o: () => {
    const thoughts = [...document.querySelectorAll(".thought:not([hidden])")];
    const isOpen = thoughts.some((thought) => thought.open);
    for (const thought of thoughts) thought.open = !isOpen;
  },
  a: () => {
    toggle("agreement", "a");
    if (!$("agreement").hidden) showAgreement();
  },
  "?": () => toggle("help", "?"),
  Escape: close,
};

addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, textarea");
  if (isTyping && event.target.id === "edit" && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    decide(editing, $("edit").value);
  } else if (isTyping && (event.key === "Escape" || (event.key === "Enter" && event.target.id === "note"))) {
    event.preventDefault();
    if (editing) close();
    else event.target.blur();
  } else if (!isTyping && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const does = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!does || (editing && event.key !== "Escape")) return;
    event.preventDefault();
    does();
  }
});

for (const button of document.querySelectorAll("[data-key]")) {
  button.addEventListener("click", () => {
    button.blur();
    KEYS[button.dataset.key]();
  });
}
for (const name of SIDES) {
  $(name).addEventListener("click", () => {
    if ("picking" in document.body.dataset) side(name);
  });
  $(name).querySelector(".rest").addEventListener("click", () => showAnswers(Infinity));
}
$("save").addEventListener("click", () => decide(editing, $("edit").value));
$("cancel").addEventListener("click", close);

ask("pair").then((state) => state && show(state));

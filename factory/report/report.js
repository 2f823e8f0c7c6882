// The browser of samples: search, filters, list, links and keys.
(() => {
  const $ = (id) => document.getElementById(id);
  const ROW = 58; // pixels, as in the style sheet
  const FIELDS = ["id", "index", "snippet", "tags", "principles", "reasons", "flipped", "margin", "change", "disagreement"];
  const entries = []; // one for each sample: {sides: [{run, block, line} or undefined, ...], ...FIELDS}
  let shown = [], selected = null, asked = 0;

  // -- data -------------------------------------------------------------------------------------

  async function unpacked(id) {
    const binary = atob($(id).textContent);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }
  const letters = [...document.querySelectorAll("script[data-letter]")].map((each) => each.dataset.letter);

  async function readIndex() {
    const byId = new Map();
    for (let run = 0; run < letters.length; run++) {
      const text = await unpacked(`index-${run}`);
      text.split("\n").filter(Boolean).forEach((line, block) => JSON.parse(line).forEach((values, at) => {
        const entry = Object.fromEntries(FIELDS.map((name, i) => [name, values[i]]));
        const twin = byId.get(entry.id);
        if (twin && !twin.sides[run]) {
          for (const name of ["tags", "principles", "reasons"]) twin[name] = [...new Set([...twin[name], ...entry[name]])];
          twin.flipped ||= entry.flipped;
          twin.margin = twin.margin === null || (entry.margin !== null && entry.margin < twin.margin) ? entry.margin : twin.margin;
          twin.change = Math.abs(entry.change) > Math.abs(twin.change) ? entry.change : twin.change;
          twin.disagreement = Math.max(twin.disagreement, entry.disagreement);
          twin.sides[run] = { block, at };
          return;
        }
        entry.sides = [];
        entry.sides[run] = { block, at };
        entries.push(entry);
        if (!twin) byId.set(entry.id, entry);
      }));
    }
    if (letters.length > 1) entries.sort((a, b) => a.index - b.index);
  }

  const held = new Map(); // the last blocks read, as lines
  async function linesOf(run, block) {
    const key = `block-${run}-${block}`;
    let lines = held.get(key);
    if (!lines) lines = unpacked(key).then((text) => text.split("\n"));
    held.delete(key);
    held.set(key, lines);
    if (held.size > 6) held.delete(held.keys().next().value);
    return lines;
  }
  async function sampleOf(run, side) {
    return JSON.parse((await linesOf(run, side.block))[side.at]);
  }

  // -- search, filters, order -------------------------------------------------------------------

  function choices(id, title, values) {
    const counts = new Map();
    for (const entry of entries) for (const each of entry[values]) counts.set(each, (counts.get(each) || 0) + 1);
    const select = $(id);
    select.append(new Option(`any ${title}`, ""));
    for (const [each, count] of [...counts].sort((a, b) => b[1] - a[1])) {
      const label = each.length > 60 ? `${each.slice(0, 60)}…` : each;
      select.append(new Option(`${visible(label)} (${count.toLocaleString("en")})`, each));
    }
    select.hidden = !counts.size;
  }

  async function narrow() {
    const turn = ++asked;
    const by = (id) => $(id).value;
    let found = entries.filter((entry) => (!by("reason") || entry.reasons.includes(by("reason")))
      && (!by("principle") || entry.principles.includes(by("principle")))
      && (!by("tag") || entry.tags.includes(by("tag")))
      && (!$("flipped").checked || entry.flipped));
    const size = (value) => (value === null || value === undefined ? -Infinity : Math.abs(value));
    const order = by("order");
    if (order === "margin") found.sort((a, b) => (a.margin ?? Infinity) - (b.margin ?? Infinity));
    else if (order) found.sort((a, b) => size(b[order]) - size(a[order]));
    const words = by("search").trim().toLowerCase();
    if (words) {
      const escaped = JSON.stringify(words).slice(1, -1);
      const hits = new Set();
      const blocks = new Map();
      for (const entry of found) entry.sides.forEach((side, run) => {
        const key = `${run} ${side.block}`;
        if (!blocks.has(key)) blocks.set(key, []);
        blocks.get(key).push([entry, side.at]);
      });
      let done = 0;
      for (const [key, wanted] of blocks) {
        const [run, block] = key.split(" ").map(Number);
        const lines = (await unpacked(`block-${run}-${block}`)).split("\n");
        if (turn !== asked) return; // another search has begun
        for (const [entry, at] of wanted) {
          if (lines[at].toLowerCase().includes(escaped) && texts(JSON.parse(lines[at])).some((text) => text.toLowerCase().includes(words))) hits.add(entry);
        }
        if (++done % 20 === 0) $("found").textContent = `searching, ${Math.round(100 * done / blocks.size)}%`;
      }
      found = found.filter((entry) => hits.has(entry));
    }
    if (turn !== asked) return;
    shown = found;
    $("found").textContent = `${shown.length.toLocaleString("en")} of ${entries.length.toLocaleString("en")}`;
    $("list").scrollTop = 0;
    drawList();
    if (!$("browser").classList.contains("closed") && selected && !shown.includes(selected) && shown.length) select(shown[0]);
  }
  function texts(value) {
    if (typeof value === "string") return [value];
    return value && typeof value === "object" ? Object.values(value).flatMap(texts) : [];
  }

  // -- list -------------------------------------------------------------------------------------

  function drawList() {
    const list = $("list"), rows = $("rows");
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
    const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW) + 12);
    rows.style.height = `${shown.length * ROW}px`;
    rows.replaceChildren(...shown.slice(first, last).map((entry, i) => {
      const id = make("bdi", "", visible(entry.id));
      const top = make("div", "top", id);
      if (entry.reasons[0]) top.append(chip(entry.reasons[0].split(":")[0], entry.reasons[0].startsWith("quarantined") ? "bad" : ""));
      if (entry.flipped) top.append(chip("flipped", "warn"));
      const text = make("div", "text", visible(entry.snippet.replace(/\s+/g, " ")) || "(empty)");
      text.dir = "auto";
      const row = make("div", "row", top, text);
      row.setAttribute("role", "option");
      row.setAttribute("aria-selected", entry === selected);
      row.style.top = `${(first + i) * ROW}px`;
      row.onclick = () => select(entry, true);
      return row;
    }));
    if (!shown.length) rows.replaceChildren(make("div", "row empty", "no sample fits"));
  }

  async function select(entry, opens = false) {
    selected = entry;
    const list = $("list"), at = shown.indexOf(entry) * ROW;
    if (at < list.scrollTop) list.scrollTop = Math.max(0, at);
    if (at + ROW > list.scrollTop + list.clientHeight) list.scrollTop = at + ROW - list.clientHeight;
    drawList();
    if (opens) $("browser").classList.remove("closed");
    if ($("browser").classList.contains("closed") && !isWide()) return;
    const sides = await Promise.all(letters.map((_, run) => entry.sides[run] && sampleOf(run, entry.sides[run])));
    if (selected !== entry) return;
    const detail = $("detail");
    const link = make("a", "", visible(entry.id));
    link.href = `#id=${encodeURIComponent(entry.id)}`;
    const close = make("button", "close", "back to the list");
    close.onclick = shut;
    const head = make("div", "bar-top", link, make("span", "muted", `row ${entry.index.toLocaleString("en")}`), ...entry.tags.map((tag) => chip(tag)), close);
    close.hidden = isWide();
    detail.className = letters.length > 1 ? "two" : "";
    if (letters.length > 1) {
      detail.replaceChildren(head, ...sides.map((sample, run) => make("div", "", make("p", "which", letters[run]), sample ? drawSample(sample) : make("p", "empty", "not in this run, or not in this page"))));
    } else detail.replaceChildren(head, drawSample(sides[0]));
    detail.scrollTop = 0;
    if (!$("browser").classList.contains("closed")) history.replaceState(null, "", link.getAttribute("href"));
    if (opens) detail.focus({ preventScroll: true });
    if (opens && !isWide()) $("samples").scrollIntoView();
  }
  const isWide = () => matchMedia("(min-width: 861px)").matches;
  function shut() {
    $("browser").classList.add("closed");
    drawList();
    $("list").focus({ preventScroll: true });
    history.replaceState(null, "", "#samples");
  }

  // -- links and keys ---------------------------------------------------------------------------

  function follow() {
    const [name, value] = location.hash.slice(1).split("=").map((each) => { try { return decodeURIComponent(each); } catch { return each; } });
    if (name === "id") {
      const entry = entries.find((each) => each.id === value);
      if (entry && entry !== selected) { if (!shown.includes(entry)) { clear(); } select(entry, true); $("samples").scrollIntoView(); }
      else if (!entry) $("found").textContent = "the sample of this link is not in this page";
    } else if (name === "reason" || name === "principle" || name === "flipped") {
      clear();
      if (name === "flipped") $("flipped").checked = true; else $(name).value = value;
      narrow();
      $("list").focus({ preventScroll: true });
      $("samples").scrollIntoView();
    }
  }
  function clear() {
    for (const id of ["search", "reason", "principle", "tag", "order"]) $(id).value = "";
    $("flipped").checked = false;
    shown = [...entries];
    narrow();
  }
  function onKey(event) {
    const isTyping = event.target.matches("input[type=search], select");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      if (event.target === $("search") && $("search").value) { $("search").value = ""; narrow(); }
      else if (isTyping) $("list").focus();
      else if (!$("browser").classList.contains("closed")) shut();
    } else if (event.key === "Enter" && (event.target === $("search") || event.target === $("list") || event.target === document.body)) {
      const entry = selected && shown.includes(selected) ? selected : shown[0];
      if (entry) select(entry, true);
    } else if (isTyping) return;
    else if (event.key === "/") { $("search").focus(); $("search").select(); $("samples").scrollIntoView(); }
    else if (event.key === "j" || event.key === "k") {
      const at = shown.indexOf(selected) + (event.key === "j" ? 1 : selected ? -1 : 1);
      if (shown[at]) select(shown[at]);
    } else return;
    event.preventDefault();
  }

  (async () => {
    if (!globalThis.DecompressionStream) {
      $("browser").replaceWith(make("p", "hint", "This browser cannot unpack the samples (DecompressionStream); a newer one can."));
      return;
    }
    await readIndex();
    $("browser").hidden = false;
    choices("reason", "reason", "reasons");
    choices("principle", "principle", "principles");
    choices("tag", "tag", "tags");
    let timer = 0;
    $("search").oninput = () => { clearTimeout(timer); timer = setTimeout(narrow, 150); };
    for (const id of ["reason", "principle", "tag", "order", "flipped"]) $(id).onchange = narrow;
    $("list").onscroll = () => requestAnimationFrame(drawList);
    addEventListener("resize", drawList);
    addEventListener("hashchange", follow);
    addEventListener("click", (event) => { // a link followed before: the address does not change
      const link = event.target.closest("a[href^='#']");
      if (link && link.getAttribute("href").includes("=") && link.getAttribute("href") === location.hash) follow();
    });
    addEventListener("keydown", onKey);
    await narrow();
    if (shown.length && isWide()) await select(shown[0]);
    follow();
    document.documentElement.dataset.ready = "";
  })();
})();

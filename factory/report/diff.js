"use strict";
// Words of two texts that differ: Myers' O(ND) difference (1986), limited in length and distance.
// Returns [["=" | "-" | "+", text], ...]; null: too long or too different to be compared.
function wordDiff(before, after) {
  const MOST_WORDS = 20000, MOST_CHANGES = 800;
  const segmenter = globalThis.Intl && Intl.Segmenter && new Intl.Segmenter(undefined, { granularity: "word" });
  const words = (text) => (segmenter && /[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff]/.test(text)
    ? Array.from(segmenter.segment(text), (each) => each.segment)
    : text.match(/\s+|[^\s]+/g) || []);
  if (before.length + after.length > 20 * MOST_WORDS) return null;
  const a = words(before), b = words(after);
  if (a.length + b.length > MOST_WORDS) return null;
  let start = 0, endA = a.length, endB = b.length;
  while (start < endA && start < endB && a[start] === b[start]) start++;
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { endA--; endB--; }
  const n = endA - start, m = endB - start, most = Math.min(n + m, MOST_CHANGES);
  const reached = new Map([[1, 0]]), trail = [];
  let distance = -1;
  search: for (let d = 0; d <= most; d++) {
    trail.push(new Map([...reached].filter(([k]) => Math.abs(k) <= d + 1)));
    for (let k = -d; k <= d; k += 2) {
      let x = k === -d || (k !== d && reached.get(k - 1) < reached.get(k + 1)) ? reached.get(k + 1) : reached.get(k - 1) + 1;
      while (x < n && x - k < m && a[start + x] === b[start + x - k]) x++;
      reached.set(k, x);
      if (x >= n && x - k >= m) { distance = d; break search; }
    }
  }
  if (distance < 0) return null;
  const steps = [];
  let x = n, y = m;
  for (let d = distance; d > 0; d--) {
    const k = x - y, past = trail[d];
    const down = k === -d || (k !== d && past.get(k - 1) < past.get(k + 1));
    const fromX = past.get(down ? k + 1 : k - 1), fromY = fromX - (down ? k + 1 : k - 1);
    while (x > fromX && y > fromY && x > 0 && y > 0) { steps.push(["=", a[start + --x]]); y--; }
    if (down) steps.push(["+", b[start + --y]]); else steps.push(["-", a[start + --x]]);
  }
  while (x > 0) { steps.push(["=", a[start + --x]]); }
  steps.push(["=", a.slice(0, start).join("")]);
  steps.reverse();
  steps.push(["=", a.slice(endA).join("")]);
  return joined(steps);
}

// Runs of one kind as one text; within a change, all that went before all that came.
function joined(steps) {
  const made = [];
  let gone = "", come = "";
  const flush = () => { if (gone) made.push(["-", gone]); if (come) made.push(["+", come]); gone = come = ""; };
  steps.forEach(([kind, text], i) => {
    const next = steps[i + 1];
    if (kind === "-") gone += text;
    else if (kind === "+") come += text;
    else if (/^\s+$/.test(text) && (gone || come) && next && next[0] !== "=") { gone += text; come += text; }
    else {
      flush();
      const last = made[made.length - 1];
      if (last && last[0] === "=") last[1] += text;
      else if (text) made.push(["=", text]);
    }
  });
  flush();
  return made;
}

// Episodes: filters, a list of which only visible rows exist, siblings side by side.

const ROW = 44; // px, as in the stylesheet
const COLUMNS = 16; // siblings side by side, at most

let episodesView = null;

function episodes(data) {
  const all = data.episodes;
  if (!all.length) return [h("p", null, "No episode is kept yet.")];
  all.forEach((e) => { e.text = [e.task, e.kind, e.goal, e.bank, e.split, ...e.turns.map((t) => t.a)].join("\n").toLowerCase(); e.skills = new Set(e.turns.flatMap((t) => t.s || [])); });
  const values = (get) => [...new Set(all.flatMap(get))].filter((v) => v !== "" && v !== null && v !== undefined).sort((a, b) => typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
  const choices = { phase: ["Played in", values((e) => e.phase + (e.phase !== "train" && e.split ? ": " + e.split : ""))], step: ["Step", values((e) => e.step)], kind: ["Task type", values((e) => e.kind)], outcome: ["Outcome", ["success", "failure"]],
    arm: ["Arm", values((e) => e.arm)], skill: ["Skill shown", values((e) => [...e.skills])] };
  const controls = {}, update = () => refresh(true);
  controls.words = h("input", { type: "search", oninput: update, autocomplete: "off" });
  for (const [name, [, list]] of Object.entries(choices)) controls[name] = h("select", { onchange: update }, h("option", { value: "" }, "all"), list.map((v) => h("option", { value: v }, name === "arm" ? armName(v) : v)));
  const count = h("p", { role: "status" }), spacer = h("div", { class: "spacer", role: "list" }), detail = h("div", null);
  const list = h("div", { class: "list", tabindex: 0, role: "region", "aria-label": "Episodes found; up and down keys move, Enter opens" }, spacer);
  let found = all, chosen = null, active = 0, group = null, pending = false;

  function matches(e) {
    const v = (n) => controls[n].value;
    return (v("phase") === "" || v("phase") === e.phase + (e.phase !== "train" && e.split ? ": " + e.split : "")) && (v("step") === "" || Number(v("step")) === e.step) && (v("kind") === "" || v("kind") === e.kind) && (v("outcome") === "" || (v("outcome") === "success") === e.success)
      && (v("arm") === "" || Number(v("arm")) === e.arm) && (v("skill") === "" || e.skills.has(v("skill"))) && (group === null || e.group === group) && controls.words.value.toLowerCase().split(/\s+/).every((w) => e.text.includes(w));
  }
  function refresh(top) {
    if (top) group = null;
    found = all.filter(matches);
    active = 0;
    spacer.style.height = found.length * ROW + "px";
    if (top !== undefined) list.scrollTop = 0;
    count.textContent = `${found.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} episodes`;
    draw();
  }
  function draw() {
    pending = false;
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 2), last = Math.min(found.length, Math.ceil((list.scrollTop + (list.clientHeight || 400)) / ROW) + 2);
    const rows = [];
    for (let i = first; i < last; i++) rows.push(row(found[i], i));
    spacer.replaceChildren(...rows);
  }
  function row(e, i) {
    const button = h("button", { class: "row", tabindex: -1, "aria-current": e === chosen ? "true" : null, onclick: () => { active = i; open(e); } },
      h("span", { class: "fix " + (e.success ? "good" : "bad") }, e.success ? "\u2714 success" : e.lost ? "\u2718 lost" : "\u2718 failure"), h("span", { class: "fix" }, `${e.phase} ${e.step}`), h("span", { class: "fix low" }, armName(e.arm)), h("span", { class: "grow" }, bdi(e.goal || e.task)), h("span", { class: "low" }, bdi(e.kind)));
    const item = h("div", { role: "listitem", "aria-setsize": found.length, "aria-posinset": i + 1 }, button);
    button.style.top = i * ROW + "px";
    return item;
  }
  list.addEventListener("scroll", () => { if (!pending) { pending = true; requestAnimationFrame(draw); } });
  list.addEventListener("keydown", (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity };
    if (event.key === "Enter" && found.length && event.target === list) { open(found[active]); return; }
    if (!(event.key in moves) || !found.length) return;
    event.preventDefault();
    active = Math.min(found.length - 1, Math.max(0, active + moves[event.key]));
    if (active * ROW < list.scrollTop) list.scrollTop = active * ROW;
    if ((active + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (active + 1) * ROW - list.clientHeight;
    open(found[active]);
  });
  function open(e) { chosen = e; draw(); detail.replaceChildren(...siblings(e, all, data)); }
  episodesView = {
    shown: draw,
    find(wanted) {
      for (const control of Object.values(controls)) control.value = "";
      controls.phase.value = wanted.phase; controls.step.value = wanted.step;
      group = wanted.group;
      refresh();
      list.scrollTop = 0;
      if (found.length) open(found[0]); else detail.replaceChildren(h("p", { class: "note" }, "These episodes are not among those on this page, see above."));
      list.focus();
    },
  };
  const label = (name, text, wide) => h("label", { class: wide ? "wide" : null }, text, controls[name]);
  refresh(true);
  if (found.length) open(found.find((e) => e.phase === "train" && e.step === data.run.step) || found[0]);
  return [h("p", { class: "note" }, data.episodes_note), data.advantage_note ? h("p", { class: "note" }, "No advantages: ", bdi(data.advantage_note)) : null,
    h("div", { class: "filters" }, label("words", "Words in task, goal or actions", true), Object.keys(choices).map((name) => label(name, choices[name][0]))), count, list, detail];
}

function armName(arm) { return arm === null || arm === undefined ? "arm not recorded" : arm === 0 ? "arm 0 (accepted)" : `arm ${arm} (candidate)`; }

/** The rollouts of one task, by arm, aligned by turn; the first other action is marked. */
function siblings(e, all, data) {
  const same = all.filter((o) => o.phase === e.phase && o.step === e.step && o.task === e.task && o.group === e.group && o.split === e.split);
  same.sort((a, b) => (a === e ? -1 : b === e ? 1 : 0) || ((a.arm ?? 0) - (b.arm ?? 0)) || ((a.index ?? 0) - (b.index ?? 0)));
  const columns = same.slice(0, COLUMNS), turns = Math.max(0, ...columns.map((o) => o.turns.length));
  const parting = columns.map((o) => { const i = o.turns.findIndex((t, k) => !e.turns[k] || e.turns[k].a !== t.a); return o === e ? -1 : i < 0 && o.turns.length < e.turns.length ? o.turns.length : i; });
  const head = [h("h3", null, bdi(e.goal || e.task)), h("p", { class: "note" }, "Task ", bdi(e.task), ", type ", bdi(e.kind || "not recorded"), `, step ${e.step}. `,
    same.length > 1 ? `${same.length} rollouts of it, the chosen one first, the others by arm` + (same.length > COLUMNS ? `, ${COLUMNS} of them` : "") + ". Marked: where a rollout first acts differently from the chosen one." : "No siblings: this task was played once.")];
  if (e.lost) head.push(h("p", { class: "warn" }, "It could not be played: ", bdi(e.lost)));
  const titles = columns.map((o, i) => h("th", { scope: "col" }, h("div", { class: o.success ? "good" : "bad" }, o.success ? "\u2714 success" : "\u2718 failure"), h("div", null, o === e ? "chosen: " : "", armName(o.arm)), h("div", { class: "note" }, "library ", bdi(o.bank || "none")),
    h("div", null, `reward ${number(o.reward)}`, advantage(o) === null ? "" : `, advantage ${number(advantage(o))}`), Object.entries(o.scores || {}).map(([k, v]) => h("div", { class: "note" }, bdi(k), " " + number(v)))));
  const body = [];
  for (let i = 0; i < turns; i++) body.push(h("tr", null, h("th", { scope: "row", class: "at" }, i + 1), columns.map((o, k) => o.turns[i] ? turn(o, i, parting[k] === i) : h("td", { class: parting[k] === i ? "first" : null }, i === o.turns.length ? ending(o, parting[k] === i) : ""))));
  body.push(h("tr", null, h("th", { scope: "row", class: "at" }, "end"), columns.map((o) => h("td", null, o.turns.length === turns ? ending(o, false) : ""))));
  return [...head, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Rollouts side by side" }, h("table", { class: "turns" }, h("thead", null, h("tr", null, h("th", { scope: "col", class: "at" }, "turn"), titles)), h("tbody", null, body)))];
}

function advantage(e) {
  const known = e.turns.filter((t) => t.adv !== undefined), sound = known.filter((t) => !t.bad), list = sound.length ? sound : known;
  return list.length ? list.reduce((sum, t) => sum + t.adv, 0) / list.length : null;
}

function ending(e, parted) { return [parted ? h("div", { class: "tag" }, "first difference: it ends") : null, h("div", { class: "saw" }, bdi(e.end || (e.lost ? "lost" : "no text at the end")))]; }

function turn(e, i, parted) {
  const t = e.turns[i], raw = h("details", { ontoggle: () => { if (raw.open && raw.childElementCount < 2) raw.append(h("pre", { tabindex: 0 }, bdi(t.r || "not kept")),
    h("p", { class: "note" }, t.n ? `${number(t.n[0])} prompt and ${t.n[1]} response tokens. ` : "", t.v === undefined ? "" : `Weights of step ${t.v}. `, t.adv === undefined ? "" : `Advantage of this turn ${number(t.adv)}.`)); } }, h("summary", null, "raw response"));
  return h("td", { class: parted ? "first" : null }, parted ? h("div", { class: "tag" }, "first difference") : null, h("div", { class: "saw" }, bdi(t.o || "")), h("div", { class: "did" }, "> ", bdi(t.a)),
    t.bad ? h("span", { class: "tag bad" }, "\u2718 invalid") : null, t.cut ? h("span", { class: "tag" }, "cut at the length limit") : null, (t.s || []).map((name) => h("span", { class: "tag" }, "\u2605 ", bdi(name))), t.w ? h("span", { class: "tag" }, "reward " + number(t.w)) : null, raw);
}

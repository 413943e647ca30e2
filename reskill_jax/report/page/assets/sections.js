// The sections but that of episodes. Each takes the data and returns nodes.

function overview(data) {
  const run = data.run, last = data.evals[data.evals.length - 1], best = [];
  if (last) for (const [split, found] of Object.entries(last.splits)) best.push([
    "Held-out success, " + split, found.void ? "void" : percent(found.rate),
    [interval(found), ", after step " + last.step, found.n ? ", " + found.n + " tasks" : "", h("br"), "tasks ", bdi(last.panels[split] || "not recorded")]]);
  const recent = data.training.filter((p) => p.n).slice(-5), won = recent.reduce((t, p) => t + p.rate * p.n, 0), n = recent.reduce((t, p) => t + p.n, 0);
  const decided = data.trials.list, accepted = decided.filter((t) => t.verdict === "accepted").length;
  const counts = data.creator.counts, spent = data.creator.stages.reduce((t, x) => t + x.dollars, 0);
  const states = { running: "running now", finished: "finished", stopped: "stopped before its end" };
  const nodes = [cards([
    ["State", states[run.state], `step ${run.step} of ${run.total}`],
    ...best,
    run.best ? ["Best checkpoint", "step " + run.best.step, ["kept beside the newest, by ", bdi(run.best.metric), " ", number(run.best.value)]] : null,
    n ? ["Training success", percent(won / n), `mean of the last ${recent.length} steps, ${n} episodes`] : null,
    run.has_bank || decided.length ? ["Trials", `${accepted} of ${decided.length}`, "accepted of those decided; the library holds " + data.library.current.length + (data.library.current.length === 1 ? " skill" : " skills")] : null,
    ["Cost so far", duration(run.seconds), [run.tokens ? number(Math.round(run.tokens)) + " tokens trained on" : "no tokens trained on", h("br"),
      data.creator.total_calls ? `${number(data.creator.total_calls)} creator calls` + (data.creator.priced ? `, ${spent.toFixed(2)} dollars` : "") : "no language model was asked"]],
  ])];
  if (run.crash) nodes.push(h("p", { class: "warn" }, "The run ended with an error: ", bdi(run.crash)));
  if (run.problems.length) nodes.push(h("details", { class: "warn", open: run.problems.length < 4 }, h("summary", null, "Some files could not be read whole"),
    h("ul", null, run.problems.map((line) => h("li", null, bdi(line))))));
  nodes.push(lineChart({ title: "Success over the run", wide: true, percent: true, low: 0,
    note: "Held-out success with 95% intervals (Wilson) over its tasks; training success of single steps, and its mean over five steps. Decided trials are marked above.",
    empty: "Nothing was evaluated or trained yet.",
    series: [...splitSeries(data), { name: "training, mean of 5 steps", points: moving(data.training), plain: true }, { name: "training, each step", points: data.training.map((p) => [p.step, p.rate]), dots: true, paint: "var(--rule)" }].filter((line) => line.points.length),
    marks: decided.map((t) => ({ x: t.step, verdict: t.verdict, text: `step ${t.step}: ${t.verdict}: ${t.operations.join(", ")}` })) }));
  if (last) nodes.push(...byKind(data, last), ...sampled(data, last));
  if (!run.has_bank && !decided.length) nodes.push(h("p", { class: "note" }, "This run's method (", bdi(run.strategy), ") keeps no library of skills, or none was written yet."));
  return nodes;
}

function splitSeries(data) {
  const names = [...new Set(data.evals.flatMap((e) => Object.keys(e.splits)))];
  return names.map((split) => ({ name: split, points: data.evals.filter((e) => e.splits[split]).map((e) => { const f = e.splits[split]; return [e.step, f.rate, f.low, f.high]; }) }));
}

/** Success of samples, where evaluations have some beside the greedy episodes. */
function sampled(data, last) {
  const splits = Object.keys(last.splits).filter((x) => last.splits[x].sampled), nodes = [];
  for (const split of splits) {
    const now = last.splits[split].sampled, names = Object.keys(now.all), shown = [names[0], names[names.length - 1]].filter((name, i, all) => all.indexOf(name) === i);
    const cell = (found) => found ? [percent(found.rate), h("span", { class: "note" }, " " + interval(found))] : "\u2013";
    const row = (place, figures) => [place, ...names.map((name) => cell(figures[name]))];
    nodes.push(h("h3", null, "Sampled success, ", bdi(split)), h("p", { class: "note" }, `${now.samples} episodes per task at temperature ${now.temperature}, tasks `, bdi(last.panels[split] || "not recorded"), ". mean@n is their success, pass@k the chance that one of k succeeds; 95% intervals count tasks, since samples of one task are alike."),
      lineChart({ title: "Sampled success, " + split, wide: true, percent: true, low: 0, series: shown.map((name) => ({ name, points: data.evals.filter((e) => e.splits[split] && e.splits[split].sampled && e.splits[split].sampled.all[name]).map((e) => { const f = e.splits[split].sampled.all[name]; return [e.step, f.rate, f.low, f.high]; }) })) }),
      table("Sampled success", ["after step " + last.step, ...names], [row(h("strong", null, "all"), now.all), ...Object.entries(now.places).map(([place, figures]) => row(bdi(place), figures))], names.map((_, i) => i + 1)));
  }
  return nodes;
}

function moving(points, size = 5) {
  return points.map((p, i) => { const part = points.slice(Math.max(0, i - size + 1), i + 1); return [p.step, part.reduce((t, q) => t + q.rate, 0) / part.length]; });
}

function byKind(data, last) {
  const first = data.evals[0], splits = Object.keys(last.splits);
  const kinds = [...new Set(splits.flatMap((x) => Object.keys(last.splits[x].kinds)))];
  const columns = [...new Set(splits.flatMap((x) => Object.keys(last.splits[x].columns)))];
  const cell = (found) => found && found.rate !== null ? [percent(found.rate), found.low !== null && found.low !== undefined ? h("span", { class: "note" }, " " + interval(found)) : null] : "\u2013";
  const rows = (names, part) => names.map((name) => [bdi(name), ...splits.flatMap((x) => {
    const now = last.splits[x][part][name], then = first.splits[x] && first.splits[x][part][name];
    return [now && now.n ? now.n : "\u2013", cell(now), first === last || !then ? "\u2013" : percent(then.rate)];
  })]);
  const head = (what) => [what, ...splits.flatMap((x) => [[bdi(x), ", tasks"], "success", "step " + first.step])];
  const right = splits.flatMap((_, i) => [3 * i + 1, 3 * i + 2, 3 * i + 3]);
  return [h("h3", null, `By task type, after step ${last.step}`), kinds.length ? table("Success by task type", head("task type"), rows(kinds, "kinds"), right) : h("p", { class: "note" }, "The run kept no episodes of this evaluation, so that it cannot be split by type."),
    columns.length ? [h("h3", null, "By column of the paper"), h("p", { class: "note" }, "A column is the mean of several task types, each of which counts the same. One whose types the run's files do not name has no count and, but for a mean of all, no interval."), table("Success by column", head("column"), rows(columns, "columns"), right),
      (names => names.length ? h("ul", { class: "note" }, names) : [])(splits.flatMap((x) => columns.filter((name) => last.splits[x].columns[name] && last.splits[x].columns[name].kinds).map((name) => h("li", null, bdi(x), ", ", bdi(name), ": ", bdi(last.splits[x].columns[name].kinds.join(", "))))))] : []];
}

// ---- trials

function trials(data) {
  const all = data.trials, nodes = [];
  if (!all.list.length && !all.running) return [h("p", null, data.run.has_bank ? "No trial is decided yet." : ["This run's method (", bdi(data.run.strategy), ") holds no trials."]), ...expectations(all)];
  if (all.running) nodes.push(h("h3", null, "Not decided yet"), h("p", null, `A trial with ${all.running.path.length} steps so far; episodes by arm: ${all.running.episodes.map(number).join(", ")}. `,
    all.running.operations.length ? ["On trial: ", all.running.operations.flat().map((o) => h("span", { class: "tag" }, bdi(o)))] : "Its bundle is not in the run's files; bounds are those of bundles that add or change skills."), trialCharts(all.running, all));
  if (all.list.length) {
    const detail = h("div", { "aria-live": "polite" });
    const choose = (i) => { picker.value = i; detail.replaceChildren(...trial(all.list[i], i, all)); };
    const picker = h("select", { onchange: () => choose(Number(picker.value)) }, all.list.map((t, i) => h("option", { value: i }, `step ${t.step}, ${t.verdict}: ${t.operations.join(", ")}`)));
    nodes.push(h("h3", null, "Decided trials"), table("Decided trials", ["steps", "verdict", "bundle", "effect \u00b1 error", "where exposed", "episodes old, new", "success old, new", "why it ended", ""],
      all.list.map((t, i) => [t.start === null ? t.step : `${t.start + 1} to ${t.step}`, verdict(t.verdict), t.operations.map((o) => h("div", { class: "bundle" }, bdi(o))), t.contrast ? plusminus(t.contrast.effect, t.contrast.error) : "untested",
        t.contrast ? plusminus(t.contrast.exposed, t.contrast.exposed_error) : "\u2013", t.episodes ? t.episodes.join(", ") : "\u2013", t.rates ? t.rates.map((r) => percent(r, 0)).join(", ") : "\u2013", stop(t.stop),
        h("button", { class: "link", "aria-label": `Look at the trial of step ${t.step}: ${t.operations.join(", ")}`, onclick: () => { choose(i); picker.focus(); } }, "look")]), [0, 3, 4]));
    nodes.push(h("h3", null, "One trial"), h("div", { class: "filters" }, h("label", { class: "wide" }, "Trial", picker)), detail);
    const won = all.list.map((t) => t.verdict).lastIndexOf("accepted");
    choose(won < 0 ? all.list.length - 1 : won);
  }
  return [...nodes, ...expectations(all)];
}

function stop(reason) {
  return { clear: "clear early", limit: "at the last step", mean: "fixed length, by the mean", untested: "not tried" }[reason] || reason || "not recorded";
}

function trialCharts(t, all) {
  const posterior = { name: all.settings.mode === "paired" ? "posterior mean of the effect, 95%" : "difference of posterior means, 95%", band: true,
    points: t.path.filter((p) => p.mean !== undefined).map((p) => [p.step, p.mean, p.mean - 1.96 * p.sd, p.mean + 1.96 * p.sd]) };
  const raw = { name: "estimate within groups", points: t.path.map((p) => [p.step, p.effect]) };
  const rules = t.cost !== null && t.cost !== undefined ? [{ y: t.cost, name: "cost " + signed(t.cost) }] : [{ y: 0, name: "no effect" }];
  const chance = [{ name: all.settings.mode === "paper" ? "P(candidate is better)" : "P(effect > cost)", points: t.path.map((p) => [p.step, p.probability]) }];
  if (t.bounds) chance.push({ name: "accept at or above", points: t.path.map((p, i) => [p.step, t.bounds[Math.min(i + 1, t.bounds.length - 1)][1]]), plain: true }, { name: "reject at or below", points: t.path.map((p, i) => [p.step, t.bounds[Math.min(i + 1, t.bounds.length - 1)][0]]), plain: true });
  if (!t.path.length) return h("p", { class: "note" }, "The run files hold no course of this trial.");
  return h("div", { class: "grid" }, lineChart({ title: "Posterior of the effect", percent: true, series: [posterior, raw], rules }),
    lineChart({ title: "When it stops", percent: true, low: 0, high: 1, series: chance, note: t.bounds ? `No decision before step ${all.settings.min_steps} and ${number(all.settings.min_episodes)} episodes.` : "Trials of this kind have no stop bounds." }));
}

function trial(t, i, all) {
  const nodes = [h("p", null, verdict(t.verdict), " at step " + t.step + ". ", t.operations.map((o) => h("span", { class: "tag" }, bdi(o))),
    h("button", { class: "link", onclick: () => go("library", () => reveal("trial-" + i)) }, "What it changes, and why")), trialCharts(t, all)];
  if (t.contrast) nodes.push(table("Effects", ["episodes", "effect \u00b1 standard error", "P(effect > cost)"], [
    ["all", plusminus(t.contrast.effect, t.contrast.error), percent(t.contrast.probability)],
    ["exposed: a changed skill could have fired", plusminus(t.contrast.exposed, t.contrast.exposed_error), "\u2013"],
    ["unexposed: both arms saw the same, no discount", unexposed(t), "\u2013"]], [2]));
  const groups = t.groups;
  if (!groups.length) return [...nodes, h("p", { class: "note" }, "No group of the kept episodes has both arms.")];
  const kinds = [...new Set(groups.map((g) => g.kind))].sort();
  const count = (kind, outcome) => groups.filter((g) => (kind === null || g.kind === kind) && g.outcome === outcome);
  const box = h("div", { "aria-live": "polite" });
  const cell = (kind, outcome) => {
    const found = count(kind, outcome);
    if (!found.length) return "0";
    return h("button", { class: "link", "aria-label": `${found.length} groups, ${outcome}, ${kind || "all types"}: list them`, onclick: () => box.replaceChildren(...groupList(found, outcome, kind, t)) }, found.length);
  };
  const row = (name, kind) => [name, cell(kind, "win"), cell(kind, "tie"), cell(kind, "loss")];
  return [...nodes, h("h4", null, "Groups in which both libraries played the same task"), h("p", { class: "note" }, "Win: the candidate's rollouts succeeded more often than the accepted library's. The figures open the groups."),
    table("Wins, ties and losses by task type", ["task type", "\u25b2 win", "= tie", "\u25bc loss"], [...kinds.map((kind) => row(bdi(kind), kind)), row(h("strong", null, "all"), null)], [1, 2, 3]), box];
}

function unexposed(t) {
  return t.unexposed ? `${plusminus(t.unexposed.effect, t.unexposed.error)} (${t.unexposed.episodes.join(" and ")} episodes)` : "not in the run's files";
}

function groupList(found, outcome, kind, t) {
  return [h("h4", null, `${found.length} groups, ${outcome}`, kind ? [", ", bdi(kind)] : ""), h("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Groups" }, h("ul", null, found.map((g) => h("li", null,
    h("button", { class: "link", onclick: () => go("episodes", () => episodesView.find({ phase: "train", step: g.step, group: g.group })) }, `step ${g.step}, group ${g.group}: new ${g.new[0]} of ${g.new[1]}, old ${g.old[0]} of ${g.old[1]}`)))))];
}

function expectations(all) {
  if (!all.expected) return [];
  const e = all.expected, sure = (v) => v === undefined || v === null ? "not recorded" : percent(v);
  return [h("h3", null, "What these trials are expected to decide"), h("p", null, "Rates of acceptance, simulated for this run's shape when it started", all.shape ? ` (${all.shape.tasks} tasks x ${all.shape.group_size} rollouts, ${all.shape.candidates} candidate${all.shape.candidates === 1 ? "" : "s"})` : "", ", preset ", bdi(all.preset || "not recorded"), "."),
    table("Expected error rates", ["what is tried", "accepted"], [["a bundle that does nothing (error)", sure(e.null)], ["a bundle worth \u22125 points (error)", sure(e.harmful)], ["a bundle worth +5 points", sure(e.helpful)],
      ["dropping skills that do nothing", sure(e.null_delete)], ["dropping skills worth 5 points (error)", sure(e.harmful_delete)], ["steps of a trial, on average", number(e.steps)]], [1]),
    all.changed && Object.keys(all.changed).length ? h("p", { class: "note" }, "Departing from the preset: ", bdi(Object.entries(all.changed).map(([k, v]) => `${k}=${v}`).join(", "))) : null];
}

// ---- library

function library(data) {
  const lib = data.library;
  if (!lib.changes.length && !lib.current.length && !lib.spans.length) return [h("p", null, data.run.has_bank ? "The library is empty, and no change of it was decided yet." : ["This run's method (", bdi(data.run.strategy), ") keeps no library of skills."])];
  const ending = "/effect_logprob", meter = Object.entries(data.metrics.names).filter(([name]) => name.startsWith("skills/") && name.endsWith(ending));
  const newest = (values) => values.reduce((last, v, i) => v === null ? last : [data.metrics.steps[i], v], null);
  return [timeline(data), bankGraph(data),
    meter.length ? [lineChart({ title: "Skill meter: change of a response's log-prob by a skill (nats per token)", wide: true, rules: [{ y: 0, name: "no effect" }], note: "Near 0: the policy says the same without the skill." + (meter.length > 6 ? ` The first 6 of ${meter.length} skills are drawn, the table has all.` : ""),
      series: meter.slice(0, 6).map(([name, values]) => ({ name: name.slice(7, -ending.length), points: values.map((v, i) => [data.metrics.steps[i], v]).filter(([, v]) => v !== null) })) }),
      table("Newest figures of the skill meter", ["skill", "step", "nats per token"], meter.map(([name, values]) => { const last = newest(values); return [bdi(name.slice(7, -ending.length)), last ? last[0] : "\u2013", last ? last[1].toFixed(3) : "\u2013"]; }), [1, 2])] : h("p", { class: "note" }, "The run's files hold no figures of an effect meter."),
    h("h3", null, "Changes, newest first"), lib.changes.length ? changes(lib) : h("p", null, "No change was decided yet."),
    h("h3", null, `The library now: ${lib.current.length} ${lib.current.length === 1 ? "skill" : "skills"}`), lib.current.map((skill) => h("details", { open: lib.current.length < 3 }, h("summary", null, bdi(skill.name), "/SKILL.md"), h("pre", { tabindex: 0 }, bdi(skill.text))))];
}

function timeline(data) {
  const spans = data.library.spans, end = Math.max(data.run.step, 1), row = 24, width = 960, left = 230, right = 20, height = spans.length * row + 48;
  const x = (v) => left + v / end * (width - left - right);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Timeline of skills, the figures are in the list of changes" });
  for (const t of ticks(0, end, 10).filter(Number.isInteger)) svg.append(s("line", { x1: x(t), x2: x(t), y1: 4, y2: height - 38, stroke: "var(--grid)" }), s("text", { x: x(t), y: height - 22, "text-anchor": "middle" }, t));
  svg.append(s("text", { x: (left + width) / 2, y: height - 5, "text-anchor": "middle" }, "step"));
  spans.forEach((span, i) => {
    const y = 4 + i * row + row / 2, name = span.name.length > 32 ? span.name.slice(0, 31) + "\u2026" : span.name;
    svg.append(s("text", { x: left - 12, y: y + 4, "text-anchor": "end", class: "strong" }, name));
    for (const [from, to] of span.lives) svg.append(s("rect", { x: x(from), y: y - 6, width: Math.max(x(to ?? end) - x(from), 2), height: 12, fill: "var(--c0)", "fill-opacity": 0.35, stroke: "var(--c0)" }));
    for (const [step, op, word] of span.events) {
      if (word === "on trial" && step < end) svg.append(s("path", { d: `M${x(step)} ${y}H${x(end)}`, stroke: "var(--rule)", "stroke-width": 2, "stroke-dasharray": "4 3" }));
      svg.append(s("g", null, s("title", null, `step ${step}: ${op} ${word}`),
      marker(word === "accepted" ? (op === "add" ? 2 : op === "delete" ? 1 : 3) : word === "rejected" ? "cross" : word === "on trial" ? 0 : "ring", x(step), y, word === "accepted" ? "var(--good)" : word === "rejected" ? "var(--bad)" : "var(--rule)", 5)));
    }
  });
  const good = "var(--good)";
  return h("figure", null, h("figcaption", null, "Timeline of skills"), h("p", { class: "note" }, "A bar: the skill is in the accepted library."),
    legend([{ name: "added", shape: 2, paint: good }, { name: "changed", shape: 3, paint: good }, { name: "deleted", shape: 1, paint: good }, { name: "change rejected", shape: "cross", paint: "var(--bad)" }, { name: "not chosen", shape: "ring", paint: "var(--rule)" }, { name: "on trial", dash: "4 3", paint: "var(--rule)" }]), sideways("timeline of skills", svg));
}

function bankGraph(data) {
  const banks = data.library.banks;
  if (!banks.length) return h("p", { class: "note" }, "No candidate library was decided yet.");
  const line = [banks[0].from], tried = [[]];
  for (const bank of banks) {
    if (bank.verdict === "accepted") { line.push(bank.to); tried.push([]); }
    else tried[Math.max(line.lastIndexOf(bank.from), 0)].push(bank);
  }
  const cell = 176, tall = 50, across = tried.map((own) => Math.min(Math.max(own.length, 1), 4));
  const starts = across.map((_, i) => 6 + across.slice(0, i).reduce((sum, n) => sum + n * cell, 0));
  const width = starts[starts.length - 1] + across[across.length - 1] * cell + 10, height = 56 + tall * Math.max(...tried.map((own) => Math.ceil(own.length / 4)));
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "fixed", role: "img", "aria-label": "Graph of libraries, see the list of changes" });
  const box = (x, y, hash, text, paint) => [s("rect", { x, y, width: 160, height: 40, rx: 6, fill: "var(--panel)", stroke: paint, "stroke-width": 1.5 }), s("text", { x: x + 80, y: y + 17, "text-anchor": "middle", class: "strong" }, hash), s("text", { x: x + 80, y: y + 33, "text-anchor": "middle" }, text)];
  line.forEach((hash, i) => {
    const x = starts[i], born = i ? banks.filter((b) => b.verdict === "accepted")[i - 1] : null;
    if (i) svg.append(s("path", { d: `M${starts[i - 1] + 160} 26H${x - 3}M${x - 9} 21L${x - 3} 26L${x - 9} 31`, fill: "none", stroke: "var(--good)", "stroke-width": 2 }));
    svg.append(...box(x, 6, hash, born ? "\u2714 accepted, step " + born.step : "the first one", "var(--good)"));
    tried[i].forEach((bank, k) => {
      const left = x + (k % 4) * cell + 8, top = 56 + Math.floor(k / 4) * tall;
      if (k < 4) svg.append(s("path", { d: k ? `M${left - 16} ${top + 20}H${left}` : `M${left + 12} 46V${top}`, fill: "none", stroke: "var(--rule)", "stroke-dasharray": "3 3" }));
      svg.append(...box(left, top, bank.to, (bank.verdict === "rejected" ? "\u2718 rejected, step " : bank.verdict === "on trial" ? "\u2026 on trial since step " : "\u25cb not chosen, step ") + bank.step, bank.verdict === "rejected" ? "var(--bad)" : "var(--rule)"));
    });
  });
  return h("figure", null, h("figcaption", null, "Libraries by content hash"), h("p", { class: "note" }, "To the right: accepted. Below: candidates that grew from a library, not accepted or on trial."), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Graph of libraries" }, svg));
}

function changes(lib) {
  return lib.changes.map((c, i) => [c, i]).reverse().map(([c, i]) => h("div", { class: "change", id: c.trial !== null && lib.changes.findIndex((o) => o.trial === c.trial) === i ? "trial-" + c.trial : null, tabindex: -1 },
    h("h4", null, `${c.op} `, bdi(c.name)), h("p", null, verdict(c.verdict), c.trial === null ? `, from step ${c.step + 1}` : ` at step ${c.step}`, c.start === null || c.start === undefined || c.start === c.step ? "" : `, tried from step ${c.start + 1}`),
    c.reason ? h("p", null, "Reason: ", bdi(c.reason)) : null, c.evidence ? h("p", null, "Evidence: ", bdi(c.evidence)) : null,
    (c.meter || []).map((m) => h("p", null, `Skill meter, ${m.arm ? "candidate" : "accepted library"}: `, bdi(m.verdict), `, ${nats(m.mean)} nats per token (at first ${nats(m.first)}), ${m.turns} turns`)),
    c.unknown ? h("p", { class: "note" }, "The earlier text is of the first library and not in the run's files.") : null,
    c.diff.length ? h("details", null, h("summary", null, "Words that differ"), h("dl", null, c.diff.map((f) => [h("dt", null, f.field.replace(/_/g, " ")), h("dd", null, f.parts.map(([kind, text]) => kind === "=" ? bdi(text) : h(kind === "+" ? "ins" : "del", null, bdi(text))))]))) : null));
}

function nats(value) { return value === null ? "unknown" : value.toFixed(3); }

function reveal(id) { const node = document.getElementById(id); if (node) { node.scrollIntoView({ block: "start" }); node.focus(); } }

// ---- training

const CHARTS = [["Entropy of the policy", ["grpo/entropy"]], ["KL from the reference", ["grpo/kl"]], ["Share of clipped tokens", ["grpo/clip_fraction", "grpo/clip_fraction_low", "grpo/clip_fraction_high", "grpo/dual_clip_fraction"]],
  ["Groups trained on without a difference in reward", ["adv/zero_std_groups"]], ["Log-prob difference, sampler and trainer (nats)", ["rollout/logprob_diff", "rollout/logprob_diff_max"]],
  ["Tokens per prompt", ["rollout/prompt_tokens"]], ["Turns per episode", ["rollout/turns"]], ["Share of valid turns", ["rollout/valid"]],
  ["Updates between sampling and training (staleness)", ["rollout/staleness"]], ["Gradient norm", ["update/grad_norm"]], ["Loss", ["grpo/loss"]], ["Skills shown per turn", ["skills/active_per_turn"]], ["Tokens trained on per step", ["batch/tokens"]]];
// Of what was played; a name that ends with * stands for all that begin so.
const PLAYED = [["Reward", ["rollout/reward", "rollout/reward_std"]], ["Groups that are solved always, never, or whose rewards are equal (shares)", ["rollout/solve_all", "rollout/solve_none", "rollout/frac_reward_zero_std"]],
  ["pass@k in training groups, arms pooled", ["rollout/pass@*"]], ["Success by task type", ["rollout/success/*"]],
  ["Tokens per response", ["rollout/response_length/mean", "rollout/response_length/max"]], ["Tokens that an episode said", ["rollout/episode_length/mean", "rollout/episode_length/max"]],
  ["Cut at the length limit: share of responses, of episodes", ["rollout/response_length/clip_ratio", "rollout/episode_length/clip_ratio"]]];

function training(data) {
  const { steps, names, stride } = data.metrics;
  if (!steps.length) return [h("p", null, "No training step is done yet.")];
  const line = (name) => ({ name, points: names[name].map((v, i) => [steps[i], v]) });
  const nodes = [];
  if (stride > 1) nodes.push(h("p", { class: "note" }, `Every ${stride}th step is drawn.`));
  nodes.push(waterfall(data));
  const grid = h("div", { class: "grid" }), charts = [...PLAYED, ...CHARTS];
  const match = (wanted) => wanted.flatMap((name) => name.endsWith("*") ? Object.keys(names).filter((n) => n.startsWith(name.slice(0, -1))).sort((a, b) => a.localeCompare(b, "en", { numeric: true })) : names[name] ? [name] : []);
  for (const [title, wanted] of charts) {
    const there = match(wanted);
    const note = there.length > COLOURS ? `The first ${COLOURS} of ${there.length}; the others are below, one by one.` : null;
    if (there.length) grid.append(lineChart({ title, note, series: there.slice(0, COLOURS).map(line), low: there.every((n) => names[n].every((v) => v === null || v >= 0)) ? 0 : undefined }));
  }
  nodes.push(grid);
  const missing = charts.filter(([, wanted]) => !match(wanted).length).map(([title]) => title);
  if (missing.length) nodes.push(h("p", { class: "note" }, "Not in this run's files: " + missing.join("; ") + "."));
  const memory = Object.keys(names).filter((n) => /memory|bytes|rss/i.test(n));
  nodes.push(h("h3", null, "Memory"), memory.length ? lineChart({ title: "Memory", wide: true, series: memory.map(line) }) : h("p", { class: "note" }, "The run's files hold no figures of memory."));
  const box = h("div"), picker = h("select", { onchange: () => box.replaceChildren(lineChart({ title: picker.value, wide: true, series: [line(picker.value)] })) }, Object.keys(names).map((n) => h("option", { value: n }, n)));
  nodes.push(h("h3", null, "Any other metric"), h("div", { class: "filters" }, h("label", { class: "wide" }, "Metric", picker)), box);
  box.append(lineChart({ title: picker.value, wide: true, series: [line(picker.value)] }));
  return nodes;
}

function waterfall(data) {
  const { steps, names } = data.metrics, time = (name) => names["time/" + name] || steps.map(() => null);
  const step = time("step"), wait = time("wait"), update = time("update");
  const parts = [{ name: "waiting for episodes", values: wait }, { name: "update of the policy", values: update },
    { name: "the rest (creator, trial, advantages, log)", values: step.map((v, i) => v === null ? null : Math.max(0, v - (wait[i] || 0) - (update[i] || 0))) }].filter((p) => p.values.some((v) => v));
  const every = Math.ceil(steps.length / 200), keep = (list) => list.filter((_, i) => i % every === 0);
  return stackedBars("Where the time of a step goes", "With overlap, episodes are played while the policy is updated: then only the waiting counts." + (every > 1 ? ` Every ${every}th step.` : ""), keep(steps), parts.map((p) => ({ ...p, values: keep(p.values) })), "seconds");
}

// ---- creator

function creator(data) {
  const c = data.creator, nodes = [h("p", null, "Creator: ", bdi(c.name || "none"), ".")];
  const refused = Object.entries(c.counts).filter(([name]) => name.startsWith("rejected/"));
  const failed = Object.entries(c.counts).filter(([name]) => name.startsWith("errors"));
  const decided = data.trials.list;
  nodes.push(h("h3", null, "What became of its proposals"), table("Proposals", ["", "number"], [["put on trial or accepted untested", number(c.counts.proposals || 0)], ["times that it had nothing to propose", number(c.counts.no_proposal || 0)],
    ["accepted", number(decided.filter((t) => t.verdict === "accepted").length)], ["rejected by a trial", number(decided.filter((t) => t.verdict === "rejected").length)], ["not chosen", number(decided.filter((t) => t.verdict === "not chosen").length)]], [1]));
  nodes.push(h("h3", null, "Refused by verification"), refused.length ? table("Refusals", ["reason", "number"], refused.map(([n, v]) => [n.slice(9).replace(/_/g, " "), number(v)]), [1]) : h("p", null, "No proposal was refused before its trial."));
  nodes.push(h("h3", null, "Calls to language models"));
  if (!c.total_calls) return [...nodes, h("p", null, "None: " + (c.name === "offline" || c.name === "laboratory" ? "this creator works by rule." : "no call is in the run's files.")), otherCounts(c)];
  nodes.push(table("Calls", ["stage", "model", "calls", "from a log", "failed", "tokens in", "tokens out", "seconds", "dollars"], c.stages.map((x) => [bdi(x.stage), bdi(x.model), x.calls, x.recorded, x.failed, number(x.in), number(x.out), number(x.seconds), c.priced ? x.dollars.toFixed(4) : "no price set"]), [2, 3, 4, 5, 6, 7, 8]));
  if (failed.length) nodes.push(h("h3", null, "Failures"), table("Failures", ["kind", "number"], failed.map(([n, v]) => [n.replace(/_/g, " "), number(v)]), [1]));
  nodes.push(h("h3", null, c.calls.length < c.total_calls ? `The newest ${c.calls.length} of ${c.total_calls} calls` : "All calls"), c.calls.slice().reverse().map((call) => {
    const box = h("details", { ontoggle: () => { if (box.open && box.childElementCount < 2) box.append(h("h4", null, "Prompt"), h("pre", { tabindex: 0 }, bdi(call.prompt)), h("h4", null, call.error ? "Error" : "Answer"), h("pre", { tabindex: 0 }, bdi(call.error || call.response))); } },
      h("summary", null, `cycle ${call.cycle}, `, bdi(call.stage), `, ${number(call.seconds)} s, ${call.tokens[0]} + ${call.tokens[1]} tokens`, call.recorded ? ", from a log" : "", call.error ? h("span", { class: "bad" }, " \u2718 failed") : ""));
    return box;
  }));
  nodes.push(otherCounts(c));
  return nodes;
}

function otherCounts(c) {
  const names = Object.keys(c.counts);
  return names.length ? h("details", null, h("summary", null, "All counts of the creator"), table("Counts", ["name", "sum over steps"], names.map((n) => [bdi(n), number(c.counts[n])]), [1])) : null;
}

// ---- comparison

function comparison(data) {
  const c = data.comparison;
  if (!c) return [h("p", null, "This report is of one run. To compare: --mode=report --workdir=A --compare=B,C")];
  const nodes = [h("p", null, c.step === null ? "No step at which all were evaluated." : `Figures are of step ${c.step}, the last one at which all ${c.runs.length} runs were evaluated, on the same tasks. `, "Runs that differ in the seed only are one group.")];
  [...c.behind, ...c.unlike].forEach((line) => nodes.push(h("p", { class: "warn" }, bdi(line))));
  for (const split of c.splits) {
    nodes.push(h("h3", null, bdi(split)), lineChart({ title: "Success, " + split, wide: true, percent: true, low: 0, series: c.runs.map((r) => ({ name: `${r.name} (seed ${r.seed})`, points: r.curve[split] })) }));
    nodes.push(table("Mean success", ["group", "figure", "runs", "mean", "95% interval over runs"], c.means.filter((m) => m.split === split).map((m) => [bdi(m.group), m.figure, m.n, percent(m.mean), m.half === null ? "needs two runs" : m.half === 0 ? "none, the runs are equal" : `\u00b1 ${(100 * m.half).toFixed(1)} points`]), [2, 3, 4]));
    const differences = c.differences.filter((d) => d.split === split);
    if (differences.length) nodes.push(table("Paired differences", ["difference", "figure", "on the same tasks, 95%", "tasks better, same, worse", "between runs of the same seed, 95%"], differences.map((d) => [[bdi(d.other), " minus ", bdi(d.first)], d.figure, half(d.tasks), d.wins.join(", "), half(d.seeds)]), []));
  }
  nodes.push(h("h3", null, "Runs"), table("Runs", ["run", "seed", "group"], c.runs.map((r) => [bdi(r.name), String(r.seed), bdi(r.group)])));
  return nodes;
}

function half(found) {
  if (found.mean === null) return "not measured";
  return signed(found.mean) + (found.half === null ? " (one pair, no interval)" : ` \u00b1 ${(100 * found.half).toFixed(1)} (${found.n})`);
}

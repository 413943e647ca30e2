// Unpacks the data and shows one section at a time.

const SECTIONS = [["overview", "Overview", overview], ["trials", "Trials", trials], ["library", "Library", library], ["episodes", "Episodes", episodes],
  ["training", "Training", training], ["creator", "Creator", creator], ["comparison", "Comparison", comparison]];

let go = () => {};

async function read() {
  const node = document.getElementById("data"), text = node.textContent;
  node.remove();
  if (node.type === "application/json") return JSON.parse(text);
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
}

function show(data) {
  const run = data.run, main = document.getElementById("main"), menu = document.getElementById("menu"), made = new Set(), nodes = {}, links = {};
  document.title = shown(run.name) + ": report";
  document.getElementById("title").replaceChildren("Run ", bdi(run.name));
  document.getElementById("subtitle").replaceChildren(bdi(run.strategy || "?"), " on ", bdi(run.environment || "?"), ", policy ", bdi(run.policy), `, seed ${run.seed}`);
  document.getElementById("made").textContent = `Made ${run.made} from the run's directory.`;
  main.replaceChildren();
  for (const [id, title, draw] of SECTIONS) {
    if (id === "comparison" && !data.comparison) continue;
    links[id] = h("a", { href: "#" + id }, title);
    menu.append(h("li", null, links[id]));
    nodes[id] = h("section", { id: "section-" + id, "aria-labelledby": "title-" + id, hidden: true }, h("h2", { id: "title-" + id, tabindex: -1 }, title));
    main.append(nodes[id]);
    nodes[id].draw = () => { if (!made.has(id)) { made.add(id); nodes[id].append(...[draw(data)].flat(Infinity).filter(Boolean)); } };
  }
  const turnTo = (id) => {
    for (const [name, node] of Object.entries(nodes)) { node.hidden = name !== id; if (name === id) links[name].setAttribute("aria-current", "page"); else links[name].removeAttribute("aria-current"); }
    nodes[id].draw();
    if (id === "episodes" && episodesView) episodesView.shown();
  };
  go = (id, then) => { if (location.hash !== "#" + id) history.replaceState(null, "", "#" + id); turnTo(id); if (then) then(); };
  const follow = () => { const id = location.hash.slice(1); if (id !== "main") turnTo(nodes[id] ? id : "overview"); };
  window.addEventListener("hashchange", () => { follow(); window.scrollTo(0, 0); });
  follow();
  document.documentElement.dataset.ready = "yes";
}

read().then(show).catch((error) => {
  document.getElementById("main").replaceChildren(h("p", { class: "warn", role: "alert" }, "The page cannot be drawn: " + error));
  throw error;
});

// Score a picture: what POST /v1/score takes and answers, of one reward service or of a gateway over several.

import { address, ask, byId, enter, Fault, faultBox, headline, make, shellQuoted, showCode, submitOnEnter, token } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
const SAMPLE = "picture"; // the sample's id, and so the name of the file's part
const COARSE = 256; // pixels of a side below which a picture is shown with square pixels
const MEANINGS = {
  comp: "target words read exactly",
  sim: "closeness of the nearest words",
  pen: "characters too many or missing, subtracted",
  mu: "preference",
  log_sigma: "logarithm of its spread",
};

let info, file, pending;

// What the service is.

async function load() {
  info = await (await ask("v1/info")).json();
  const gateway = "rewards" in info;
  byId("title").textContent = gateway ? "Score a picture by several rewards" : `Score a picture: ${info.reward}`;
  document.title = `varl: ${byId("title").textContent}`;
  byId("model").textContent = gateway ? Object.keys(info.rewards).join(", ") : modelName(info.model);
  if (gateway) showRewards();
  const offers = gateway ? info.rewards : { [info.reward]: info };
  byId("formulas").replaceChildren(...Object.entries(offers).flatMap(([name, one]) => formulaField(name, one, gateway)));
  byId("formulas").hidden = !byId("formulas").children.length;
}

const modelName = (model) => [model.engine, model.name, model.revision].filter(Boolean).join(" · ");

function showRewards() {
  const boxes = Object.entries(info.rewards).map(([name, one]) => {
    const box = make("input", { type: "checkbox", name: "reward", value: name, checked: true });
    return make("label", { className: "check" }, box, one.state === "ready" ? name : `${name} (${one.state})`);
  });
  byId("rewards").replaceChildren(byId("rewards").firstElementChild, ...boxes);
  byId("rewards").hidden = false;
}

function formulaField(name, offer, gateway) {
  if (offer.formulas.length < 2) return [];
  const id = `formula-${name}`;
  const select = make("select", { id, name: "formula" }, ...offer.formulas.map((each) => make("option", {}, each)));
  select.dataset.reward = name;
  return [make("label", { htmlFor: id }, gateway ? `Formula of ${name}` : "Formula"), select];
}

// The picture.

async function choose(chosen) {
  if (!chosen) return;
  pending?.abort(); // its answer would be of another picture
  file = chosen;
  byId("results").replaceChildren();
  byId("same").hidden = true;
  byId("drop").classList.add("full");
  byId("drop-text").hidden = true;
  const image = make("img", { alt: `The chosen picture, ${file.name}` });
  const last = byId("picture").querySelector("img");
  if (last) URL.revokeObjectURL(last.src);
  image.src = URL.createObjectURL(file);
  byId("picture").replaceChildren(image);
  byId("picture").hidden = false;
  try {
    await image.decode();
    byId("picture").classList.toggle("coarse", Math.max(image.naturalWidth, image.naturalHeight) < COARSE);
    byId("picture").style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  } catch {
    image.alt = `${file.name}, which the browser cannot show`;
  }
}

/** Outline polygons over the picture; returns what lights the i-th one up. */
function outline(polygons) {
  const image = byId("picture").querySelector("img");
  byId("picture").querySelector("svg")?.remove();
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${image.naturalWidth} ${image.naturalHeight}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true"); // the list of words says the same
  const shapes = polygons.map((corners) => {
    const pair = ["under", "over"].map((kind) => {
      const shape = document.createElementNS(SVG, "polygon");
      shape.setAttribute("class", kind);
      shape.setAttribute("points", corners.map((corner) => corner.join(",")).join(" "));
      return shape;
    });
    svg.append(...pair);
    return pair[1];
  });
  byId("picture").append(svg);
  return (index, on) => shapes[index].classList.toggle("lit", on);
}

// The request.

function requestBody() {
  const sample = { id: SAMPLE, prompt: byId("prompt").value.trim() };
  const words = byId("words").value.split(/\s+/u).filter(Boolean);
  if (words.length) sample.target_words = words;
  const metadata = byId("metadata").value.trim();
  if (metadata) sample.metadata = parsed(metadata);
  const formulas = [...document.getElementsByName("formula")].filter((each) => each.selectedIndex > 0);
  if (!("rewards" in info)) return { ...(formulas.length ? { formula: formulas[0].value } : {}), samples: [sample] };
  const boxes = [...document.getElementsByName("reward")];
  const wanted = boxes.filter((box) => box.checked).map((box) => box.value);
  if (!wanted.length) throw new Fault("No reward is chosen", "Choose at least one.");
  const chosen = formulas.filter((each) => wanted.includes(each.dataset.reward));
  return {
    ...(wanted.length < boxes.length ? { rewards: wanted } : {}),
    ...(chosen.length ? { formulas: Object.fromEntries(chosen.map((each) => [each.dataset.reward, each.value])) } : {}),
    samples: [sample],
  };
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    if (value && typeof value === "object" && !Array.isArray(value)) return value;
  } catch {} // told below
  throw new Fault("The metadata is no JSON object", 'Write it like {"count": 3}.');
}

function checkFile() {
  if (!file) throw new Fault("There is no picture yet", "Drop one, paste one, or choose a file.");
  if (file.size > info.max_image_bytes) {
    const detail = `${file.name} has ${megabytes(file.size)}; this service takes at most ${megabytes(info.max_image_bytes)}.`;
    throw new Fault(headline("image_too_large"), detail);
  }
}

const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

async function score() {
  checkFile();
  const request = requestBody();
  const form = new FormData();
  form.append("request", JSON.stringify(request));
  form.append(SAMPLE, file, file.name);
  pending = new AbortController();
  showCode(byId("code"), { curl: curlOf(request), Python: pythonOf(request) });
  byId("same").hidden = false;
  return (await ask("v1/score", { method: "POST", body: form, signal: pending.signal })).json();
}

// The answer.

function show(answer) {
  const answers = answer.rewards ?? { [answer.reward]: answer };
  const outcomes = Object.entries(answers).map(([name, each]) => [name, each.error ? each : each.results[0]]);
  const marks = outcomes.flatMap(([, one]) => (one.error ? [] : marksOf(one)));
  const light = outline(marks.map((mark) => mark.polygon));
  let next = 0;
  byId("results").replaceChildren(
    ...outcomes.map(([name, one]) => {
      if (one.error) return failure(outcomes.length > 1 ? `${name}: ` : "", one.error);
      const first = next;
      next += marksOf(one).length;
      return scoreCard(name, one, (index, on) => light(first + index, on));
    }),
  );
}

const marksOf = (one) => [...one.words, ...one.regions.map((region) => ({ text: region.label || "region", ...region }))];

const failure = (prefix, error) => faultBox(new Fault(prefix + headline(error.code), error.detail));

function scoreCard(name, one, light) {
  const head = make("h2", {}, name);
  const value = make("output", { className: "value" }, one.value.toFixed(3));
  const parts = Object.entries(one.components).map(([part, number]) =>
    make("div", {}, make("dt", {}, part, meaning(part)), make("dd", {}, number.toFixed(3))),
  );
  const card = make("section", { className: "card" }, make("div", { className: "score" }, head, value));
  if (parts.length) card.append(make("dl", { className: "parts" }, ...parts));
  const marks = marksOf(one);
  if (marks.length) card.append(make("ul", { className: "words", "aria-label": "Found in the picture" }, ...markList(marks, light)));
  return card;
}

const meaning = (part) => make("small", {}, MEANINGS[part] ? ` ${MEANINGS[part]}` : "");

function markList(marks, light) {
  return marks.map((mark, index) => {
    const share = mark.confidence === undefined ? "" : ` ${Math.round(100 * mark.confidence)} %`;
    const button = make("button", { type: "button", className: "small" }, mark.text, make("span", {}, share));
    for (const [event, on] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]]) {
      button.addEventListener(event, () => light(index, on));
    }
    return make("li", {}, button);
  });
}

// The same request as code, right when pasted.

function curlOf(request) {
  const path = /[",;\\]/u.test(file.name) ? `"${file.name.replaceAll(/["\\]/gu, "\\$&")}"` : file.name; // curl's own quotes
  const secret = token() ? ['  -H "Authorization: Bearer $VARL_TOKEN"'] : [];
  return [
    `curl ${shellQuoted(address("v1/score"))}`,
    ...secret,
    `  --form-string ${shellQuoted(`request=${JSON.stringify(request)}`)}`,
    `  -F ${shellQuoted(`${SAMPLE}=@${path}`)}`,
  ].join(" \\\n");
}

function pythonOf(request) {
  const secret = token() ? ['    headers={"Authorization": f"Bearer {os.environ[\'VARL_TOKEN\']}"},'] : [];
  return [
    ...(token() ? ["import os", ""] : []),
    "import httpx  # pip install httpx",
    "",
    "answer = httpx.post(",
    `    ${JSON.stringify(address("v1/score"))},`,
    ...secret,
    `    data={"request": ${JSON.stringify(JSON.stringify(request))}},`,
    `    files={"${SAMPLE}": open(${JSON.stringify(file.name)}, "rb")},`,
    "    timeout=60,",
    ")",
    "print(answer.json())",
  ].join("\n");
}

// Events.

byId("file").addEventListener("change", (event) => choose(event.target.files[0]));
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault(); // a picture dropped beside the frame must not replace the page
    byId("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") choose(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
submitOnEnter(byId("prompt"));
byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("send").disabled = true;
  byId("send").textContent = "Scoring…";
  byId("picture").querySelector("svg")?.remove();
  try {
    show(await score());
  } catch (fault) {
    if (fault.name !== "AbortError") byId("results").replaceChildren(faultBox(fault));
  }
  byId("send").disabled = false;
  byId("send").textContent = "Score";
});

enter(load);

// Draw a picture scale by scale, with the same seed from one set of weights or from two side by side.

import { address, ask, byId, enter, Fault, faultBox, make, shellQuoted, showCode, submitOnEnter, token } from "./page.js";

const COARSE = 256; // pixels of a side below which a picture is shown with square pixels
const PAUSE = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 160; // ms that a scale is seen at least

let info;
let panels = []; // one for each set of weights: canvas, caption, and the frames that came so far

// What the service is.

async function load() {
  info = await (await ask("v1/info")).json();
  const [height, width] = [info.height, info.width];
  byId("model").textContent = `${info.model} · ${width}×${height} pixels in ${info.scales.length} scales`;
  byId("temperature").value = info.temperature;
  const options = () => info.weights.map((name) => make("option", { value: name }, nameOf(name)));
  byId("left").replaceChildren(...options());
  byId("right").replaceChildren(make("option", { value: "" }, "none"), ...options());
  byId("beside").hidden = info.weights.length < 2;
  byId("right").value = ["final", "current", info.weights.at(-1)].find((name) => info.weights.includes(name));
  if (info.weights.length < 2) byId("right").value = "";
  byId("scale").max = info.scales.length;
  byId("scale").value = info.scales.length;
  layOut();
}

const nameOf = (name) => (name === "current" ? `of the run, version ${info.weight_version}` : name);
const chosen = () => [byId("left").value, byId("right").value].filter((name, place) => place === 0 || name);

/** Empty frames, as many as there are weights chosen. */
function layOut() {
  panels = chosen().map((weights) => {
    const canvas = make("canvas", { width: info.width, height: info.height, role: "img" });
    canvas.setAttribute("aria-label", `No picture yet, weights ${weights}`);
    const state = make("span");
    const caption = make("figcaption", {}, nameOf(weights), state);
    return { weights, canvas, state, frames: [], figure: make("figure", { className: "growing" }, canvas, caption) };
  });
  byId("pictures").replaceChildren(...panels.map((panel) => panel.figure));
  byId("pictures").classList.toggle("coarse", Math.max(info.width, info.height) < COARSE);
  byId("scale").disabled = true;
  byId("scale-text").textContent = "";
}

/** Show the frame after so many scales, or the last that there is. */
function show(panel, scale) {
  const frame = panel.frames[Math.min(scale, panel.frames.length) - 1];
  if (!frame) return;
  const shown = Math.min(scale, panel.frames.length);
  const [height, width] = info.scales[shown - 1];
  panel.canvas.getContext("2d").drawImage(frame, 0, 0);
  panel.canvas.setAttribute("aria-label", `The picture after scale ${shown}, weights ${panel.weights}`);
  panel.state.textContent = `${shown} of ${info.scales.length}`;
  byId("scale").value = shown;
  byId("scale-text").textContent = `${shown} of ${info.scales.length}: ${width}×${height} tokens`;
}

// The request.

const requestOf = (weights) => ({
  prompt: byId("prompt").value.trim(),
  seed: byId("seed").valueAsNumber,
  temperature: byId("temperature").valueAsNumber,
  weights,
});

async function* linesOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines.map((line) => JSON.parse(line));
  }
}

async function draw(panel, request, signal) {
  const body = JSON.stringify(request);
  const headers = { "content-type": "application/json" };
  const answer = await ask("v1/generate", { method: "POST", body, headers, signal });
  for await (const line of linesOf(answer)) {
    if (line.error) throw new Fault(`${nameOf(panel.weights)}: the picture could not be drawn`, line.error);
    panel.frames.push(await bitmapOf(line.image));
    show(panel, panel.frames.length);
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
  if (panel.frames.length < info.scales.length) {
    throw new Fault(`${nameOf(panel.weights)}: the picture is not whole`, "The service ended the answer early.");
  }
}

async function bitmapOf(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/png" }));
}

async function drawAll() {
  layOut();
  const pending = new AbortController();
  const requests = panels.map((panel) => requestOf(panel.weights));
  showCode(byId("code"), { curl: curlOf(requests[0]), Python: pythonOf(requests[0]) });
  byId("same").hidden = false;
  try {
    await Promise.all(panels.map((panel, place) => draw(panel, requests[place], pending.signal)));
    byId("scale").disabled = false;
  } finally {
    pending.abort(); // where one failed, the other need not go on
  }
}

// The same request as code, right when pasted.

function curlOf(request) {
  const secret = token() ? ['  -H "Authorization: Bearer $VARL_TOKEN"'] : [];
  const last = 'import base64, json, sys; sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)["image"]))';
  return [
    `curl -s ${shellQuoted(address("v1/generate"))}`,
    ...secret,
    "  -H 'content-type: application/json'",
    `  --data-raw ${shellQuoted(JSON.stringify(request))} |`,
  ].join(" \\\n").concat(`\n  tail -n 1 | python3 -c ${shellQuoted(last)} > picture.png`);
}

function pythonOf(request) {
  const secret = token() ? ['headers = {"Authorization": f"Bearer {os.environ[\'VARL_TOKEN\']}"}'] : ["headers = {}"];
  return [
    "import base64, json" + (token() ? ", os" : ""),
    "",
    "import httpx  # pip install httpx",
    "",
    ...secret,
    `request = ${JSON.stringify(request)}`,
    `with httpx.stream("POST", ${JSON.stringify(address("v1/generate"))}, json=request, headers=headers, timeout=60) as answer:`,
    "    for line in answer.iter_lines():",
    "        frame = json.loads(line)",
    '        with open(f"scale{frame[\'scale\']}.png", "wb") as file:',
    '            file.write(base64.b64decode(frame["image"]))',
  ].join("\n");
}

// Events.

byId("scale").addEventListener("input", () => {
  for (const panel of panels) show(panel, byId("scale").valueAsNumber);
});
for (const id of ["left", "right"]) byId(id).addEventListener("change", layOut);
byId("again").addEventListener("click", () => {
  byId("seed").value = Math.floor(Math.random() * 2 ** 31);
  byId("form").requestSubmit();
});
submitOnEnter(byId("prompt"));
byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const buttons = [byId("send"), byId("again"), byId("left"), byId("right")];
  for (const button of buttons) button.disabled = true;
  byId("results").replaceChildren();
  try {
    await drawAll();
  } catch (fault) {
    byId("results").replaceChildren(faultBox(fault));
  }
  for (const button of buttons) button.disabled = false;
});

enter(load);

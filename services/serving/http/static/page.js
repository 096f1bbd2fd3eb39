// What the pages to try share: asking the service, the token, faults in words, code to copy.

const TOKEN = "varl-token"; // in this tab alone: sessionStorage ends with it, and no URL ever holds it

export const byId = (id) => document.getElementById(id);
export const token = () => sessionStorage.getItem(TOKEN);
export const address = (path) => new URL(path, document.baseURI).href;

/** An element with properties, attributes (names with "-") and children; text stays text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** A failure that a person can read: a headline, and what the service says about it. */
export class Fault extends Error {
  constructor(headline, detail = "", status = 0) {
    super(headline);
    Object.assign(this, { headline, detail, status });
  }
}

const HEADLINES = {
  overloaded: "The service has no room for more right now",
  not_ready: "The service is not ready",
  deadline_exceeded: "It took too long",
  request_too_large: "The request is too large",
  invalid_request: "The service cannot take this request",
  no_such_reward: "There is no such reward here",
  backend_failed: "The reward behind the gateway failed",
  bad_image: "This file is not a picture that can be scored",
  image_too_large: "The picture is too large",
  no_target: "There are no words to look for",
  prompt_too_long: "The prompt is too long",
  engine_failed: "The model failed on this picture",
  not_finite: "The model gave no usable number",
  invalid_field: "A field is not as the reward wants it",
};

export const headline = (code) => HEADLINES[code] ?? "It did not work";

/** A fault as an element. */
export const faultBox = (fault) =>
  make(
    "div",
    { className: "fault", role: "alert" },
    make("strong", {}, fault.headline ?? "Something on this page failed"),
    ...(fault.detail ?? fault.message ? [make("p", {}, fault.detail ?? fault.message)] : []),
  );

/** Ask the service; a Fault where it refuses or does not answer. A refused token is forgotten and asked for. */
export async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token()) headers.set("authorization", `Bearer ${token()}`);
  let answer;
  try {
    answer = await fetch(address(path), { ...options, headers, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault("The service does not answer", "It may have stopped, or the network is down. Try again.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) lock();
  throw await faultOf(answer);
}

async function faultOf(answer) {
  const problem = await answer.json().catch(() => ({}));
  const seconds = answer.headers.get("retry-after");
  const again = problem.retryable && seconds ? ` Try again in ${seconds} s.` : "";
  const words = answer.status === 401 ? "This service wants a token" : headline(problem.code);
  return new Fault(words, (problem.detail ?? `HTTP status ${answer.status}`) + again, answer.status);
}

/** Show the form for the token in place of the page. */
function lock() {
  byId("token-refused").hidden = !token();
  sessionStorage.removeItem(TOKEN);
  byId("gate").hidden = false;
  byId("page").hidden = true;
  byId("token").focus();
}

/** Call `load` once the service lets us in, now or after a token was given. */
export async function enter(load) {
  const attempt = async () => {
    byId("trouble").replaceChildren();
    try {
      await load();
      byId("gate").hidden = true;
      byId("page").hidden = false;
    } catch (fault) {
      if (fault.status !== 401) byId("trouble").replaceChildren(faultBox(fault));
    }
  };
  byId("gate").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = byId("token").value.trim();
    byId("token").value = "";
    if (given) sessionStorage.setItem(TOKEN, given);
    attempt();
  });
  await attempt();
}

// The same request as code. A token is never in it, only the name of the variable that holds one.

export const shellQuoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** Fill an element with named pieces of code, each with a button that copies it. */
export function showCode(into, pieces) {
  into.replaceChildren(
    ...Object.entries(pieces).map(([name, text]) => {
      const copy = make("button", { type: "button", className: "small", "aria-label": `Copy ${name}` }, "Copy");
      copy.addEventListener("click", async () => {
        copy.textContent = await navigator.clipboard.writeText(text).then(
          () => "Copied",
          () => "Select and copy by hand",
        );
      });
      return make("div", { className: "code" }, make("h3", {}, name), copy, make("pre", { tabIndex: 0 }, text));
    }),
  );
}

/** Send a text area's form on Enter; Shift and Enter, and the Enter that ends a composed word, stay in the text. */
export function submitOnEnter(area) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    area.form.requestSubmit();
  });
}

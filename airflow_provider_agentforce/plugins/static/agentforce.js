"use strict";
// Shows what tasks left in XCom, read from Airflow's REST API with the rights of whoever looks at the page.
// Everything that was said came from outside: it enters the page as text only.

const ROOT = location.pathname.slice(0, location.pathname.lastIndexOf("/agentforce/") + 1);
const XCOM = "agentforce_page";
const PAGE_SIZE = 50;
const MOST_TASKS = 200;
const AT_ONCE = 6;
const REFRESH_MS = 3000;
const MOST_TEXT = 4000;
const MOST_TURNS = 50;
const MOST_ROWS = 100;
const OVER = ["success", "failed", "skipped", "upstream_failed", "removed"];
const WAITS = ["awaiting_input", "deferred"];
const OPEN = ["needs_confirmation", "needs_input"];
const OUTCOMES = {
  answered: ["Answered", "green"], needs_input: ["Asks for input", "amber"],
  needs_confirmation: ["Asks for approval", "amber"], escalated: ["Escalated", "violet"], failed: ["Failed", "red"],
  ended: ["Session ended", ""], answer_lost: ["Answer lost", "red"],
};
const STATES = {
  success: ["Success", "green"], failed: ["Failed", "red"], running: ["Running", "blue"],
  awaiting_input: ["Waits for a person", "amber"], deferred: ["Waits", "amber"],
  up_for_retry: ["Will be tried again", "amber"],
};
const STEPS = {
  check: "A check by your own function", trace: "A look at the org's own trace", ask: "A person decides",
  resend: "The message is sent again", fail: "The task fails",
};
const RESOLVED = {
  check: "Your check function", trace: "The org's own trace", ask: "A person", resend: "on_unknown_delivery",
};

// -- building the page

function el(tag, options, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options ?? {})) {
    if (name === "onclick" || name === "oninput") node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(2).filter((one) => one !== null && one !== undefined && one !== false));
  return node;
}

// Characters that change or hide what is read: direction, zero width, tags, controls.
const SIGNS = /[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\u{e0000}-\u{e007f}\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]|(?<=^|[\x00-\x7f])[\u200c\u200d]/gu;

function foreign(text) {
  const parts = [];
  let from = 0;
  for (const found of text.matchAll(SIGNS)) {
    const code = found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    parts.push(text.slice(from, found.index), el("span", { class: "sign", title: "A character that cannot be seen" }, `U+${code}`));
    from = found.index + found[0].length;
  }
  return [...parts, text.slice(from)];
}

function line(text, most = 160) {
  const folded = String(text).replace(/\s+/g, " ").trim();
  const points = Array.from(folded.slice(0, 2 * most));
  return el("bdi", {}, foreign(points.length > most ? points.slice(0, most).join("") + "…" : folded));
}

const expanded = new Set();

function long(text, key, most = MOST_TEXT) {
  const whole = text.length <= most || expanded.has(key);
  const shown = whole ? text : text.slice(0, most);
  const show = () => { expanded.add(key); draw(); };
  return [
    el("div", { class: text.length > most && whole ? "text long" : "text", dir: "auto", tabindex: text.length > most && whole ? "0" : null }, foreign(shown)),
    whole ? null : el("button", { class: "inside", "data-key": `long ${key}`, onclick: show }, `Show all ${text.length.toLocaleString()} characters`),
  ];
}

function safeUrl(text) {
  try {
    const url = new URL(text);
    return ["https:", "http:"].includes(url.protocol) && !url.username && !url.password ? url : null;
  } catch {
    return null;
  }
}

function outward(text, label) {
  const url = typeof text === "string" ? safeUrl(text) : null;
  if (url === null) return el("span", {}, line(label || String(text)));
  return el("span", {},
    el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", referrerpolicy: "no-referrer" }, line(label || url.href)),
    label ? el("span", { class: "soft small" }, " (", line(url.host, 80), ")") : null);
}

function more(key, title, ...children) {
  return el("details", { class: "inside", "data-key": key }, el("summary", { "data-key": `${key} summary` }, title), ...children);
}

function badge([label, color], options) {
  return el("span", { class: `badge ${color}`, ...options }, label);
}

function outcomeBadge(outcome) {
  return badge(OUTCOMES[outcome] ?? [line(outcome, 40), ""], { title: `outcome: ${String(outcome).slice(0, 40)}` });
}

function time(iso) {
  const at = new Date(iso);
  if (!iso || Number.isNaN(at.getTime())) return null;
  return el("time", { datetime: at.toISOString(), title: at.toISOString() },
    at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }));
}

function seconds(from, to) {
  const passed = (new Date(to) - new Date(from)) / 1000;
  return Number.isFinite(passed) && passed >= 0 ? duration(passed) : null;
}

function duration(passed) {
  if (passed < 60) return `${passed.toFixed(1)} s`;
  const minutes = Math.round(passed / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", {}, known.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function code(text) {
  return text ? el("code", {}, line(text, 200)) : null;
}

function asText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function cell(value, options) {
  return el("td", options, value === null || value === undefined ? el("span", { class: "soft" }, "–") : line(asText(value), 600));
}

function table(value, label) {
  const rows = Array.isArray(value) ? value.slice(0, MOST_ROWS) : null;
  let body;
  if (rows !== null && rows.length && rows.every(isObject)) {
    const columns = [...new Set(rows.flatMap(Object.keys))].slice(0, 20);
    body = [
      el("thead", {}, el("tr", {}, columns.map((name) => el("th", { scope: "col" }, line(name, 60))))),
      el("tbody", {}, rows.map((row) => el("tr", {}, columns.map((name) => cell(row[name]))))),
    ];
  } else if (rows !== null) {
    body = el("tbody", {}, rows.map((one) => el("tr", {}, cell(one))));
  } else if (isObject(value)) {
    body = el("tbody", {}, Object.entries(value).slice(0, MOST_ROWS).map(([name, one]) =>
      el("tr", {}, el("th", { scope: "row" }, line(name, 60)), cell(one))));
  } else {
    body = el("tbody", {}, el("tr", {}, cell(value)));
  }
  const hidden = rows === null ? 0 : value.length - rows.length;
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": label }, el("table", {}, body),
    hidden ? el("p", { class: "soft small" }, `${hidden} more are not shown.`) : null);
}

// -- Airflow's REST API

class Refused extends Error {
  constructor(status) {
    super(`HTTP ${status}`);
    this.status = status;
  }
}

function api(...parts) {
  return `${ROOT}api/v2/${parts.map(encodeURIComponent).join("/")}`;
}

async function ask(url) {
  const answer = await fetch(url, { credentials: "same-origin", headers: { Accept: "application/json" }, cache: "no-store" });
  if (!answer.ok) throw new Refused(answer.status);
  return answer.json();
}

async function askOr(missing, url) {
  try {
    return await ask(url);
  } catch (error) {
    if (error instanceof Refused && [404, 405, 422].includes(error.status)) return missing;
    throw error;
  }
}

async function xcom(task, key) {
  const url = api("dags", task.dag_id, "dagRuns", task.run_id, "taskInstances", task.task_id, "xcomEntries", key);
  const entry = await askOr(null, `${url}?map_index=${task.map_index}&deserialize=true`);
  if (entry === null) return undefined;
  if (typeof entry.value !== "string") return entry.value;
  try {
    return JSON.parse(entry.value);
  } catch {
    return entry.value;
  }
}

function instance(task) {
  const parts = ["dags", task.dag_id, "dagRuns", task.run_id, "taskInstances", task.task_id];
  return askOr(null, api(...parts, ...(task.map_index >= 0 ? [task.map_index] : [])));
}

async function openQuestion(task) {
  const url = api("dags", task.dag_id, "dagRuns", task.run_id, "taskInstances", task.task_id, task.map_index, "hitlDetails");
  try {
    const detail = await askOr(null, url);
    return detail !== null && !detail.responded_at && !detail.response_received;
  } catch {
    return false;
  }
}

async function inTurns(items, work) {
  const results = new Array(items.length);
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const index = next++;
      results[index] = await work(items[index]);
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, items.length) }, worker));
  return results;
}

async function listed(most) {
  const url = api("dags", where.dag_id, "dagRuns", where.run_id, "taskInstances", "~", "xcomEntries");
  const tasks = [];
  let found;
  do {
    found = await ask(`${url}?xcom_key=${XCOM}&limit=${PAGE_SIZE}&offset=${tasks.length}`);
    tasks.push(...found.xcom_entries.map((one) => ({ dag_id: one.dag_id, run_id: one.run_id, task_id: one.task_id, map_index: one.map_index })));
  } while (found.xcom_entries.length && tasks.length < Math.min(most, found.total_entries));
  return { tasks, total: found.total_entries };
}

// One task's part of a conversation: its page, and its state where the page does not say how it ended.
async function part(task) {
  const page = await xcom(task, XCOM);
  if (page === undefined) return { task, page: null };
  if (!isObject(page)) return { task, page: null, reference: true };
  const ti = page.state === "running" || where.task_id !== undefined ? await instance(task) : null;
  const asked = ti !== null && WAITS.includes(ti.state) ? await openQuestion(task) : false;
  return { task, page, ti, asked };
}

// -- where we are

function inFrame() {
  try {
    return window.parent !== window && window.parent.location.origin === location.origin;
  } catch {
    return false;
  }
}

// Airflow 3.1 puts the run's id into the address as it is, with the plus sign of its time zone.
function ownQuery() {
  return new URLSearchParams(location.search.replaceAll("+", "%2B"));
}

function chosen(query, prefix) {
  const task_id = query.get(`${prefix}task_id`) ?? query.get(`${prefix}task`);
  if (!task_id) return {};
  const index = Number.parseInt(query.get(`${prefix}map_index`) ?? "-1", 10);
  return { task_id, map_index: Number.isInteger(index) ? index : -1 };
}

function place() {
  const own = ownQuery();
  const run = { dag_id: own.get("dag_id"), run_id: own.get("run_id") };
  if (location.hash) return { ...run, ...chosen(new URLSearchParams(location.hash.slice(1)), "") };
  if (own.get("task_id")) return { ...run, ...chosen(own, ""), single: !own.has("tab") };
  // The address of Airflow's page names the task.
  return inFrame() ? { ...run, ...chosen(new URLSearchParams(window.parent.location.search), "agentforce_") } : run;
}

function hashOf(task) {
  return `#${new URLSearchParams({ task_id: task.task_id, map_index: task.map_index })}`;
}

function runUrl(run_) {
  return ROOT + ["dags", run_.dag_id, "runs", run_.run_id].map(encodeURIComponent).join("/");
}

function taskUrl(task, tab = "") {
  const parts = ["tasks", task.task_id, ...(task.map_index >= 0 ? ["mapped", task.map_index] : [])];
  return `${runUrl(task)}/${parts.map(encodeURIComponent).join("/")}${tab}`;
}

function taskName(task) {
  return task.map_index >= 0 ? `${task.task_id} [${task.map_index}]` : task.task_id;
}

// The link of a task leads here. From here it goes to the tab of the run, which Airflow does not have for those who
// may not see plugins.
async function movesToTab() {
  const own = ownQuery();
  if (!own.has("tab") || location.hash || inFrame()) return false;
  try {
    await ask(`${api("plugins")}?limit=1`);
  } catch {
    return false;
  }
  const task = chosen(own, "");
  const query = new URLSearchParams({ agentforce_task: task.task_id, agentforce_map_index: task.map_index });
  location.replace(`${runUrl({ dag_id: own.get("dag_id"), run_id: own.get("run_id") })}/plugin/agentforce?${query}`);
  return true;
}

// Airflow's frame lets no link out of it, so its page follows the link.
function follow(event) {
  const link = event.target.closest("a[href]");
  if (link === null || !inFrame() || link.hash && link.pathname === location.pathname || link.download) return;
  event.preventDefault();
  const outside = window.parent.document.createElement("a");
  outside.href = link.href;
  outside.rel = "noopener noreferrer nofollow";
  outside.target = link.target || (event.ctrlKey || event.metaKey ? "_blank" : "_self");
  outside.click();
}

function theme() {
  const read = () => {
    const root = inFrame() ? window.parent.document.documentElement : null;
    const named = root?.dataset.theme || ["dark", "light"].find((one) => root?.classList.contains(one));
    const dark = named ? named === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  };
  read();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", read);
  if (inFrame()) {
    new MutationObserver(read).observe(window.parent.document.documentElement, { attributes: true, attributeFilter: ["class", "data-theme", "style"] });
  }
}

// -- a conversation

function list(value) {
  return Array.isArray(value) ? value : [];
}

// A turn of an operator's output in the form of the page's.
function fromOutput(turn) {
  const messages = list(turn.messages).filter(isObject);
  const asked = messages.findLast((one) => ["Confirm", "Inquire"].includes(one.type));
  const items = asked?.type === "Confirm" ? list(asked.confirm)
    : list(asked?.collect).map((one) => ({ type: one.targetType, property: one.targetProperty, value: one.data }));
  const reasons = messages.filter((one) => ["Failure", "Error"].includes(one.type)).map((one) => one.message || list(one.errors).join("; ") || one.error || one.code);
  return { ...turn, question: asked ? { type: asked.type, items } : null, reason: reasons.filter(Boolean).join("; "), cut: false };
}

async function fullTurns(one) {
  const output = await xcom(one.task, "return_value");
  const turns = isObject(output) ? (Array.isArray(output.turns) ? output.turns : [output]) : await xcom(one.task, "turns");
  return list(turns).filter((turn) => isObject(turn) && Number.isInteger(turn.sequence_id)).map(fromOutput);
}

const loaded = new Map();

function turnsOf(one) {
  const shown = list(one.page.turns);
  const full = loaded.get(hashOf(one.task));
  if (full === undefined) return shown;
  const known = new Map(shown.map((turn) => [turn.sequence_id, turn]));
  return full.map((turn) => ({ ...(known.get(turn.sequence_id) ?? {}), ...turn }));
}

function variables(request) {
  const given = list(request.variables).filter(isObject);
  if (!given.length) return null;
  return table(given.map((one) => ({ name: one.name, value: one.value })), "Variables");
}

function requestView(number, request, extra, key) {
  const kind = request?.type && request.type !== "Text" ? request.type : null;
  const words = { Reply: "Reply: gives what the agent asks for, or approves it", Cancel: "Cancel: declines it", TransferSucceeded: "The transfer succeeded", TransferFailed: "The transfer failed" };
  const items = list(request?.reply);
  return el("div", { class: "said" },
    el("div", { class: "who" }, el("b", {}, "Sent"), `message ${number}`, extra),
    request === null || request === undefined ? el("p", { class: "soft" }, "(What was sent is not kept.)")
      : request.text ? long(request.text, `${key} request`) : el("p", {}, words[kind] ?? line(kind ?? "(no text)", 60)),
    items.length ? table(items, "What was replied") : null,
    request && variables(request) ? more(`${key} variables`, "Variables", variables(request)) : null);
}

function resolutionView(found) {
  if (!isObject(found)) return null;
  const by = found.user ? el("span", {}, line(found.user, 80), ", asked in Airflow,") : RESOLVED[found.by] ?? line(found.by, 40);
  const said = found.acted === null ? "decided that the message may be sent again, though the agent may have acted"
    : found.acted ? "found that the agent acted" : "found that the agent had not acted; the message was sent again";
  const answers = { recovered: "The answer was recovered from there.", given: "The answer is as that person gave it.", lost: "The answer is lost." };
  return el("div", { class: "box note inside" },
    el("p", {}, badge(["Recovered", "amber"]), " The reply to this message was lost. ", by, ` ${said}. `, answers[found.answer] ?? ""),
    found.note ? el("p", { class: "soft small" }, line(found.note, 400)) : null,
    found.at ? el("p", { class: "soft small" }, time(found.at)) : null);
}

function questionView(question) {
  if (!isObject(question)) return null;
  const items = list(question.items).filter(isObject);
  const title = question.type === "Confirm" ? "Waits for an approval of" : "Asks for";
  return items.length ? el("div", { class: "inside" }, el("p", { class: "soft small" }, title),
    table(items.map((one) => ({ name: one.property, value: one.value })), title)) : null;
}

function citationsView(turn) {
  const cited = list(turn.citations).filter(isObject);
  if (!cited.length) return null;
  return el("div", { class: "inside small" }, el("p", { class: "soft" }, "Sources"),
    el("ol", {}, cited.slice(0, 30).map((one) => el("li", {}, outward(one.value ?? one.url ?? one.recordId ?? "", one.label ?? one.title ?? "")))));
}

function resultsView(turn, key) {
  const found = list(turn.results).filter(isObject);
  if (!found.length) return null;
  return more(`${key} results`, `What actions returned (${found.length})`,
    found.slice(0, 20).map((one) => el("div", {}, el("p", { class: "small" }, code(one.property ?? one.type)), table(one.value, "Result"))));
}

function planView(turn, key) {
  if (!isObject(turn.plan)) return null;
  const actions = list(turn.plan.actions);
  return more(`${key} plan`, "What the planner did",
    facts([["Subagent", turn.plan.subagent ? line(turn.plan.subagent) : null]]), actions.length ? table(actions, "Actions") : null);
}

function answerView(turn, rated, key) {
  return el("div", { class: "answer" },
    el("div", { class: "who" }, el("b", {}, "Agent"), outcomeBadge(turn.outcome), time(turn.at),
      turn.sent_at && turn.at ? `after ${seconds(turn.sent_at, turn.at)}` : null,
      turn.kept_from ? badge([`Answer kept from try ${Number(turn.kept_from)}`, ""]) : null,
      turn.is_content_safe === false ? badge(["Flagged as unsafe", "red"]) : null,
      rated ? badge([`Rated ${rated.feedback === "GOOD" ? "good" : "bad"}`, rated.feedback === "GOOD" ? "green" : "red"]) : null),
    turn.text ? long(turn.text, key) : el("p", { class: "soft" }, turn.outcome === "answer_lost" ? "The agent acted, and what it answered cannot be known." : "(The agent said nothing readable.)"),
    turn.reason ? el("p", { class: "small" }, el("b", {}, "Reason: "), line(turn.reason, 400)) : null,
    rated?.text ? el("p", { class: "small" }, el("b", {}, "Feedback: "), line(rated.text, 400)) : null,
    questionView(turn.question), citationsView(turn), resultsView(turn, key), planView(turn, key), resolutionView(turn.resolution));
}

function turnView(one, turn, several, ratings) {
  const key = `${one.task.task_id} ${one.task.map_index} ${turn.sequence_id}`;
  const at = several ? el("a", { href: taskUrl(one.task) }, line(taskName(one.task), 60)) : null;
  return el("li", { class: "turn" },
    requestView(turn.sequence_id, turn.request, at, key),
    answerView(turn, ratings.get(turn.feedback_id), key));
}

function isUnknown(one) {
  if (one.page.error) return Boolean(one.page.error.unknown);
  return Boolean(one.page.unknown) || Boolean(one.page.sending && stopped(one));
}

function stopped(one) {
  return one.page.state === "running" && one.ti !== null && one.ti !== undefined && [...OVER, "up_for_retry"].includes(one.ti.state);
}

function flightView(one) {
  const sending = one.page.sending ?? (one.page.unknown && { sequence_id: one.page.unknown.sequence_id, request: one.page.unknown.request });
  if (!sending) return null;
  const unknown = isUnknown(one);
  const partial = one.page.unknown?.partial_text;
  return el("li", { class: "turn" },
    requestView(sending.sequence_id, sending.request, time(sending.sent_at), `${one.task.task_id} flight`),
    unknown ? el("div", { class: "answer waiting" }, el("div", { class: "who" }, badge(["Delivery unknown", "red"])),
      partial ? [el("p", { class: "soft small" }, "What could be read of the answer:"), long(partial, "partial")] : el("p", { class: "soft" }, "No answer is known."))
      : one.page.error ? el("div", { class: "answer waiting" }, el("div", { class: "who" }, badge(["Not answered", "red"])))
        : el("div", { class: "answer waiting" }, el("div", { class: "who" }, badge(["Under way", "blue pulse"])), el("p", { class: "soft" }, "Waiting for the agent's answer…")));
}

function stepState(index, unknown, ended) {
  if (ended && index === unknown.steps.length - 1) return ["→", ""];
  if (index < unknown.step || ended && index === unknown.step) return ["?", " (did not settle it)"];
  if (index === unknown.step) return ["→", " (now)"];
  return ["·", ended ? " (not tried)" : " (next, if needed)"];
}

function stepsView(unknown, ended) {
  return el("ol", { class: "steps" }, list(unknown.steps).map((name, index) => {
    const [mark, state] = stepState(index, unknown, ended);
    return el("li", { class: mark === "·" ? "soft" : "" }, el("span", { class: "mark", "aria-hidden": "true" }, mark), el("span", {}, STEPS[name] ?? line(name, 40), el("span", { class: "soft small" }, state)));
  }));
}

const LOOK = "Look at the record that the message was to change, and at the session in Salesforce: the agent's event log (Agentforce Builder) finds it by the session's id or its external session key.";

// What the steps are and found, and what to do: also for the records of a batch.
function findingOut(one) {
  const unknown = one.page.unknown ?? {};
  const ended = Boolean(one.page.error) || stopped(one);
  const hint = one.page.error?.hint || (one.asked ? `${LOOK} Then decide.`
    : one.ti?.state === "up_for_retry" ? "The next try finds out, as on_unknown_delivery says, or fails and says so."
      : stopped(one) ? `${LOOK} Clearing the task sends the message again.` : "Nothing yet: the task is still finding out.");
  const findings = list(unknown.findings);
  return [
    unknown.steps ? [el("h3", {}, "Steps of on_unknown_delivery"), stepsView(unknown, ended)] : null,
    findings.length ? [el("h3", {}, "What was found"), el("ul", {}, findings.map((finding) => el("li", {}, "• ", line(finding, 400))))] : null,
    el("h3", {}, "What to do"), el("p", {}, line(hint, 800)),
    one.asked ? el("p", {}, el("a", { class: "button strong", href: taskUrl(one.task, "/required_actions") }, "Decide in Airflow's Required Actions")) : null,
  ];
}

function unknownView(one) {
  const unknown = one.page.unknown ?? {};
  const number = unknown.sequence_id ?? one.page.sending?.sequence_id;
  const what = one.page.error?.what ?? unknown.error ?? "The task was stopped while the message was under way.";
  return el("section", { class: "box alarm", role: "alert", "aria-labelledby": "unknown" },
    el("h2", { id: "unknown" }, `It is not known whether the agent acted on ${number ? `message ${number}` : "the message"}`),
    el("p", {}, line(what, 600)),
    findingOut(one),
    facts([["Session", code(unknown.session_id ?? one.page.session_id)], ["External session key", code(unknown.external_session_key ?? one.page.external_session_key)], ["Sent", time(unknown.sent_at ?? one.page.sending?.sent_at)]]));
}

function troubleView(one, several) {
  const at = several ? el("span", { class: "soft" }, line(taskName(one.task), 60), ": ") : null;
  if (isUnknown(one)) return unknownView(one);
  if (one.page.error) {
    return el("section", { class: "box alarm", role: "alert" }, el("h2", {}, "The task failed"), el("p", {}, at, line(one.page.error.what, 600)),
      one.page.error.hint ? [el("h3", {}, "What to do"), el("p", {}, line(one.page.error.hint, 800))] : null);
  }
  if (one.asked) {
    return el("section", { class: "box note" }, el("h2", {}, "The task waits for a person"), el("p", {}, at, "It has asked a question and goes on when it is answered."),
      el("p", {}, el("a", { class: "button", href: taskUrl(one.task, "/required_actions") }, "Answer in Airflow's Required Actions")));
  }
  if (stopped(one)) {
    return el("section", { class: "box note" }, el("h2", {}, "The task was stopped"), el("p", {}, at, "It could not say how it ended. This is what was known then; the log of the task may have more."));
  }
  return null;
}

function stateBadge(one) {
  if (isUnknown(one)) return badge(["Delivery unknown", "red"]);
  if (one.asked) return badge(STATES.awaiting_input);
  if (one.ti?.state && STATES[one.ti.state]) return badge(STATES[one.ti.state]);
  if (one.page.state === "running") return badge(STATES.running);
  return badge(one.page.state === "failed" ? STATES.failed : STATES.success);
}

let window_ = MOST_TURNS;

function earlierView(main, hidden) {
  const left = main.reduce((sum, one) => sum + (loaded.has(hashOf(one.task)) ? 0 : Number(one.page.left_out) || 0), 0);
  if (hidden) {
    const show = () => { window_ += MOST_TURNS; draw(); };
    return el("p", {}, el("button", { "data-key": "earlier", onclick: show }, `Show earlier messages (${(hidden + left).toLocaleString()})`));
  }
  const cut = main.some((one) => !loaded.has(hashOf(one.task)) && list(one.page.turns).some((turn) => turn.cut));
  if (!left && !cut) return null;
  const load = async () => {
    await inTurns(main, async (one) => {
      const turns = await fullTurns(one);
      loaded.set(hashOf(one.task), turns.length ? turns : list(one.page.turns));
    });
    draw();
  };
  return el("p", {}, el("button", { "data-key": "whole", onclick: load }, left ? `Load ${left.toLocaleString()} earlier messages` : "Load the whole texts"));
}

function download(parts) {
  const save = async () => {
    const tasks = await inTurns(parts, async (one) => ({ ...one.task, page: one.page, turns: await fullTurns(one) }));
    const blob = new Blob([JSON.stringify({ dag_id: where.dag_id, run_id: where.run_id, tasks }, null, 2)], { type: "application/json" });
    const link = el("a", { href: URL.createObjectURL(blob), download: `conversation-${parts[0].task.task_id.replace(/[^\w.-]/g, "_")}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  return el("button", { "data-key": "download", onclick: save }, "Download JSON");
}

function topView(title, one, parts, ...more_) {
  const back = where.single ? null : el("p", { class: "small" }, el("a", { href: "#all", "data-key": "all" }, "← All of this run"));
  const names = parts.map((other) => el("a", { href: taskUrl(other.task) }, line(taskName(other.task), 60)));
  return el("header", { class: "top" }, back,
    el("div", { class: "row" }, el("h1", {}, title), ...more_, stateBadge(one), el("span", { class: "end" }, download(parts))),
    el("p", { class: "small soft" }, names.length > 1 ? "Tasks " : "Task ", names.flatMap((name, index) => index ? [", ", name] : [name]),
      one.page.agent ? [" · agent ", line(one.page.agent, 120)] : null, one.page.try > 1 ? ` · try ${Number(one.page.try)}` : null));
}

function openView() {
  return el("section", { class: "box note" }, el("h2", {}, "The agent still waits for an answer"),
    el("p", {}, "It has not done what it asked about."),
    el("h3", {}, "What to do"), el("p", {}, "Answer it in the Dag: with on_needs_confirmation or on_needs_input, a reply, a cancel or another message. fail_on makes it a failure."));
}

function conversationView(parts) {
  const main = parts.filter((one) => ["conversation", "message"].includes(one.page.kind));
  const start = parts.find((one) => one.page.greeting) ?? null;
  const several = parts.filter((one) => one.page.kind !== "feedback").length > 1;
  const ratings = new Map(parts.filter((one) => one.page.kind === "feedback").map((one) => [one.page.feedback_id, one.page]));
  const all = main.flatMap((one) => turnsOf(one).map((turn) => ({ one, turn }))).sort((a, b) => a.turn.sequence_id - b.turn.sequence_id);
  const shown = all.slice(-window_);
  const flights = main.map(flightView).filter(Boolean);
  const selected = parts.find((one) => one.task.task_id === where.task_id && one.task.map_index === where.map_index) ?? parts[0];
  const last = all.at(-1)?.turn;
  const end = parts.find((one) => one.page.kind === "end");
  const result = main.find((one) => one.page.result !== undefined)?.page.result;
  const about = selected.page;
  return [
    topView("Conversation", selected, parts, last ? outcomeBadge(last.outcome) : null),
    parts.map((one) => troubleView(one, several)),
    OPEN.includes(last?.outcome) && !flights.length && !parts.some((one) => one.page.state === "running" || one.asked) ? openView() : null,
    result === undefined ? null : el("section", { class: "box" }, el("h2", {}, "Result"), table(result, "Result")),
    earlierView(main, all.length - shown.length),
    start ? el("div", { class: "turn" }, el("div", { class: "answer" }, el("div", { class: "who" }, el("b", {}, "Agent"), "greeting"), long(start.page.greeting, "greeting"))) : null,
    el("ol", { "aria-label": "Messages" }, shown.map(({ one, turn }) => turnView(one, turn, several, ratings)), flights),
    all.length || flights.length ? null : el("p", { class: "soft" }, about.kind === "session" && about.session_id ? "The session has started. Nothing has been said in it yet." : "Nothing has been said yet."),
    end ? el("p", { class: "soft small" }, end.page.ended === false ? "The session had ended before." : end.page.ended ? ["The session was ended by the task ", line(end.task.task_id, 60), "."] : "The session is being ended.") : null,
    more("facts", "Session and agent", facts([
      ["Session", code(about.session_id)], ["External session key", code(parts.map((one) => one.page.external_session_key).find(Boolean))],
      ["Agent", about.agent ? line(about.agent) : code(about.agent_id)], ["Org", about.org ? code(about.org) : null],
      ["Try", about.try ? `${Number(about.try)}` : null], ["Last change", time(about.at)],
    ])),
  ];
}

async function conversation(task) {
  const own = await part(task);
  if (own.page === null) return { view: () => nothingView(own), live: true };
  if (own.page.kind === "batch") return { view: () => batchView(own), live: isLive(own), seen: [own] };
  let parts = [own];
  if (own.page.kind !== "conversation" && own.page.session_id) {
    // The tasks of one session: each has a part of its conversation.
    const { tasks } = await listed(MOST_TASKS);
    const others = tasks.filter((one) => one.task_id !== task.task_id || one.map_index !== task.map_index);
    const found = await inTurns(others, part);
    parts = [own, ...found.filter((one) => one.page?.session_id === own.page.session_id)].sort(byTime);
  }
  return { view: () => conversationView(parts), live: parts.some(isLive), seen: parts };
}

function byTime(one, other) {
  return String(one.page?.at).localeCompare(String(other.page?.at));
}

function isLive(one) {
  if (one.ti) return !OVER.includes(one.ti.state);
  return one.page?.state === "running";
}

// -- a batch

const STATUSES = { ...OUTCOMES, invalid_output: ["Invalid output", "red"], unknown: ["Unknown", "red"], skipped: ["Skipped", ""] };

function count(value) {
  return Number.isFinite(value) ? value.toLocaleString() : null;
}

function statusBadge(status) {
  return badge(STATUSES[status] ?? [line(status, 40), ""], { title: `status: ${String(status).slice(0, 40)}` });
}

function batchLine(page) {
  const total = Number(page.records) || 0;
  return {
    badge: null,
    lines: [
      total ? progressBar(page) : null,
      el("div", { class: "soft small" }, page.summary ? "What the batch would ask" : total ? `${count(Number(page.done) || 0)} of ${count(total)} records` : "The records are being read."),
    ],
  };
}

function progressBar(page) {
  return el("progress", { max: Number(page.records), value: Number(page.done) || 0, "aria-label": "Records that are done" });
}

function factView(name, value) {
  return value === null || value === undefined ? null : el("div", { class: "fact" }, el("b", {}, value), el("span", { class: "soft small" }, name));
}

function progressView(one) {
  const page = one.page;
  const running = page.state === "running" && !stopped(one);
  const left = page.paused >= 1 ? `paused ${duration(page.paused)}` : page.left ? duration(page.left) : null;
  return el("section", { "aria-label": "Progress" }, progressBar(page),
    el("div", { class: "facts" },
      factView(`of ${count(Number(page.records))} records`, count(Number(page.done) || 0)),
      running ? [factView("records a second", Number.isFinite(page.rate) ? page.rate.toFixed(1) : null),
        factView(`of at most ${count(page.limit)} sessions open`, count(page.open_sessions)), factView(page.paused >= 1 ? "for the org's limits" : "left", left)]
        : [factView("messages", count(page.messages)), factView("sessions", count(page.sessions)), factView("since the first try began", Number.isFinite(page.duration) ? duration(page.duration) : null)]),
    el("p", { class: "row" }, Object.entries(isObject(page.counts) ? page.counts : {}).map(([status, number]) =>
      el("span", { class: "row" }, statusBadge(status), el("span", { class: "small" }, count(Number(number)))))));
}

function reasonsView(page) {
  const reasons = list(page.reasons).filter(isObject);
  if (!reasons.length) return null;
  return el("section", {}, el("h2", {}, "Why records failed"), el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Why records failed" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "number" }, "Records"), el("th", { scope: "col" }, "Reason"), el("th", { scope: "col" }, "Keys"))),
    el("tbody", {}, reasons.map((one) => el("tr", {}, el("td", { class: "number" }, count(Number(one.count))), cell(one.reason || "No reason is known."),
      el("td", {}, list(one.keys).flatMap((key, index) => [index ? ", " : "", line(key, 60)]), one.count > list(one.keys).length ? " …" : null))),
      page.failed_otherwise > 0 ? el("tr", {}, el("td", { class: "number" }, count(page.failed_otherwise)), el("td", { class: "soft", colspan: "2" }, "for other reasons, which are in the results")) : null))));
}

function rowsView(rows, title) {
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": title }, el("table", {},
    el("thead", {}, el("tr", {}, ["Key", "Status", "Answer or reason"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, el("th", { scope: "row" }, line(row.key, 80)), el("td", {}, statusBadge(row.status), row.resolution ? badge(["Recovered", "amber"]) : null), cell(row.reason || row.text || null))))));
}

let sought = "";

function known(page) {
  const rows = [...list(page.problems), ...list(page.others), ...list(page.recent)].filter(isObject);
  return [...new Map(rows.map((row) => [row.key, row])).values()];
}

function searchView(page) {
  const rows = known(page);
  const all = rows.length >= Number(page.records);
  const input = el("input", { type: "search", "aria-label": "Find a record by its key", placeholder: "Find a record by its key", "data-key": "search", value: sought });
  const search = () => { sought = input.value.trim(); results.replaceChildren(...searched().flat().filter(Boolean)); };
  const searched = () => {
    if (!sought) return [el("p", { class: "soft small" }, all ? `All ${count(rows.length)} records can be found here.` : `${count(rows.length)} of ${count(Number(page.records))} records can be found here, those that failed first. All are in the results.`)];
    const now = rows.filter((row) => String(row.key).toLowerCase().includes(sought.toLowerCase()));
    return now.length ? [rowsView(now.slice(0, MOST_ROWS), "Records found")] : [el("p", {}, all ? "No record has such a key." : "No record that is known here has such a key. It may be in the results.")];
  };
  const results = el("div", { class: "inside", "aria-live": "polite" }, searched());
  input.addEventListener("input", search);
  return el("section", {}, el("h2", {}, "Records"), input, results);
}

function filesView(page) {
  const files = isObject(page.files) ? page.files : {};
  const tables = isObject(files.tables) ? files.tables : {};
  const pairs = [["Results", files.results], ...Object.entries(tables).map(([form, uri]) => [`As ${form}`, uri]), ["Dead letter", files.dead_letter], ["Plan", files.plan], ["Folder", files.result_path]];
  const shown = pairs.filter(([, uri], index) => typeof uri === "string" && pairs.findIndex(([, other]) => other === uri) === index);
  return shown.length ? el("section", {}, el("h2", {}, "Files"), facts(shown.map(([name, uri]) => [name, safeUrl(uri) ? outward(uri, "") : el("code", {}, line(uri, 400))]))) : null;
}

function unknownRecordsView(one) {
  const unknown = one.page.unknown;
  if (!isObject(unknown) || one.page.state === "finished") return null;
  return el("section", { class: "box alarm", role: "alert" }, el("h2", {}, `Of ${count(Number(unknown.records))} records it is not known whether the agent acted`),
    el("p", {}, list(unknown.keys).flatMap((key, index) => [index ? ", " : "", line(key, 60)])),
    one.page.error ? el("p", {}, line(one.page.error.what, 600)) : null,
    findingOut(one));
}

function batchView(one) {
  const page = one.page;
  const recent = list(page.recent).filter(isObject).toReversed();
  const examples = recent.length ? recent : list(page.others).filter(isObject).slice(0, 20);
  const unknown = unknownRecordsView(one);
  return [
    topView("Batch", one, [one]),
    unknown ?? troubleView({ ...one, page: { ...page, unknown: null } }, false),
    page.summary ? el("section", { class: "box" }, el("h2", {}, "What the batch would ask"), el("div", { class: "text" }, foreign(String(page.summary)))) : null,
    Number(page.records) && !page.summary ? progressView(one) : page.summary ? null : el("p", { class: "soft" }, page.state === "running" ? "The records are being read." : "No record was asked about."),
    reasonsView(page),
    examples.length ? el("section", {}, el("h2", {}, recent.length ? "Last answers" : "Answers"), rowsView(examples, "Answers")) : null,
    known(page).length ? searchView(page) : null,
    filesView(page),
  ];
}

// -- all of a run

function firstWords(group) {
  const turns = group.flatMap((one) => list(one.page.turns)).sort((a, b) => a.sequence_id - b.sequence_id);
  const said = turns.map((turn) => turn.request?.text).find(Boolean) ?? group.map((one) => one.page.sending?.request?.text).find(Boolean);
  return { turns, said };
}

function entryView(group) {
  const [one] = group;
  if (one.page === null) {
    return el("li", {}, el("a", { class: "card", href: hashOf(one.task) }, el("b", {}, line(taskName(one.task), 80)), el("p", { class: "soft small" }, one.reference ? "Its XComs are kept elsewhere." : "What it left cannot be shown here.")));
  }
  const trouble = group.find((other) => isUnknown(other)) ?? group.find((other) => other.page.state === "failed") ?? group.find(isLive) ?? one;
  const names = [...new Set(group.map((other) => taskName(other.task)))].join(", ");
  const body = one.page.kind === "batch" ? batchLine(one.page) : conversationLine(group);
  return el("li", {}, el("a", { class: "card", href: hashOf(one.task), "data-key": hashOf(one.task) },
    el("div", { class: "row" }, el("b", {}, line(names, 120)), stateBadge(trouble), body.badge, el("span", { class: "end soft small" }, time(one.page.at))), body.lines));
}

function conversationLine(group) {
  const { turns, said } = firstWords(group);
  const last = turns.at(-1);
  const count = turns.length + group.reduce((sum, one) => sum + (Number(one.page.left_out) || 0) + (one.page.sending || one.page.unknown ? 1 : 0), 0);
  return {
    badge: last ? outcomeBadge(last.outcome) : null,
    lines: [
      said ? el("div", { class: "line small" }, el("span", { class: "soft" }, "Sent: "), line(said)) : null,
      last?.text ? el("div", { class: "line small" }, el("span", { class: "soft" }, "Agent: "), line(last.text)) : null,
      el("div", { class: "soft small" }, count === 1 ? "1 message" : `${count} messages`),
    ],
  };
}

function grouped(parts) {
  const groups = new Map();
  for (const one of parts) {
    const alone = one.page === null || one.page.kind === "batch" || !one.page.session_id;
    const key = alone ? hashOf(one.task) : one.page.session_id;
    groups.set(key, [...(groups.get(key) ?? []), one].sort(byTime));
  }
  const weight = (group) => Math.max(...group.map((one) => one.page === null ? 0 : isUnknown(one) ? 3 : one.page.state === "failed" ? 2 : 1));
  return [...groups.values()].sort((a, b) => weight(b) - weight(a));
}

let wanted = PAGE_SIZE;

async function run() {
  const { tasks, total } = await listed(wanted);
  const parts = await inTurns(tasks, part);
  return { view: () => runView(parts, total), live: parts.some(isLive), seen: parts };
}

function runView(parts, total) {
  if (!parts.length) {
    return el("section", { class: "empty" }, el("h1", {}, "No conversation in this run yet"),
      el("p", {}, "Tasks that talk to an Agentforce agent show their conversations and batches here, from the moment that they begin."),
      el("p", {}, "A task with do_xcom_push=False leaves nothing to show, and neither does one whose XComs were removed."));
  }
  const groups = grouped(parts);
  const show = () => { wanted += PAGE_SIZE; refresh(); };
  const rest = total - parts.length;
  return [
    el("header", { class: "top" }, el("h1", {}, "Agentforce in this run"), el("p", { class: "soft small" }, "What was sent to agents, and what they answered. ", inFrame() ? null : el("a", { href: runUrl(where) }, "The Dag run in Airflow"))),
    el("ul", { "aria-label": "Conversations and batches" }, groups.map(entryView)),
    rest > 0 ? el("p", {}, el("button", { "data-key": "more", onclick: show }, `Show more (${rest.toLocaleString()} tasks are not shown)`)) : null,
  ];
}

// -- what cannot be shown

function nothingView(one) {
  const back = where.single ? null : el("p", {}, el("a", { href: "#all" }, "All of this run"));
  if (one.reference) {
    return el("section", { class: "empty" }, el("h1", {}, "The XComs of this task are kept elsewhere"),
      el("p", {}, "This Airflow has a custom XCom backend, and its REST API gives this page only a reference. Read the XComs of the task where that backend keeps them."), back);
  }
  return el("section", { class: "empty" }, el("h1", {}, "Nothing to show for this task"),
    el("p", {}, "It has not begun, it does not talk to an Agentforce agent, it has do_xcom_push=False, or its XComs were removed."), back);
}

function refusedView(error) {
  const texts = {
    401: ["You are not logged in", "Log in to Airflow, then open this page again."],
    403: ["You may not see this", "What was said is in the XComs of the Dag, and you may not read them. Somebody who manages Airflow's permissions can change that."],
    404: ["This run is not there", "The Dag or its run does not exist any more."],
  };
  const [title, text] = texts[error.status] ?? ["Airflow does not answer", "This page tries again by itself."];
  return el("section", { class: "empty", role: "alert" }, el("h1", {}, title), el("p", {}, text), error.status === 401 ? el("p", {}, el("a", { class: "button", href: `${api("auth", "login")}?${new URLSearchParams({ next: inFrame() ? window.parent.location.href : location.href })}` }, "Log in")) : null);
}

// -- drawing and refreshing

let where = {};
let view = null;
let seen = "";
let timer = null;
let round = 0;

function draw() {
  const page = document.getElementById("page");
  const open = new Set([...page.querySelectorAll("details[open]")].map((one) => one.dataset.key));
  const active = document.activeElement;
  const [focused, caret] = [active?.dataset?.key, active?.selectionStart];
  page.replaceChildren(...[view()].flat(3).filter(Boolean));
  page.setAttribute("aria-busy", "false");
  for (const one of page.querySelectorAll("details")) one.open = open.has(one.dataset.key);
  const again = focused ? [...page.querySelectorAll("[data-key]")].find((one) => one.dataset.key === focused) : null;
  again?.focus({ preventScroll: true });
  if (Number.isInteger(caret)) again?.setSelectionRange?.(caret, caret);
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++round;
  let live = true;
  let found;
  try {
    found = where.dag_id && where.run_id ? await (where.task_id === undefined ? run() : conversation(where)) : { view: () => refusedView({ status: 404 }), live: false };
    live = found.live;
  } catch (error) {
    found = { view: () => refusedView(error), seen: String(error) };
    live = ![401, 403, 404].includes(error.status);
  }
  if (mine !== round) return;
  const now = JSON.stringify([where, found.seen ?? null, wanted]);
  if (now !== seen) {
    const first = seen === "";
    seen = now;
    view = found.view;
    draw();
    document.getElementById("status").textContent = first ? "" : "The page has changed.";
  }
  if (live) timer = setTimeout(() => document.hidden ? whenSeen() : refresh(), REFRESH_MS);
}

function whenSeen() {
  document.addEventListener("visibilitychange", refresh, { once: true });
}

function go() {
  where = place();
  window_ = MOST_TURNS;
  seen = "";
  scrollTo(0, 0);
  refresh();
}

theme();
document.addEventListener("click", follow);
addEventListener("hashchange", go);
movesToTab().then((moves) => moves || go());

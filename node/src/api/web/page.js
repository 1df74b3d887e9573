// The page's script: asks the API for everything and shows it. What others wrote is only ever
// set as text, never as markup.
"use strict";

const TOKEN_KEY = "halloo-token";
const REFRESH_MS = 5000;
const EVENTS_SHOWN = 100;

const $ = (id) => document.getElementById(id);
let lastEventId = null;
let conversation = null;

class Unauthorized extends Error {}

async function api(path, body, options = {}) {
  const headers = { ...options.headers };
  const token = sessionStorage.getItem(TOKEN_KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  if (response.status === 401) throw new Unauthorized();
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail || `HTTP status ${response.status}`);
  }
  return options.raw ? response : response.json();
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function fill(parent, children, empty) {
  parent.replaceChildren(...children);
  if (!children.length) parent.append(element("li", empty, "empty"));
}

function time(instant) {
  const made = element("time", new Date(instant).toLocaleTimeString());
  made.dateTime = instant;
  return made;
}

function setState(text, className) {
  $("state").textContent = text;
  $("state").className = className;
}

function showProblem(error) {
  $("problem").textContent = error ? error.message : "";
  $("problem").hidden = !error;
}

function askToken() {
  sessionStorage.removeItem(TOKEN_KEY);
  $("content").hidden = true;
  $("login").hidden = false;
  setState("locked", "bad");
  $("token").focus();
}

function showStatus(status) {
  const rows = [
    ["Username", status.username || "none yet"],
    ["Identity", status.identity],
    ["Device", status.peer_id],
    ["Reachability", status.reachability],
    ["Roles", status.roles.join(", ")],
    ["Listens on", status.listen.join(", ")],
    ["Connections", String(status.connections)],
    ["Directory", `${status.directory.server ? "server" : "client"}, ${status.directory.table} nodes known`],
    ["Outbox", status.outbox ? `${status.outbox} waiting` : ""],
    ["Version", status.version],
  ];
  const filled = rows.filter(([, value]) => value);
  $("status").replaceChildren(...filled.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  const state = status.suspended ? "suspended" : status.ready ? "ready" : "starting";
  setState(state, state === "ready" ? "good" : "");
}

function showPeers({ peers }) {
  const row = (peer) => {
    const made = element("tr");
    const link = peer.connected ? (peer.relayed ? "relayed" : "direct") : "none";
    const short = element("td", `${peer.peer_id.slice(0, 4)}…${peer.peer_id.slice(-8)}`);
    short.title = peer.peer_id;
    const rtt = peer.rtt_ms === null ? "" : `${peer.rtt_ms} ms`;
    made.append(short, ...[peer.username || "", link, rtt, peer.roles.join(", ")].map((text) => element("td", text)));
    return made;
  };
  const rows = peers.map(row);
  if (!rows.length) {
    const nobody = element("td", "nobody yet", "empty");
    nobody.colSpan = 5;
    rows.push(element("tr"));
    rows[0].append(nobody);
  }
  $("peers").replaceChildren(...rows);
}

function action(name, path) {
  const button = element("button", name, "quiet");
  button.addEventListener("click", () => act(async () => {
    await api(path, {});
    await refresh();
  }));
  return button;
}

function showCalls({ calls }) {
  const line = (call) => {
    const way = call.incoming ? "from" : "to";
    const state = call.outcome ? call.outcome.outcome : call.state;
    const made = element("li");
    made.append(time(call.started_at), `${way} ${call.users.join(", ")}: ${state}`);
    const path = `/v1/calls/${encodeURIComponent(call.call_id)}`;
    const rings = call.incoming && call.state === "ringing";
    if (rings) made.append(action("Answer", `${path}/answer`), action("Decline", `${path}/decline`));
    else if (call.state !== "ended") made.append(action("Hang up", `${path}/hangup`));
    return made;
  };
  fill($("calls"), calls.slice().reverse().map(line), "no calls");
}

// The policy of the page lets no element load sound; what the script has fetched it may play.
function playButton(id) {
  const button = element("button", "Play");
  button.type = "button";
  const path = `/v1/voicemails/${encodeURIComponent(id)}`;
  const play = async () => {
    const response = await api(`${path}/audio?format=wav`, undefined, { raw: true });
    const context = new AudioContext();
    const source = context.createBufferSource();
    source.buffer = await context.decodeAudioData(await response.arrayBuffer());
    source.connect(context.destination);
    source.addEventListener("ended", () => act(async () => {
      await context.close();
      await api(`${path}/heard`, {});
      await refreshMessages();
    }));
    source.start();
  };
  button.addEventListener("click", () => act(play));
  return button;
}

function showMessages(list) {
  const line = (message) => {
    const made = element("li", undefined, message.incoming ? "" : "mine");
    const state = message.incoming ? "" : ` (${message.state})`;
    if (message.voicemail_ms === undefined) {
      made.append(time(message.sent_at), `${message.text}${state}`);
      return made;
    }
    const heard = message.incoming && !message.unread ? ", heard" : "";
    made.append(time(message.sent_at), `voicemail, ${Math.round(message.voicemail_ms / 1000)} s${heard}${state}`);
    if (message.incoming) made.append(playButton(message.id));
    return made;
  };
  fill($("messages"), list.messages.map(line), `no messages with ${list.with}`);
  $("messages").scrollTop = $("messages").scrollHeight;
  $("send").hidden = false;
}

async function refreshMessages() {
  if (!conversation) return;
  const shown = await api(`/v1/messages?with=${encodeURIComponent(conversation)}`);
  showMessages(shown);
  const newest = shown.messages.at(-1);
  // What a person sees counts as read, and a page in the background isn't seen.
  if (shown.unread && newest && document.visibilityState === "visible") {
    await api("/v1/conversations/read", { with: conversation, id: newest.id });
  }
}

async function refresh() {
  const [status, peers, calls] = await Promise.all([api("/v1/status"), api("/v1/peers"), api("/v1/calls")]);
  showStatus(status);
  showPeers(peers);
  showCalls(calls);
  await refreshMessages();
  $("content").hidden = false;
  $("login").hidden = true;
}

// Runs something a person asked for and shows what goes wrong.
async function act(what) {
  try {
    await what();
    showProblem(null);
  } catch (error) {
    if (error instanceof Unauthorized) askToken();
    else showProblem(error);
  }
}

function showEvent(record) {
  const { id, at, event, ...facts } = record;
  const made = element("li");
  const words = Object.entries(facts).filter(([, value]) => value !== null && typeof value !== "object");
  made.append(time(at), `${event.replaceAll("_", " ")}  ${words.map(([name, value]) => `${name}: ${value}`).join(", ")}`);
  $("events").prepend(made);
  while ($("events").children.length > EVENTS_SHOWN) $("events").lastChild.remove();
}

// EventSource can't send the token, so the stream is read by hand.
async function readEvents() {
  const headers = lastEventId === null ? {} : { "Last-Event-ID": lastEventId };
  const response = await api("/v1/events", undefined, { headers, raw: true });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").find((line) => line.startsWith("data:"));
      if (!data) continue;
      const record = JSON.parse(data.slice(5));
      lastEventId = String(record.id);
      showEvent(record);
    }
    if (blocks.some((block) => block.includes("data:"))) refresh().catch(() => {});
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function live() {
  for (;;) {
    try {
      await refresh();
      await readEvents();
    } catch (error) {
      if (error instanceof Unauthorized) return askToken();
      setState("not connected", "bad");
    }
    await pause(REFRESH_MS);
  }
}

function onSubmit(id, handler) {
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    act(handler);
  });
}

onSubmit("login", async () => {
  sessionStorage.setItem(TOKEN_KEY, $("token").value.trim());
  $("token").value = "";
  live();
});
onSubmit("open", async () => {
  conversation = $("with").value.trim();
  await refreshMessages();
});
onSubmit("send", async () => {
  await api("/v1/messages", { to: conversation, text: $("text").value });
  $("text").value = "";
  await refreshMessages();
});
onSubmit("dial", async () => {
  const outcome = await api("/v1/calls", { users: [$("callee").value.trim()] });
  await refresh();
  if (outcome.outcome !== "completed") throw new Error(`The call was not completed: ${outcome.outcome}`);
});

setInterval(() => {
  if (!$("content").hidden) refresh().catch(() => setState("not connected", "bad"));
}, REFRESH_MS);
live();

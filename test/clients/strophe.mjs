// One client of Strophe.js on BOSH, as a web page has it.
//
//   node strophe.mjs SERVICE DOMAIN USER PASSWORD
//
// SERVICE is https://host:port/http-bind. The client goes online, and again whenever it was
// disconnected. It sends what each line of its standard input says, "TO BODY", and prints
// one JSON line for each message that reaches it. The CA comes from NODE_EXTRA_CA_CERTS;
// the libraries are looked for in IMLB_STROPHE, a directory with a node_modules.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import path from "node:path";

const from = path.join(process.env.IMLB_STROPHE ?? ".", "package.json");
const require = createRequire(from);
// As in a browser, which xhr2 is not in this.
globalThis.XMLHttpRequest = class extends require("xhr2") {
  get responseXML() {
    return this.responseText ? new DOMParser().parseFromString(this.responseText, "text/xml") : null;
  }
  set responseXML(none) {}
};
const { Strophe, $msg, $pres } = await import(
  pathToFileURL(path.join(path.dirname(from), "node_modules/strophe.js/dist/strophe.node.esm.js")));

const [service, domain, username, password] = process.argv.slice(2);
const emit = (event, fields = {}) => console.log(JSON.stringify({ client: username, event, ...fields }));

Strophe.setLogLevel(Strophe.LogLevel.WARN);
const status = Object.fromEntries(Object.entries(Strophe.Status).map(([name, n]) => [n, name]));
let leaving = false;
let condition = "";

const connection = new Strophe.Connection(service);
const connect = () => connection.connect(`${username}@${domain}`, password, changed);

function changed(now, why) {
  if (why) condition = why;
  switch (now) {
    case Strophe.Status.CONNECTED:
      condition = "";
      connection.addHandler(received, null, "message");
      connection.send($pres());
      emit("online", { jid: connection.jid, mechanism: connection.mechanism ?? "" });
      break;
    case Strophe.Status.AUTHFAIL:
      emit("error", { reason: status[now], condition });
      process.exit(1);
      break;
    case Strophe.Status.DISCONNECTED:
      emit("offline", { condition });
      if (leaving) process.exit(0);
      setTimeout(() => { connection.reset(); connect(); }, 100);
      break;
  }
}

function received(stanza) {
  const body = stanza.getElementsByTagName("body")[0];
  if (body) emit("message", {
    from: stanza.getAttribute("from"), to: stanza.getAttribute("to"), type: stanza.getAttribute("type") ?? "", body: body.textContent,
  });
  return true;
}

const leave = () => {
  leaving = true;
  connection.disconnect();
};
createInterface({ input: process.stdin })
  .on("line", (line) => {
    const [to, ...body] = line.split(" ");
    connection.send($msg({ to, type: "chat" }).c("body").t(body.join(" ")));
  })
  .on("close", leave);
process.on("SIGTERM", leave);

connect();

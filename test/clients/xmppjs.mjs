// One xmpp.js client, as the library's own introduction shows it.
//
//   node xmppjs.mjs SERVICE DOMAIN USER PASSWORD [TO BODY]
//
// SERVICE is xmpps://host:port or wss://host:port/xmpp-websocket. The client goes
// online, sends BODY to TO when they are given, and prints one JSON line for each
// message that reaches it. The CA comes from NODE_EXTRA_CA_CERTS; the library is
// looked for in IMLB_XMPPJS, a directory with a node_modules.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const require = createRequire(path.join(process.env.IMLB_XMPPJS ?? ".", "package.json"));
const { client, xml } = await import(pathToFileURL(require.resolve("@xmpp/client")));

const [service, domain, username, password, to, body] = process.argv.slice(2);
const emit = (event, fields = {}) => console.log(JSON.stringify({ client: username, event, ...fields }));

const xmpp = client({ service, domain, username, password });
xmpp.reconnect.stop();

xmpp.on("error", (err) => emit("error", { reason: String(err), condition: err.condition ?? "" }));
xmpp.on("offline", () => emit("offline"));
xmpp.on("stanza", (stanza) => {
  if (!stanza.is("message") || !stanza.getChild("body")) return;
  emit("message", {
    from: stanza.attrs.from,
    to: stanza.attrs.to,
    type: stanza.attrs.type,
    id: stanza.attrs.id ?? "",
    body: stanza.getChildText("body"),
  });
});
xmpp.on("online", async (address) => {
  await xmpp.send(xml("presence"));
  emit("online", { jid: address.toString() });
  if (to) await xmpp.send(xml("message", { type: "chat", to, id: "js-1" }, xml("body", {}, body)));
});

// The end of standard input, or a signal, is an orderly end.
const stop = async () => {
  await xmpp.stop().catch(() => {});
  process.exit(0);
};
process.stdin.on("end", stop).resume();
process.on("SIGTERM", stop);

await xmpp.start().catch((err) => {
  emit("error", { reason: String(err), condition: err.condition ?? "" });
  process.exit(1);
});

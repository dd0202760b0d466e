// One xmpp.js client that comes back: it logs in with a password, and then twice with the
// token that it got for it (XEP-0484). The last of these sessions loses its connection, and
// is resumed (XEP-0198).
//
//   node xmppjs_fast.mjs SERVICE DOMAIN USER PASSWORD
//
// It prints a JSON line each time it is online or resumed, and for each token. At the end it
// stays online until its standard input ends. See xmppjs.mjs for the environment.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const require = createRequire(path.join(process.env.IMLB_XMPPJS ?? ".", "package.json"));
const { client, xml } = await import(pathToFileURL(require.resolve("@xmpp/client")));

const [service, domain, username, password] = process.argv.slice(2);
const emit = (event, fields = {}) => console.log(JSON.stringify({ client: username, event, ...fields }));

const userAgent = xml("user-agent", { id: globalThis.crypto.randomUUID() });
const xmpp = client({ service, domain, username, password, userAgent, resource: "again" });
xmpp.reconnect.stop();

let token;
xmpp.fast.saveToken = async (t) => {
  token = t;
  emit("token", { mechanism: t.mechanism });
};
xmpp.fast.fetchToken = async () => token;
xmpp.fast.deleteToken = async () => {
  token = undefined;
  emit("error", { reason: "the token was refused" });
};

xmpp.on("error", (err) => emit("error", { reason: String(err), condition: err.condition ?? "" }));

const logIn = async () => {
  const online = new Promise((resolve) => xmpp.once("online", resolve));
  await xmpp.start();
  const address = await online;
  await xmpp.send(xml("presence"));
  emit("online", { jid: address.toString() });
};

const resume = async () => {
  const gone = new Promise((resolve) => xmpp.once("disconnect", resolve));
  const { socket } = xmpp.socket;
  if (socket.destroy) socket.destroy();
  else socket.close();
  await gone;
  const resumed = new Promise((resolve) => xmpp.streamManagement.once("resumed", resolve));
  await xmpp.reconnect.reconnect();
  await resumed;
  emit("resumed", { jid: xmpp.jid.toString() });
};

try {
  // The first login asks for a token because it has none, which is no refusal.
  const refused = xmpp.fast.deleteToken;
  xmpp.fast.deleteToken = async () => {};
  await logIn();
  xmpp.fast.deleteToken = refused;
  for (let i = 0; i < 2; i++) {
    await xmpp.stop();
    await logIn();
  }
  await resume();
} catch (err) {
  emit("error", { reason: String(err), condition: err.condition ?? "" });
}

// The end of standard input, or a signal, is an orderly end.
const stop = async () => {
  await xmpp.stop().catch(() => {});
  process.exit(0);
};
process.stdin.on("end", stop).resume();
process.on("SIGTERM", stop);

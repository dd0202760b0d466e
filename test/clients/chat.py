#!/usr/bin/python3
"""A slixmpp client on strings: JSON lines in, JSON lines out.

One process holds any number of clients. Each line on standard input is a
command {"client": NAME, "cmd": ...}; each line on standard output is an event
{"client": NAME, "event": ...}. End of input ends the process.

    login      jid, password, host, port, ca[, mechanism][, direct][, sm]
               [, silent][, priority]   a new connection; ends with "online",
               or with "auth_failed" and "offline"
    send       to, body[, id][, type]
    presence   [to][, type][, priority]
    ping       [to]                     answered with "pong" or "iq_error"
    roster                              answered with "roster"
    raw        xml                      sent as it is
    acks                                asks the server what it has handled:
               slixmpp asks before each message, so never for the last one
    talk       to, prefix[, count][, every]   messages "PREFIX-1", "PREFIX-2" …
               one each `every` seconds while online; keeps its number across
               logins; ends with "talked"
    hush                                ends a talk; answered with "talked"
    stay       attempts                 log in again, as a user would, whenever
               the connection is lost
    logout                              an orderly end of stream; "offline"
    cut                                 the connection is aborted; "offline"

Messages that came before the last logout are a client's own memory: nothing
here filters or orders them.
"""

import asyncio
import json
import logging
import pathlib
import sys

import slixmpp
from slixmpp.exceptions import IqError, IqTimeout
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

RETRY = 0.1  # seconds before a lost client logs in again


def emit(client, event, **fields):
    """Writes one event line."""
    sys.stdout.write(json.dumps({"client": client, "event": event, **fields}) + "\n")
    sys.stdout.flush()


class Session(slixmpp.ClientXMPP):
    """One login. A later login is a new Session: slixmpp keeps the counters of
    XEP-0198 across connections, which is right only for a resumed stream."""

    def __init__(self, name, opts):
        super().__init__(opts["jid"], opts["password"])
        self.name, self.opts = name, opts
        self.ca_certs = pathlib.Path(opts["ca"])
        if opts.get("mechanism"):
            self["feature_mechanisms"].use_mech = opts["mechanism"]
        self.register_plugin("xep_0030")
        self.register_plugin("xep_0199")
        self.register_plugin("xep_0203")
        if opts.get("sm"):
            self.register_plugin("xep_0198", {"window": 1, "allow_resume": False})
        for event in ("message", "presence", "stanza_acked", "session_start",
                      "failed_auth", "stream_error", "connection_failed"):
            self.add_event_handler(event, getattr(self, "on_" + event))
        self.register_handler(Callback(
            "enabled", MatchXPath("{urn:xmpp:sm:3}enabled"), lambda _: self.tell("sm_enabled")))

    def tell(self, event, **fields):
        emit(self.name, event, **fields)

    async def on_session_start(self, _event):
        if not self.opts.get("silent"):
            self.send_presence(ppriority=self.opts.get("priority", 0))
        try:
            await self.get_roster(timeout=10)
        except (IqError, IqTimeout) as err:
            self.tell("iq_error", what="roster", condition=condition(err))
        self.tell("online", jid=self.boundjid.full, mechanism=self["feature_mechanisms"].mech.name)

    def on_message(self, msg):
        ids = [e.get("id") for e in msg.xml.iter("{urn:xmpp:sid:0}stanza-id")]
        delay = msg.xml.find("{urn:xmpp:delay}delay")
        self.tell("message", **{
            "from": str(msg["from"]), "to": str(msg["to"]), "type": msg["type"],
            "id": msg["id"], "body": msg["body"],
            "condition": msg["error"]["condition"] if msg["type"] == "error" else "",
            "stanza_ids": ids, "delay": delay.get("stamp") if delay is not None else "",
            "last_child": msg.xml[-1].tag if len(msg.xml) else ""})

    def on_presence(self, pres):
        self.tell("presence", **{"from": str(pres["from"]), "type": pres["type"],
                                 "priority": pres["priority"]})

    def on_stanza_acked(self, stanza):
        if stanza.name == "message":
            self.tell("acked", id=stanza["id"], body=stanza["body"])

    def on_failed_auth(self, failure):
        self.tell("auth_failed", condition=failure["condition"])

    def on_stream_error(self, error):
        self.tell("stream_error", condition=error["condition"])

    def on_connection_failed(self, err):
        self.tell("connection_failed", reason=str(err))
        # slixmpp would try for ever; here every login is one attempt.
        self.cancel_connection_attempt()
        self.event("disconnected", str(err))


class Client:
    """A user's application: at most one Session at a time, and a talk."""

    def __init__(self, name):
        self.name = name
        self.session = None
        self.online = asyncio.Event()
        self.attempts = 0
        self.sent = 0
        self.talking = None

    # ---- commands

    def login(self, cmd):
        self.session = session = Session(self.name, cmd)
        session.add_event_handler("session_start", lambda _: self.online.set())
        session.add_event_handler("disconnected", lambda why: self.lost(session, why))
        session.connect((cmd["host"], cmd["port"]), use_ssl=cmd.get("direct", False),
                        force_starttls=not cmd.get("direct", False),
                        disable_starttls=cmd.get("direct", False))

    def send(self, cmd):
        msg = self.session.make_message(mto=cmd["to"], mbody=cmd["body"],
                                        mtype=cmd.get("type", "chat"))
        msg["id"] = cmd.get("id") or cmd["body"]
        msg.send()

    def presence(self, cmd):
        self.session.send_presence(pto=cmd.get("to"), ptype=cmd.get("type"),
                                   ppriority=cmd.get("priority"))

    def ping(self, cmd):
        asyncio.ensure_future(self.pinging(cmd.get("to")))

    def roster(self, _cmd):
        asyncio.ensure_future(self.rostering())

    def raw(self, cmd):
        self.session.send_raw(cmd["xml"])

    def acks(self, _cmd):
        if self.session.opts.get("sm") and self.online.is_set():
            self.session["xep_0198"].request_ack()

    def talk(self, cmd):
        self.talking = asyncio.ensure_future(self.talker(cmd))

    def hush(self, _cmd):
        self.talking.cancel()
        self.acks({})
        emit(self.name, "talked", count=self.sent)

    def stay(self, cmd):
        self.attempts = cmd["attempts"]

    def logout(self, _cmd):
        self.attempts = 0
        # XEP-0198 §4 asks clients to acknowledge what they have before they
        # leave in good order; slixmpp leaves that to the application.
        if self.session.opts.get("sm") and self.online.is_set():
            self.session["xep_0198"].send_ack()
        self.session.disconnect()

    def cut(self, _cmd):
        self.attempts = 0
        self.session.transport.abort()

    # ---- what the commands start

    async def pinging(self, to):
        try:
            await self.session["xep_0199"].send_ping(to or self.session.boundjid.domain, timeout=10)
            emit(self.name, "pong")
        except (IqError, IqTimeout) as err:
            emit(self.name, "iq_error", what="ping", condition=condition(err))

    async def rostering(self):
        try:
            # An answer may say only that nothing changed; what slixmpp keeps is whole.
            await self.session.get_roster(timeout=10)
            roster = self.session.client_roster
            emit(self.name, "roster", items={jid: roster[jid]["subscription"] for jid in roster})
        except (IqError, IqTimeout) as err:
            emit(self.name, "iq_error", what="roster", condition=condition(err))

    async def talker(self, cmd):
        count = cmd.get("count", 0)
        while not count or self.sent < count:
            await self.online.wait()
            self.sent += 1
            body = f"{cmd['prefix']}-{self.sent}"
            # "sent" comes first: an acknowledgement never precedes it.
            emit(self.name, "sent", id=body, body=body)
            self.send({"to": cmd["to"], "body": body})
            await asyncio.sleep(cmd.get("every", 0.01))
        self.acks({})
        emit(self.name, "talked", count=self.sent)

    def lost(self, session, why):
        if session is not self.session:
            return
        self.online.clear()
        emit(self.name, "offline", reason=str(why))
        if self.attempts > 0:
            self.attempts -= 1
            asyncio.get_event_loop().call_later(RETRY, self.login, session.opts)


def condition(err):
    """Names what an IqError or IqTimeout was about."""
    return "timeout" if isinstance(err, IqTimeout) else err.condition


async def main():
    logging.basicConfig(level=logging.WARNING)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    clients = {}
    emit("", "hello")
    while line := await reader.readline():
        cmd = json.loads(line)
        client = clients.setdefault(cmd["client"], Client(cmd["client"]))
        try:
            getattr(client, cmd["cmd"])(cmd)
        except Exception as err:  # the driver must hear of it, whatever it is
            emit(cmd["client"], "error", cmd=cmd["cmd"], reason=repr(err))


if __name__ == "__main__":
    asyncio.get_event_loop_policy().get_event_loop().run_until_complete(main())

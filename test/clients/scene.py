"""What the scenes have in common: who takes part, and how they wait.

A scene is a script between two users, who live on different nodes when a test
runs it; each may have several clients. It takes

    -j alice@localhost -p SECRET --peer bob@localhost --peer-password SECRET \\
        --host 127.0.0.1 --port 5222 --ca DIR/ca.pem

and prints "ok" when all was as it should be.
"""

import argparse
import asyncio
import copy
import pathlib

import slixmpp
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

CLIENT = "{jabber:client}"
CARBONS = "{urn:xmpp:carbons:2}"
FORWARD = "{urn:xmpp:forward:0}"
STANZA_ID = "{urn:xmpp:sid:0}stanza-id"
DELAY = "{urn:xmpp:delay}delay"
RESULT = "{urn:xmpp:mam:2}result"

PATIENCE = 25  # seconds for a whole scene


class Party(slixmpp.ClientXMPP):
    """One client. What it hears and says is in queues, in order: nothing may come
    between what a scene expects."""

    def __init__(self, opts, jid, *plugins, peer=False):
        super().__init__(jid, opts.peer_password if peer else opts.password)
        self.ca_certs = opts.ca
        for plugin in ("xep_0030", "xep_0059", "xep_0199", "xep_0280", "xep_0313", *plugins):
            self.register_plugin(plugin)
        self.where = (opts.host, opts.port)
        self.ready = asyncio.get_event_loop().create_future()
        self.heard = asyncio.Queue()  # (None, "sent" or "received", the message)
        self.said = asyncio.Queue()
        self.seen = asyncio.Queue()  # presence of others, and their wishes to see ours
        self.add_event_handler("session_start", lambda _: self.ready.set_result(None))
        self.add_event_handler("failed_auth", lambda why: self.ready.set_exception(RuntimeError(str(why))))
        self.register_handler(Callback("heard", MatchXPath(CLIENT + "message"), self.hear))
        self.register_handler(Callback("seen", MatchXPath(CLIENT + "presence"), self.see))
        self.add_filter("out", self.say)

    def hear(self, stanza):
        """Keeps a message, out of its wrapper if it is a copy. What an archive
        answers is not heard but read."""
        xml = stanza.xml
        if xml.find(RESULT) is not None:
            return
        for way in "sent", "received":
            wrapper = xml.find(CARBONS + way)
            if wrapper is not None:
                self.heard.put_nowait((way, wrapper.find(f"{FORWARD}forwarded/{CLIENT}message")))
                return
        self.heard.put_nowait((None, xml))

    def see(self, stanza):
        """Keeps a presence of somebody else."""
        if stanza["from"] != self.boundjid:
            self.seen.put_nowait(stanza)

    def say(self, stanza):
        """Keeps what is sent."""
        if isinstance(stanza, slixmpp.Message):
            self.said.put_nowait(copy.deepcopy(stanza.xml))
        return stanza

    async def come(self, presence=True):
        """Logs in, asks for copies, and goes online."""
        self.connect(self.where)
        await self.ready
        await self["xep_0280"].enable()
        await self.get_roster()
        if presence:
            self.send_presence()
        await self.settled()
        return self

    async def leave(self):
        """Ends the stream in good order."""
        gone = self.disconnected  # slixmpp has another one for the next connection
        self.disconnect()
        await gone

    async def settled(self):
        """All that was sent before has been dealt with."""
        await self["xep_0199"].send_ping(self.boundjid.domain)

    async def sees(self, kind, *clients):
        """Waits for a presence of a type from each client, in whatever order they
        come; returns the last."""
        missing = {client.boundjid.full for client in clients}
        while missing:
            presence = await self.seen.get()
            if presence.xml.get("type", "available") == kind:
                missing.discard(presence["from"].full)
        return presence

    async def archived(self, **query):
        """The user's archive: ids, and what was said."""
        found = []
        async for m in self["xep_0313"].iterate(rsm={"max": 4}, **query):
            result = m.xml.find(RESULT)
            found.append((result.get("id"), result.find(f"{FORWARD}forwarded/{CLIENT}message")))
        return found


async def befriend(one, other):
    """Each sees the other; slixmpp answers in kind."""
    one.send_presence_subscription(pto=other.boundjid.bare)
    await one.sees("available", other)
    await other.sees("available", one)


def content(xml):
    """What a message says, without what a server adds and where it went."""
    def tree(e):
        return e.tag, sorted(e.attrib.items()), (e.text or ""), [tree(c) for c in e]
    return (xml.get("id"), xml.get("type", "normal"),
            [tree(c) for c in xml if c.tag not in (STANZA_ID, DELAY)])


def body(xml):
    """The text of a message."""
    return xml.findtext(CLIENT + "body")


def refused(err):
    """Names a stanza error, in an exception or in a message."""
    if isinstance(err, slixmpp.exceptions.IqError):
        return err.condition
    error = err.find(CLIENT + "error")
    assert err.get("type") == "error" and error is not None, slixmpp.xmlstream.tostring(err)
    return error[0].tag.partition("}")[2]


async def fails(awaitable, condition):
    """An IQ is refused with a condition."""
    try:
        answer = await awaitable
    except slixmpp.exceptions.IqError as err:
        assert refused(err) == condition, err
        return
    raise AssertionError(f"not refused with {condition}: {answer}")


def run(doc, main, others=("--peer", "--peer-password")):
    """Runs a scene, with options that name the others who take part."""
    args = argparse.ArgumentParser(description=doc.partition("\n")[0])
    args.add_argument("-j", "--jid", required=True)
    args.add_argument("-p", "--password", required=True)
    for other in others:
        args.add_argument(other, required=True)
    args.add_argument("--host", default="127.0.0.1")
    args.add_argument("--port", default=5222, type=int)
    args.add_argument("--ca", type=pathlib.Path, help="PEM file of the CA to trust")
    asyncio.get_event_loop().run_until_complete(asyncio.wait_for(main(args.parse_args()), PATIENCE))
    print("ok", flush=True)

#!/usr/bin/python3
"""Two devices of one user, and what they learn of each other from the server.

    /usr/bin/python3 devices.py -j alice@localhost -p SECRET --peer bob@localhost \\
        --host 127.0.0.1 --port 5222 --ca DIR/ca.pem

The phone writes to the peer; the tab has a carbon of each message (XEP-0280) and
then finds them in the archive (XEP-0313), forwards in pages and backwards. Prints
"ok" when all was as it should be.
"""

import asyncio

import slixmpp

from scene import run

COUNT = 7


class Device(slixmpp.ClientXMPP):
    """One device; ready once it is online."""

    def __init__(self, jid, opts):
        super().__init__(jid, opts.password)
        self.ca_certs = opts.ca
        for plugin in ("xep_0030", "xep_0059", "xep_0199", "xep_0202", "xep_0280", "xep_0313", "xep_0352"):
            self.register_plugin(plugin)
        self.ready = asyncio.get_event_loop().create_future()
        self.carbons = asyncio.Queue()
        self.add_event_handler("session_start", self.start)
        self.add_event_handler("carbon_sent", self.carbons.put_nowait)
        self.add_event_handler("failed_auth", lambda why: self.ready.set_exception(RuntimeError(str(why))))
        self.connect((opts.host, opts.port))

    async def start(self, _event):
        """Asks for carbons, and goes online."""
        await self["xep_0280"].enable()
        self.send_presence()
        self.ready.set_result(None)


def bodies(stanzas):
    """The bodies of archived messages."""
    return [m["mam_result"]["forwarded"]["stanza"]["body"] for m in stanzas]


async def main(opts):
    """Runs the scene."""
    phone, tab = Device(opts.jid + "/phone", opts), Device(opts.jid + "/tab", opts)
    await phone.ready
    await tab.ready
    info = await tab["xep_0030"].get_info(jid=phone.boundjid.bare)
    for feature in ("urn:xmpp:mam:2", "urn:xmpp:mam:2#extended", "urn:xmpp:sid:0"):
        assert feature in info["disco_info"]["features"], feature
    await phone["xep_0199"].ping(jid=phone.boundjid.domain)
    await phone["xep_0202"].get_entity_time(phone.boundjid.domain)
    tab["xep_0352"].send_inactive()

    want = [f"message {n}" for n in range(COUNT)]
    for body in want:
        phone.send_message(mto=opts.peer, mbody=body, mtype="chat")
    copies = [(await tab.carbons.get())["carbon_sent"]["body"] for _ in want]
    assert copies == want, copies

    found = []
    async for m in tab["xep_0313"].iterate(with_jid=slixmpp.JID(opts.peer), rsm={"max": 3}):
        found += bodies([m])
    assert found == want, found
    found = []
    async for m in tab["xep_0313"].iterate(reverse=True, rsm={"max": 2}):
        found += bodies([m])
    assert sorted(found) == want and found[0] in want[-2:], found
    for device in phone, tab:
        device.disconnect()
        await device.disconnected


if __name__ == "__main__":
    run(__doc__, main, others=("--peer",))

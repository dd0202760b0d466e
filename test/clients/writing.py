#!/usr/bin/python3
"""What people do with messages beside reading them.

Alice, on a phone and with a tab beside it, and Bob ask for receipts (XEP-0184), show
that they have read (XEP-0333), correct (XEP-0308), react (XEP-0444), reply
(XEP-0461), retract (XEP-0424) and show that they type (XEP-0085). Each of it arrives
as it was sent, once, and reaches Alice's other client as a copy (XEP-0280); the
archives (XEP-0313) of both have it under the id that came with it (XEP-0359).
Of typing they have nothing. The arguments are in scene.py.
"""

import slixmpp
from slixmpp.xmlstream import ET

from scene import DELAY, STANZA_ID, Party, body, content, run

PLUGINS = ("xep_0085", "xep_0184", "xep_0308", "xep_0333", "xep_0359", "xep_0424", "xep_0444", "xep_0461")


class Talk:
    """What was said, and under which ids each user has it."""

    def __init__(self):
        self.contents = []
        self.ids = {}

    async def goes(self, sender, *hearers, stored=True):
        """What the sender says next is what each of the others hears next, in the way
        that is named beside it. Returns the id of the message."""
        said = content(await sender.said.get())
        if stored:
            self.contents.append(said)
        for party, way in hearers:
            got, xml = await party.heard.get()
            assert (got, content(xml)) == (way, said), (party.boundjid, got, slixmpp.xmlstream.tostring(xml), said)
            self.identified(party, xml, stored)
        return said[0]

    def identified(self, party, xml, stored):
        """A message that is stored has one id, by the user; one that is not has none."""
        user = party.boundjid.bare
        ids = [(e.get("by"), e.get("id")) for e in xml.iter(STANZA_ID)]
        assert [by for by, _ in ids] == [user] * stored, (user, ids)
        assert xml.find(DELAY) is None, "what comes at once is not late"
        if not stored:
            return
        known = self.ids.setdefault((user, len(self.contents) - 1), ids[0][1])
        assert known == ids[0][1], (known, ids, "a user's clients have the same")

    async def kept(self, party):
        """The archive of the party has all of it."""
        found = await party.archived()
        assert [content(xml) for _, xml in found] == self.contents, found
        for at, (number, _) in enumerate(found):
            assert self.ids.get((party.boundjid.bare, at), number) == number, (at, found, self.ids)


async def main(opts):
    """Runs the scene."""
    phone = await Party(opts, opts.jid + "/phone", *PLUGINS).come()
    tab = await Party(opts, opts.jid + "/tab", *PLUGINS).come()
    bob = await Party(opts, opts.peer + "/desk", *PLUGINS, peer=True).come()
    talk = Talk()

    def write(sender, to, text="", **fields):
        message = sender.make_message(mto=to, mtype="chat", mbody=text or None)
        for name, value in fields.items():
            message[name] = value
        return message

    typing = write(phone, opts.peer, chat_state="composing")
    typing.send()
    await talk.goes(phone, (bob, None), (tab, "sent"), stored=False)

    # The id that the client claims to have from the server is not the server's.
    first = write(phone, opts.peer, "Grüße aus 東京 & <so on>", request_receipt=True, chat_state="active")
    first.enable("markable")
    first["stanza_id"]["by"], first["stanza_id"]["id"] = opts.peer, "1000000"
    first.send()
    begun = await talk.goes(phone, (bob, None), (tab, "sent"))
    await talk.goes(bob, (phone, None), (tab, "received"))  # the receipt, from slixmpp by itself
    bob["xep_0333"].send_marker(phone.boundjid.bare, begun, "displayed")
    await talk.goes(bob, (phone, None), (tab, None))

    correction = write(phone, opts.peer, "Grüße aus Kyoto")
    correction["replace"]["id"] = begun
    correction.send()
    await talk.goes(phone, (bob, None), (tab, "sent"))
    bob["xep_0444"].send_reactions(slixmpp.JID(opts.jid), begun, ["\N{THUMBS UP SIGN}", "\N{PARTY POPPER}"])
    await talk.goes(bob, (phone, None), (tab, None))
    bob["xep_0461"].send_reply(phone.boundjid, begun, mto=phone.boundjid, mtype="chat", mbody="How is the weather?")
    await talk.goes(bob, (phone, None), (tab, "received"))
    tab["xep_0424"].send_retraction(opts.peer, begun)
    await talk.goes(tab, (bob, None), (phone, "sent"))
    retraction = write(phone, opts.peer)  # as XEP-0424 has it since version 0.4: it has no body
    retraction.xml.append(ET.Element("{urn:xmpp:message-retract:1}retract", {"id": begun}))
    retraction.send()
    await talk.goes(phone, (bob, None), (tab, "sent"))

    for state in "paused", "gone":
        write(bob, opts.jid, chat_state=state).send()
        await talk.goes(bob, (phone, None), (tab, None), stored=False)
    for party in phone, tab, bob:
        await party.settled()
        assert party.heard.empty(), party.heard
    for party in tab, bob:
        await talk.kept(party)
    found = await phone.archived(with_jid=slixmpp.JID(opts.peer))
    assert [body(xml) for _, xml in found][0] == "Grüße aus 東京 & <so on>", found
    for party in phone, tab, bob:
        await party.leave()


if __name__ == "__main__":
    run(__doc__, main)

#!/usr/bin/python3
"""What somebody hears who was away, or does not look.

Bob is offline while Alice writes: what she has said waits for him (XEP-0160), and says
when it was said (XEP-0203). Then his client is inactive (XEP-0352): what people say comes
at once, what they look like only when he looks again. The arguments are in scene.py.
"""

import datetime

from scene import DELAY, STANZA_ID, Party, befriend, body, run


def now():
    """The time, as stamps have it: to the millisecond."""
    t = datetime.datetime.now(datetime.timezone.utc)
    return t.replace(microsecond=t.microsecond // 1000 * 1000)


async def offline(opts, alice):
    """What was said meanwhile arrives in order, at the next login, and not again."""
    began = now()
    want = [f"while you were out, {n}" for n in range(5)]
    for text in want:
        alice.send_message(mto=opts.peer, mbody=text, mtype="chat")
    alice.send_message(mto=opts.peer, mbody="for who is there", mtype="headline")
    typing = alice.make_message(mto=opts.peer, mtype="chat")
    typing["chat_state"] = "composing"
    typing.send()
    await alice.settled()
    ended = now()
    unseen = await Party(opts, opts.peer + "/unseen", "xep_0085", peer=True).come(presence=False)
    assert unseen.heard.empty(), "who is not available is written to"
    await unseen.leave()

    bob = await Party(opts, opts.peer + "/desk", "xep_0085", peer=True).come()
    got = [(await bob.heard.get())[1] for _ in want]
    assert [body(xml) for xml in got] == want, got
    for xml in got:
        delay = xml.find(DELAY)
        assert delay.get("from") == bob.boundjid.domain, delay.attrib
        stamp = datetime.datetime.fromisoformat(delay.get("stamp").replace("Z", "+00:00"))
        assert began <= stamp <= ended, (began, stamp, ended)
        assert xml.get("from") == alice.boundjid.full, xml.attrib
    alice.send_message(mto=opts.peer, mbody="welcome back", mtype="chat")
    _, xml = await bob.heard.get()
    assert body(xml) == "welcome back" and xml.find(DELAY) is None, xml
    ids = [xml.find(STANZA_ID).get("id") for xml in got] + [xml.find(STANZA_ID).get("id")]
    assert [(i, body(m)) for i, m in await bob.archived()] == list(zip(ids, [*want, "welcome back"]))
    await bob.leave()

    again = await Party(opts, opts.peer + "/desk", "xep_0085", "xep_0352", peer=True).come()
    assert again.heard.empty(), again.heard
    return again


async def inactive(opts, alice, bob):
    """Of each client's presence and typing only the last is told, when Bob looks again or
    before that client says something."""
    phone = await Party(opts, opts.jid + "/phone", "xep_0085").come()
    await bob.sees("available", phone)

    async def shows(client, *shows):
        for show in shows:
            client.send_presence(pshow=show)
        await client.settled()

    async def says(client, text):
        client.send_message(mto=opts.peer, mbody=text, mtype="chat")
        _, xml = await bob.heard.get()
        assert body(xml) == text, xml

    bob["xep_0352"].send_inactive()
    await bob.settled()
    await shows(alice, "away", "xa", "dnd")
    await says(phone, "from the phone")
    assert bob.seen.empty(), bob.seen  # the message came later than what waits
    await shows(alice, "chat", "away")
    await says(alice, "from the desk")
    assert bob.seen.get_nowait()["show"] == "away" and bob.seen.empty(), bob.seen
    await shows(alice, "xa", "dnd")
    for state in "active", "composing":
        typing = phone.make_message(mto=opts.peer, mtype="chat")
        typing["chat_state"] = state
        typing.send()
    await phone.settled()
    other = await Party(opts, opts.jid + "/tab").come(presence=False)
    await says(other, "from the tab")
    assert bob.seen.empty() and bob.heard.empty(), (bob.seen, bob.heard)
    bob["xep_0352"].send_active()
    await bob.settled()
    assert bob.seen.get_nowait()["show"] == "dnd" and bob.seen.empty(), bob.seen
    _, xml = bob.heard.get_nowait()
    assert xml.find("{http://jabber.org/protocol/chatstates}composing") is not None and bob.heard.empty(), xml
    await shows(alice, "away")
    assert (await bob.sees("available", alice))["show"] == "away"
    return phone, other


async def main(opts):
    """Runs the scene."""
    alice = await Party(opts, opts.jid + "/desk", "xep_0085").come()
    bob = await Party(opts, opts.peer + "/first", peer=True).come()
    await befriend(alice, bob)
    await bob.leave()
    await alice.sees("unavailable", bob)
    bob = await offline(opts, alice)
    await bob.sees("available", alice)
    for party in (*await inactive(opts, alice, bob), alice, bob):
        await party.leave()


if __name__ == "__main__":
    run(__doc__, main)

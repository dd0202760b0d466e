#!/usr/bin/python3
"""What a user keeps on the server, and whom it wants to hear.

Alice, with two clients, publishes a vCard (XEP-0054), which Bob reads, keeps private
XML (XEP-0049), which he does not, says what is to be archived (XEP-0441), and
blocks Bob for a while (XEP-0191), to whom she then looks as if she were not there.
The arguments are in scene.py.
"""

import asyncio

import slixmpp
from slixmpp.xmlstream import ET, ElementBase, register_stanza_plugin

from scene import CLIENT, Party, befriend, body, fails, refused, run

BLOCKED = "{urn:xmpp:blocking:errors}blocked"


class Notes(ElementBase):
    """Something that a client might keep."""

    name = "notes"
    namespace = "urn:example:notes"
    plugin_attrib = "notes"
    interfaces = {"page"}


class Layout(ElementBase):
    """Something else."""

    name = "layout"
    namespace = "urn:example:layout"
    plugin_attrib = "layout"
    interfaces = {"theme"}


async def cards(phone, tab, bob):
    """A vCard is the user's to change, and for others to read."""
    alice = phone.boundjid.bare
    await fails(bob["xep_0054"].get_vcard(alice), "service-unavailable")
    for name in "Alice", "Alice Liddell & Co. 愛麗絲":
        card = phone["xep_0054"].make_vcard()
        card["FN"] = name
        card["PHOTO"]["TYPE"] = "image/png"
        card["PHOTO"]["BINVAL"] = b"\x89PNG" + bytes(range(256)) * 40
        await phone["xep_0054"].publish_vcard(card)
        for reader in tab, bob:
            got = (await reader["xep_0054"].get_vcard(alice))["vcard_temp"]
            assert got["FN"] == name and got["PHOTO"]["TYPE"] == "image/png", got
            assert got["PHOTO"]["BINVAL"] == card["PHOTO"]["BINVAL"], got
    other = bob["xep_0054"].make_vcard()
    other["FN"] = "Mallory"
    await fails(bob["xep_0054"].publish_vcard(other, jid=slixmpp.JID(alice)), "forbidden")
    got = (await tab["xep_0054"].get_vcard(alice))["vcard_temp"]
    assert got["FN"] == name, got


async def private(phone, tab, bob):
    """Private XML is there for all clients of a user, and for no other."""
    for party in phone, tab, bob:
        for kind in Notes, Layout:
            party["xep_0049"].register(kind)

    async def kept(party, name, key):
        return (await party["xep_0049"].retrieve(name))["private"][name][key]

    notes, layout = Notes(), Layout()
    notes["page"], layout["theme"] = "one & two", "dark"
    await phone["xep_0049"].store([notes, layout])
    assert await kept(tab, "notes", "page") == "one & two"
    notes["page"] = "three"
    await tab["xep_0049"].store(notes)  # instead of the one before; the other stays
    assert await kept(phone, "notes", "page") == "three"
    assert await kept(phone, "layout", "theme") == "dark"
    assert await kept(bob, "notes", "page") == ""
    iq = bob.make_iq_get(ito=phone.boundjid.bare)
    iq["private"].enable("notes")
    await fails(iq.send(), "forbidden")


async def archiving(phone, tab, bob):
    """What is not to be archived arrives all the same."""
    alice, friend = phone.boundjid.bare, bob.boundjid.bare
    prefs = tab["xep_0441"]
    for rule, never, text in (
        ("always", [], "for the record"), ("always", [friend], "off the record"),
        ("never", [], "not either"), ("roster", [], "as a friend"),
    ):
        await phone["xep_0441"].set_preferences(default=rule, always=[], never=[slixmpp.JID(j) for j in never])
        default, always, denied = await prefs.get_preferences()
        assert (default, {j.full for j in always}, {j.full for j in denied}) == (rule, set(), set(never)), (default, always, denied)
        bob.send_message(mto=alice, mbody=text, mtype="chat")
        for client in phone, tab:
            way, xml = await client.heard.get()
            assert way is None and body(xml) == text, (way, xml)
    found = [body(xml) for _, xml in await tab.archived()]
    assert found == ["for the record", "as a friend"], found
    found = [body(xml) for _, xml in await bob.archived()]
    assert found == ["for the record", "off the record", "not either", "as a friend"], found
    await phone["xep_0441"].set_preferences(default="always", always=[], never=[])


async def blocking(phone, tab, bob):
    """Who is blocked hears and reaches nothing; and then all again."""
    alice, friend = phone.boundjid.bare, bob.boundjid.bare
    pushes = asyncio.Queue()
    for client in phone, tab:
        client.add_event_handler("blocked", lambda iq: pushes.put_nowait(("block", {j.full for j in iq["block"]["items"]})))
        client.add_event_handler("unblocked", lambda iq: pushes.put_nowait(("unblock", {j.full for j in iq["unblock"]["items"]})))
        assert not (await client["xep_0191"].get_blocked())["blocklist"]["items"]

    await phone["xep_0191"].block(friend)
    await bob.sees("unavailable", phone, tab)
    for client in phone, tab:
        assert await pushes.get() == ("block", {friend})
        await client.settled()
    listed = (await tab["xep_0191"].get_blocked())["blocklist"]["items"]
    assert {j.full for j in listed} == {friend}, listed

    bob.send_message(mto=alice, mbody="are you there?", mtype="chat")
    _, xml = await bob.heard.get()
    assert refused(xml) == "service-unavailable", xml
    await fails(bob["xep_0199"].send_ping(phone.boundjid.full), "service-unavailable")
    bob.send_presence(pto=alice, pstatus="knock")
    bob.send_presence(pstatus="at my desk")
    await bob.settled()
    phone.send_message(mto=friend, mbody="I do not talk to you", mtype="chat")
    _, xml = await phone.heard.get()
    assert refused(xml) == "not-acceptable" and xml.find(f"{CLIENT}error/{BLOCKED}") is not None, xml
    for copied in "sent", "received":  # and what became of it
        how, _ = await tab.heard.get()
        assert how == copied, how
    for client in phone, tab:
        await client.settled()
        assert client.heard.empty(), client.heard
        while not client.seen.empty():  # what came before
            assert client.seen.get_nowait()["status"] == "", "a blocked user is seen"

    await tab["xep_0191"].unblock(friend)
    await bob.sees("available", phone, tab)
    for client in phone, tab:
        assert (await client.sees("available", bob))["status"] == "at my desk"
    for _ in phone, tab:
        assert await pushes.get() == ("unblock", {friend})
    assert pushes.empty(), pushes
    bob.send_message(mto=alice, mbody="there you are", mtype="chat")
    for client in phone, tab:
        _, xml = await client.heard.get()
        assert body(xml) == "there you are", xml
    await bob["xep_0199"].send_ping(phone.boundjid.full)
    found = [body(xml) for _, xml in await tab.archived()]
    assert found[-1] == "there you are" and "are you there?" not in found, found


async def main(opts):
    """Runs the scene."""
    plugins = ("xep_0049", "xep_0054", "xep_0191", "xep_0441")
    phone = await Party(opts, opts.jid + "/phone", *plugins).come()
    tab = await Party(opts, opts.jid + "/tab", *plugins).come()
    bob = await Party(opts, opts.peer + "/desk", *plugins, peer=True).come()
    await cards(phone, tab, bob)
    await private(phone, tab, bob)
    await befriend(phone, bob)
    await archiving(phone, tab, bob)
    await blocking(phone, tab, bob)
    for party in phone, tab, bob:
        await party.leave()


if __name__ == "__main__":
    run(__doc__, main)

#!/usr/bin/python3
"""What clients learn of the server and of each other.

Alice asks the server, and Bob's client, what they are (XEP-0030), and finds that this is
what they say in short (XEP-0115); which software that is (XEP-0092), what time
it is there (XEP-0202), and since when nothing has happened (XEP-0012). The arguments
are in scene.py.
"""

import asyncio
import datetime

from scene import Party, befriend, fails, run

SERVER = {
    "http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/disco#items", "http://jabber.org/protocol/caps",
    "http://jabber.org/protocol/commands", "jabber:iq:last", "jabber:iq:private", "jabber:iq:roster", "jabber:iq:version",
    "msgoffline", "urn:xmpp:blocking", "urn:xmpp:carbons:2", "urn:xmpp:ping", "urn:xmpp:time", "vcard-temp",
}
ACCOUNT = {"urn:xmpp:mam:2", "urn:xmpp:sid:0", "vcard-temp", "jabber:iq:private", "jabber:iq:last"}


async def what(alice, jid, identity, features=frozenset(), node=None):
    """Somebody is a thing of that kind, and can that at least."""
    info = (await alice["xep_0030"].get_info(jid=jid, node=node))["disco_info"]
    assert identity in {i[:2] for i in info["identities"]}, info
    assert features <= info["features"], features - info["features"]
    return info


async def brief(alice, caps, jid, identity):
    """What an entity says in short is what it says in full."""
    info = await what(alice, jid, identity, node=f"{caps['node']}#{caps['ver']}")
    ver = alice["xep_0115"].generate_verstring(info, caps["hash"])
    assert caps["hash"] == "sha-1" and ver == caps["ver"], (caps, ver, info)


async def clock(alice, jid):
    """It is now there, too. The plugin of slixmpp adds a zone to one that is there,
    and cannot answer itself."""
    answer = await alice["xep_0202"].get_entity_time(jid)
    utc = answer.xml.findtext("{urn:xmpp:time}time/{urn:xmpp:time}utc")
    then = datetime.datetime.fromisoformat(utc.replace("Z", "+00:00"))
    now = datetime.datetime.now(datetime.timezone.utc)
    assert abs(now - then) < datetime.timedelta(seconds=20), (now, utc)


async def main(opts):
    """Runs the scene."""
    plugins = ("xep_0012", "xep_0092", "xep_0115", "xep_0202")
    alice, bob = (Party(opts, opts.jid + "/phone", *plugins), Party(opts, opts.peer + "/desk", *plugins, peer=True))
    caps = asyncio.Queue()
    alice.add_event_handler("entity_caps", caps.put_nowait)
    for party in alice, bob:
        await party.come(presence=False)
        await party["xep_0115"].update_caps(broadcast=False)
        party.send_presence()  # with them
    server, friend, desk = alice.boundjid.domain, bob.boundjid.bare, bob.boundjid.full

    # The server. What the features of its stream say in short comes first.
    stream = await caps.get()
    assert stream["from"] == server, stream
    await brief(alice, stream["caps"], server, ("server", "im"))
    await what(alice, server, ("server", "im"), SERVER)
    await what(alice, alice.boundjid.bare, ("account", "registered"), ACCOUNT)
    assert not (await alice["xep_0030"].get_items(jid=server))["disco_items"]["items"]
    await fails(alice["xep_0030"].get_info(jid=server, node="no such node"), "item-not-found")
    version = (await alice["xep_0092"].get_version(server))["software_version"]
    assert version["name"] == "imlb" and version["version"] and not version["os"], version
    await clock(alice, server)
    up = (await alice["xep_0012"].get_last_activity(server))["last_activity"]["seconds"]
    assert 0 <= up < 3600, up
    own = (await alice["xep_0012"].get_last_activity(alice.boundjid.bare))["last_activity"]["seconds"]
    assert own == 0, own

    # A stranger is nobody; a contact is seen, and its client answers for itself.
    await fails(alice["xep_0030"].get_info(jid=friend), "service-unavailable")
    await fails(alice["xep_0012"].get_last_activity(friend), "forbidden")
    await befriend(alice, bob)
    while (theirs := await caps.get())["from"].full != desk:
        pass
    await brief(alice, theirs["caps"], desk, ("client", "bot"))
    await what(alice, friend, ("account", "registered"), {"vcard-temp"})
    assert (await alice["xep_0092"].get_version(desk))["software_version"]["name"] == "Slixmpp"
    await bob["xep_0012"].set_last_activity(bob.boundjid, 4000)
    idle = (await alice["xep_0012"].get_last_activity(desk))["last_activity"]["seconds"]
    assert 4000 <= idle < 4030, idle
    await fails(alice["xep_0012"].get_last_activity(friend + "/gone"), "service-unavailable")
    for party in alice, bob:
        await party.leave()


if __name__ == "__main__":
    run(__doc__, main)

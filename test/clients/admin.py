#!/usr/bin/python3
"""An administrator at work, and somebody who registers.

    /usr/bin/python3 admin.py -j alice@localhost -p SECRET --new dave@localhost \\
        --host 127.0.0.1 --port 5222 --ca DIR/ca.pem

The new user registers in-band (XEP-0077) and changes the password; the administrator finds
the commands of the server (XEP-0050, XEP-0133), looks at the users, announces something and
ends the new user's session. Prints "ok" when all was as it should be.
"""

import asyncio

import slixmpp

from scene import run

ADMIN = "http://jabber.org/protocol/admin"
COMMANDS = "http://jabber.org/protocol/commands"


class Client(slixmpp.ClientXMPP):
    """A client; ready once it is online."""

    def __init__(self, jid, password, opts):
        super().__init__(jid, password)
        self.ca_certs = opts.ca
        for plugin in ("xep_0004", "xep_0030", "xep_0050", "xep_0077"):
            self.register_plugin(plugin)
        self.ready = asyncio.get_event_loop().create_future()
        self.announced = asyncio.get_event_loop().create_future()
        self.add_event_handler("session_start", self.start)
        self.add_event_handler("message", self.hear)
        self.add_event_handler("failed_auth", lambda why: self.ready.set_exception(RuntimeError(str(why))))

    def start(self, _event):
        """Goes online."""
        self.send_presence()
        self.ready.set_result(None)

    def hear(self, message):
        """Keeps an announcement."""
        if message["type"] == "headline":
            self.announced.set_result(message["body"])

    async def register(self, _form):
        """Registers, before the login."""
        iq = self.Iq()
        iq["type"] = "set"
        iq["register"]["username"] = self.boundjid.user
        iq["register"]["password"] = self.password
        await iq.send()


async def execute(admin, node, **fields):
    """Runs a command to its end, with the answers to its form."""
    plugin, server = admin["xep_0050"], admin.boundjid.domain
    first = (await plugin.send_command(server, node))["command"]
    if first["status"] == "completed":
        return first
    form = first["form"]
    for name in fields:
        assert name in form.get_fields(), (name, form)
    answers = admin["xep_0004"].make_form(ftype="submit")
    answers.add_field(var="FORM_TYPE", ftype="hidden", value=ADMIN)
    for name, value in fields.items():
        answers.add_field(var=name, value=value)
    last = await plugin.send_command(server, node, action="complete", sessionid=first["sessionid"], payload=[answers])
    assert last["command"]["status"] == "completed", last
    return last["command"]


async def main(opts):
    """Runs the scene."""
    admin = Client(opts.jid, opts.password, opts)
    admin.connect((opts.host, opts.port))
    await admin.ready
    new = Client(opts.new, "correct horse", opts)
    new.add_event_handler("register", new.register)
    new._always_send_everything = True  # or it keeps registrations until it is logged in
    new.connect((opts.host, opts.port))
    await new.ready
    await new["xep_0077"].change_password("battery staple")

    server = admin.boundjid.domain
    info = await admin["xep_0030"].get_info(jid=server)
    assert COMMANDS in info["disco_info"]["features"]
    items = await admin["xep_0030"].get_items(jid=server, node=COMMANDS)
    nodes = {item[1] for item in items["disco_items"]["items"]}
    assert ADMIN + "#add-user" in nodes, nodes
    hidden = await new["xep_0030"].get_items(jid=server, node=COMMANDS)
    assert not hidden["disco_items"]["items"], hidden
    try:
        await new["xep_0050"].send_command(server, ADMIN + "#get-online-users-num")
        raise AssertionError("anybody is an administrator")
    except slixmpp.exceptions.IqError as err:
        assert err.condition == "forbidden", err

    online = await execute(admin, ADMIN + "#get-online-users-list", max_items="25")
    jids = online["form"].get_fields()["onlineuserjids"]["value"]
    assert opts.new in jids and admin.boundjid.bare in jids, jids
    await execute(admin, ADMIN + "#announce", announcement="Tea & biscuits\nat five")
    assert await new.announced == "Tea & biscuits\nat five", new.announced
    gone = new.disconnected  # slixmpp has another one for the next connection
    await execute(admin, ADMIN + "#end-user-session", accountjids=[opts.new])
    await gone
    gone = admin.disconnected
    admin.disconnect()
    await gone


if __name__ == "__main__":
    run(__doc__, main, others=("--new",))

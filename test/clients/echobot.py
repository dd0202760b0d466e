#!/usr/bin/python3
"""The classic echo bot: whatever it is told, it says back.

    /usr/bin/python3 echobot.py -j bob@localhost -p SECRET \\
        --host 127.0.0.1 --port 5222 --ca DIR/ca.pem

The library is Debian's python3-slixmpp as it comes. The address and the CA are
all that a bot would not need on a public server.
"""

import argparse
import asyncio
import pathlib

import slixmpp


class EchoBot(slixmpp.ClientXMPP):
    """Answers each message with its own body."""

    def __init__(self, jid, password):
        super().__init__(jid, password)
        self.register_plugin("xep_0030")  # service discovery
        self.register_plugin("xep_0199")  # ping
        self.add_event_handler("session_start", self.start)
        self.add_event_handler("message", self.message)

    async def start(self, _event):
        """Goes online, then fetches the roster, as RFC 6121 expects."""
        self.send_presence()
        await self.get_roster()
        print("online as", self.boundjid.full, flush=True)

    def message(self, msg):
        """Echoes a chat or normal message."""
        if msg["type"] in ("chat", "normal"):
            msg.reply("Echo: %(body)s" % msg).send()


def main():
    args = argparse.ArgumentParser(description="Echo bot.")
    args.add_argument("-j", "--jid", required=True)
    args.add_argument("-p", "--password", required=True)
    args.add_argument("--host", default="127.0.0.1")
    args.add_argument("--port", default=5222, type=int)
    args.add_argument("--ca", type=pathlib.Path, help="PEM file of the CA to trust")
    opts = args.parse_args()

    bot = EchoBot(opts.jid, opts.password)
    bot.ca_certs = opts.ca
    bot.connect((opts.host, opts.port))
    asyncio.get_event_loop().run_until_complete(bot.disconnected)


if __name__ == "__main__":
    main()

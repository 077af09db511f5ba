"""A mail server that takes mail only after STARTTLS and from who proves who they are, and says each as a line of JSON with its
"subject".

smtp.py CERTIFICATE KEY USER PASSWORD [plain]: with the last it offers no STARTTLS, and takes mail from anybody.
"""

import asyncio
import email
import json
import logging
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

certificate, key, user, password = sys.argv[1:5]
plain = sys.argv[5:] == ["plain"]
# Whoever hangs up is no exception here.
logging.disable(logging.CRITICAL)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)


def proven(server, session, envelope, mechanism, data):
    right = (data.login, data.password) == (user.encode(), password.encode())
    # Not handled: the server is to say 535 itself.
    return AuthResult(success=right, handled=False)


class Handler:
    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content)
        line = dict(subject=message["subject"], body=message.get_payload(decode=True).decode(), sender=envelope.mail_from,
                    to=envelope.rcpt_tos, encrypted=session.ssl is not None, proven=bool(session.authenticated))
        print(json.dumps(line), flush=True)
        return "250 OK"


def protocol():
    if plain:
        return SMTP(Handler(), hostname="localhost")
    return SMTP(Handler(), hostname="localhost", tls_context=context, require_starttls=True, auth_required=True,
                authenticator=proven)


async def serve():
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    print(f"listening {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


asyncio.run(serve())

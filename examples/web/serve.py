#!/usr/bin/env python3
"""Serves this folder at http://localhost:8000, or over TLS with a certificate and its key: serve.py [CERT KEY]

The sources of the client, janus-js/src, are at /janus-client/.
"""

import pathlib
import ssl
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

FOLDER = pathlib.Path(__file__).resolve().parent
CLIENT = FOLDER.parents[1] / "janus-js" / "src"


class Handler(SimpleHTTPRequestHandler):
    def translate_path(self, path):
        name = path.removeprefix("/janus-client")
        self.directory = str(FOLDER if name == path else CLIENT)
        return super().translate_path(name)


server = ThreadingHTTPServer(("127.0.0.1", 8000), Handler)
if files := sys.argv[1:]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    # The threads of the connections do the handshakes.
    # A browser that asks its user about the certificate ends the connection, which is no error.
    server.handle_error = lambda request, client: None
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(f"http{'s' if files else ''}://localhost:8000", flush=True)
server.serve_forever()

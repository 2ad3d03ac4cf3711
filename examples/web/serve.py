#!/usr/bin/env python3
"""Serves this folder at http://localhost:8000, or over TLS with a certificate and its key: serve.py [CERT KEY]"""

import functools
import pathlib
import ssl
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

folder = pathlib.Path(__file__).resolve().parent
server = ThreadingHTTPServer(("127.0.0.1", 8000), functools.partial(SimpleHTTPRequestHandler, directory=folder))
if files := sys.argv[1:]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    # The threads of the connections do the handshakes.
    # A browser that asks its user about the certificate ends the connection, which is no error.
    server.handle_error = lambda request, client: None
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(f"http{'s' if files else ''}://localhost:8000", flush=True)
server.serve_forever()

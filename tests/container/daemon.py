"""The IoT Edge daemon's workload API for the container test, as far as edgeHub's replacement asks it: sign, server
certificate, trust bundle; answers and refusals as those of the real daemon.

Its certificate is the one that `sphere-gateway certs` made; the identity key is given, and never leaves this process.
"""

import base64
import hashlib
import hmac
import http.server
import json
import os
import socketserver
import threading
import time

MODULE = "%24edgeHub"
GENERATION = "1"


class Daemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path, site, key):
        self.site, self.key = site, base64.b64decode(key)
        self.asked = []
        super().__init__(path, Requests)
        # As the real one: whoever has the socket mounted may connect.
        os.chmod(path, 0o666)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def file(self, name):
        with open(f"{self.site}/{name}", encoding="utf-8") as f:
            return f.read()


class Requests(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "the module"

    def log_message(self, *words):
        pass

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        self.server.asked.append(path)
        if path == "/trust-bundle" and query.startswith("api-version="):
            bundle = self.server.file("tenant-ca.pem") + self.server.file("hub-ca.pem")
            return self.answer(200, {"certificate": bundle})
        return self.answer(404, {"message": "not found"})

    def do_POST(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        begin = f"/modules/{MODULE}/genid/{GENERATION}/"
        if not path.startswith(begin):
            return self.answer(403, {"message": "forbidden"})
        if path == begin + "sign":
            digest = hmac.new(self.server.key, base64.b64decode(body["data"]), hashlib.sha256).digest()
            return self.answer(200, {"digest": base64.b64encode(digest).decode()})
        if path == begin + "certificate/server":
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86400))
            key = {"type": "key", "bytes": self.server.file("server.key.pem")}
            chain = self.server.file("server.chain.pem")
            return self.answer(201, {"privateKey": key, "certificate": chain, "expiration": until})
        return self.answer(404, {"message": "not found"})

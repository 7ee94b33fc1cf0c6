"""An MQTT front end that answers each CONNECT as IoT Hub refuses: one CONNACK code, then it closes.

It stands at the hub's own name, so that an SDK that is not told of a gateway shows what it makes of the hub's refusal.
"""

import socketserver
import ssl
import threading

from running import HUB_ADDRESS


def read_packet(connection):
    """One MQTT packet: fixed header, remaining length (7 bits a byte), rest."""
    connection.recv(1)
    length = shift = 0
    while True:
        byte = connection.recv(1)[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    while length > 0:
        length -= len(connection.recv(length))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class RefusingHub:
    def __init__(self, site):
        self.code = 5
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(site.path("hub-server.chain.pem"), site.path("hub-server.key.pem"))
        # As the hub: asked for, judged by the CONNECT. Python has no 'take any', so certificates of nobody known would end
        # the handshake: they are not asked for at all. What the SDK makes of the CONNACK does not depend on it.
        context.verify_mode = ssl.CERT_NONE
        stub = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self):
                with context.wrap_socket(self.request, server_side=True) as connection:
                    read_packet(connection)
                    connection.sendall(bytes([0x20, 2, 0, stub.code]))
                    # The peer hangs up first, or after its own time: no answer is lost in a reset.
                    connection.settimeout(10)
                    try:
                        connection.unwrap()
                    except (OSError, ValueError):
                        pass

        self.server = Server((HUB_ADDRESS, 8883), Connection)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self):
        self.server.shutdown()
        self.server.server_close()

"""The container test: what a site's engine would do with the image, and what must come of it.

Started by tests/container/run, which brings the engine, the images and the manifest. Arguments: the folder of minted
certificates, the deployment manifest that `sphere-gateway manifest generate` made; with --memory the measurements, too. Each
container is made from that manifest as edgeAgent makes it (agent.py).
"""

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(f"{HERE}/../sdk/python")

import agent
from asking import request, wait_for
from daemon import Daemon, GENERATION

SITE, MANIFEST = sys.argv[1:3]
EDGE = "edge1"
EDGE_KEY = base64.b64encode(os.urandom(32)).decode()
CONNECTION = f"HostName=hub.example;DeviceId={EDGE};ModuleId=$edgeHub;SharedAccessKey={EDGE_KEY}"
AGENT = {"hub": "hub.example", "device": EDGE, "gateway": "gateway.example"}
IMAGE_BYTES_MAX = 15_000_000


def docker(*words, check=True):
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=120)
    if check and done.returncode != 0:
        raise AssertionError(f"docker {' '.join(words[:3])} ..: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def inspect(name, template):
    return docker("inspect", "--format", template, name)


def log(name):
    """The last lines of a container, those on standard error, too."""
    done = subprocess.run(["docker", "logs", "--tail", "30", name], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def published(name, port):
    return docker("port", name, f"{port}/tcp").splitlines()[0]


def end(daemon, path):
    daemon.shutdown()
    daemon.server_close()
    os.unlink(path)


def device(*words, **options):
    return subprocess.run(
        [sys.executable, f"{HERE}/device.py", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        **options,
    )


class Container(unittest.TestCase):
    """One site: the hub double, and a gateway that is made, stopped, killed and made again."""

    @classmethod
    def setUpClass(cls):
        cls.socket = f"{SITE}/workload.sock"
        cls.daemon = Daemon(cls.socket, SITE, EDGE_KEY)
        # As it was pulled: the test's own image by the name that the manifest has.
        docker("tag", "sphere-gateway:test", agent.Module(MANIFEST, "edgeHub").image)
        docker("network", "create", "azure-iot-edge")
        # The hub's files are read by its own user; the gateway's belong to the gateway's.
        docker(
            *["run", "--detach", "--name", "hub", "--network", "azure-iot-edge", "--network-alias", "hub.example"],
            *["--volume", f"{SITE}:/site:ro", "--env", f"HUB_DOUBLE_EDGE_KEY={EDGE_KEY}"],
            *["--publish", "127.0.0.1::8080", "hub-double:test", "--hub-name", "hub.example", "--edge-id", EDGE],
            *["--tls-cert", "/site/hub-server.chain.pem", "--tls-key", "/site/hub-server.key.pem"],
            *["--bind", "0.0.0.0", "--amqp-port", "5671", "--https-port", "443", "--admin-port", "8080"],
        )
        cls.hub = f"http://{published('hub', 8080)}"
        wait_for("the hub is up", lambda: cls.counts() is not None)
        with open(f"{SITE}/devices/ids.txt", encoding="utf-8") as ids:
            cls.ids = ids.read().split()
        for name in cls.ids:
            request("PUT", f"{cls.hub}/devices/{name}", {"authType": "certificateAuthority", "parent": EDGE})
        files = ["server.chain.pem", "server.key.pem", "tenant-ca.pem", "hub-ca.pem"]
        os.makedirs(f"{SITE}/gateway", exist_ok=True)
        for name in files:
            with open(f"{SITE}/{name}", "rb") as source, open(f"{SITE}/gateway/{name}", "wb") as copy:
                copy.write(source.read())
            os.chown(f"{SITE}/gateway/{name}", 13623, 13623)
            os.chmod(f"{SITE}/gateway/{name}", 0o400)

    @classmethod
    def tearDownClass(cls):
        docker("rm", "--force", "edgeHub", "hub", check=False)
        docker("network", "rm", "azure-iot-edge", check=False)
        end(cls.daemon, cls.socket)

    @classmethod
    def counts(cls):
        return request("GET", f"{cls.hub}/counts")

    def arrived(self, name):
        return len(request("GET", f"{self.hub}/messages?device={name}&limit=100000")["messages"])

    # A container that stands alone, without a daemon: the developer mode.
    STAND_ALONE = {
        "IotHubConnectionString": CONNECTION,
        "EdgeHubDevServerCertificateFile": "/site/server.chain.pem",
        "EdgeHubDevServerPrivateKeyFile": "/site/server.key.pem",
        "EdgeHubDevTrustBundleFile": "/site/tenant-ca.pem",
        "upstreamSettings__trustBundleFile": "/site/hub-ca.pem",
    }

    def start(self, volume, *, port=None, **changes):
        """By the manifest; started by the daemon, unless a change says that it stands alone."""
        docker("rm", "--force", "edgeHub", check=False)
        changes.setdefault("daemon", (self.socket, GENERATION))
        agent.create(MANIFEST, AGENT, volume, port=port, **changes)
        try:
            wait_for("healthy or ended", lambda: self.state() in ("healthy", "exited"))
            self.assertEqual(self.state(), "healthy")
        except AssertionError as e:
            raise AssertionError(f"{e}\n{log('edgeHub')}") from e
        return published("edgeHub", port or 8883)

    def state(self):
        status = inspect("edgeHub", "{{.State.Status}}")
        return inspect("edgeHub", "{{.State.Health.Status}}") if status == "running" else status

    def publish(self, address, index, count, window=16):
        done = device("publish", address, SITE, str(index), str(count), str(window))
        self.assertEqual(done.returncode, 0, done.stderr + log("edgeHub"))

    def assert_never_out_of_memory(self):
        self.assertEqual(inspect("edgeHub", "{{.State.OOMKilled}}"), "false")

    def test_the_image_is_small_and_says_what_it_is(self):
        size = int(inspect("sphere-gateway:test", "{{.Size}}"))
        self.assertLessEqual(size, IMAGE_BYTES_MAX)
        self.assertEqual(inspect("sphere-gateway:test", "{{.Config.User}}"), "13623:13623")
        label = '{{index .Config.Labels "org.opencontainers.image.title"}}'
        self.assertEqual(inspect("sphere-gateway:test", label), "sphere-gateway")
        listing = docker("create", "--name", "listing", "sphere-gateway:test")
        exported = subprocess.run(["docker", "export", listing], capture_output=True, check=True).stdout
        docker("rm", "listing")
        with tarfile.open(fileobj=io.BytesIO(exported)) as files:
            programs = [f.name for f in files if f.size and f.mode & 0o111 and not f.name.startswith("lib")]
        # No shell, nothing else to start. What the engine itself puts there is empty.
        self.assertEqual(programs, ["sphere-gateway"])

    def test_a_message_goes_through_the_published_port_and_sigterm_ends_it_cleanly(self):
        address = self.start("through")
        self.publish(address, 0, 200)
        wait_for("at the hub", lambda: self.arrived(self.ids[0]) == 200)
        self.assert_never_out_of_memory()
        begun = time.monotonic()
        docker("stop", "--time", "30", "edgeHub")
        took = time.monotonic() - begun
        self.assertEqual(inspect("edgeHub", "{{.State.ExitCode}}"), "0", log("edgeHub"))
        # The engine's own limit before SIGKILL is 10 s.
        self.assertLess(took, 10)

    def test_what_waits_outlives_kill_and_a_new_container(self):
        address = self.start("outlives")
        docker("pause", "hub")
        try:
            self.publish(address, 1, 500)
            docker("kill", "--signal", "KILL", "edgeHub")
        finally:
            docker("unpause", "hub")
        self.start("outlives")
        wait_for("the backlog is at the hub", lambda: self.arrived(self.ids[1]) >= 500)
        self.assert_never_out_of_memory()

    def test_it_runs_as_the_manifest_has_it(self):
        self.start("manifest")
        wanted = agent.Module(MANIFEST, "edgeHub")
        has = json.loads(docker("inspect", "edgeHub"))[0]
        self.assertEqual(has["Config"]["Image"], wanted.image)
        for name, value in wanted.environment.items():
            self.assertIn(f"{name}={value}", has["Config"]["Env"])
        options = wanted.create_options["HostConfig"]
        for key in ["LogConfig", "ReadonlyRootfs", "CapDrop", "SecurityOpt", "Memory"]:
            self.assertEqual(has["HostConfig"][key], options[key], key)
        self.assertEqual(has["HostConfig"]["LogConfig"]["Config"], {"max-size": "10m", "max-file": "3"})
        self.assertEqual(list(has["HostConfig"]["PortBindings"]), list(options["PortBindings"]))
        self.assertIn("gateway.example", has["NetworkSettings"]["Networks"]["azure-iot-edge"]["Aliases"])
        self.assertEqual(has["Config"]["User"], "13623:13623")

    def test_the_daemon_starts_it_and_no_key_is_in_its_environment(self):
        path = f"{SITE}/workload-of-its-own.sock"
        daemon = Daemon(path, SITE, EDGE_KEY)
        try:
            address = self.start("daemon", daemon=(path, GENERATION))
            self.publish(address, 4, 10)
            wait_for("at the hub", lambda: self.arrived(self.ids[4]) == 10)
            self.assertTrue(any(path.endswith("/certificate/server") for path in daemon.asked), daemon.asked)
            self.assertTrue(any(path.endswith("/sign") for path in daemon.asked), daemon.asked)
        finally:
            daemon.shutdown()
            daemon.server_close()
        # The daemon is gone and its socket dead: what was kept serves, also after a restart.
        docker("restart", "--time", "10", "edgeHub")
        os.unlink(path)
        wait_for("healthy", lambda: self.state() == "healthy")
        self.publish(published("edgeHub", 8883), 4, 10)
        self.assertNotIn(EDGE_KEY, inspect("edgeHub", "{{json .Config}}"))

    def test_it_stands_alone_with_files_and_a_connection_string(self):
        binds = [f"{SITE}/gateway:/site:ro"]
        address = self.start("alone", daemon=None, environment=self.STAND_ALONE.items(), binds=binds)
        self.publish(address, 5, 10)
        wait_for("at the hub", lambda: self.arrived(self.ids[5]) == 10)

    def test_low_ports_need_no_capability(self):
        address = self.start("low", environment={"mqttSettings__port": "443"}.items(), port=443)
        self.publish(address, 2, 10)
        wait_for("at the hub", lambda: self.arrived(self.ids[2]) == 10)

    def test_a_folder_of_another_user_serves_that_user(self):
        folder = f"{SITE}/storage-1000"
        os.makedirs(folder, exist_ok=True)
        os.chown(folder, 1000, 1000)
        address = self.start(folder, user="1000:1000")
        self.publish(address, 3, 10)
        wait_for("at the hub", lambda: self.arrived(self.ids[3]) == 10)

    def test_a_folder_that_it_may_not_write_is_told(self):
        folder = f"{SITE}/storage-root"
        os.makedirs(folder, exist_ok=True)
        with self.assertRaises(AssertionError) as refused:
            self.start(folder)
        self.assertIn("/iotedge/storage", str(refused.exception))


@unittest.skipUnless("--memory" in sys.argv, "measured with --memory")
class Memory(unittest.TestCase):
    """Resident memory of the process, as the kernel tells it from outside."""

    def rss(self):
        pid = inspect("edgeHub", "{{.State.Pid}}")
        with open(f"/proc/{pid}/status", encoding="utf-8") as status:
            return next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmRSS"))

    def test_memory(self):
        site = Container("start")
        Container.setUpClass()
        try:
            self.measure(site)
        finally:
            Container.tearDownClass()

    def measure(self, site):
        window = 1000
        settings = {"mqttSettings__MaxPendingInboundAcknowledgements": str(window)}
        address = site.start("memory", environment=settings.items())
        time.sleep(5)
        figures = {"idle": self.rss()}
        for count in (100, 1000):
            holder = subprocess.Popen(
                [sys.executable, f"{HERE}/device.py", "hold", address, SITE, str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self.assertIn("are connected", holder.stdout.readline())
            figures[f"{count} devices"] = self.rss()
            holder.communicate(timeout=60)
        docker("pause", "hub")
        try:
            site.publish(address, 0, 1_000_000, window)
            figures["1 M messages wait"] = self.rss()
        finally:
            docker("unpause", "hub")
        site.assert_never_out_of_memory()
        width = max(len(what) for what in figures)
        print(f"\n{'resident memory':<{width}}     MB")
        for what, megabytes in figures.items():
            print(f"{what:<{width}}  {megabytes:5.1f}")
        self.assertLess(figures["idle"], 12)
        self.assertLess(max(figures.values()), 64)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], verbosity=2)

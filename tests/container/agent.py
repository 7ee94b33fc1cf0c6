"""edgeAgent, as far as the container test needs it: creates and starts edgeHub's container from a deployment manifest.

What it adds is what edgeAgent and the IoT Edge daemon add: the environment of a module, the bind of the workload socket, the
network with the alias that devices use, two labels. It speaks the Engine API of IoT Edge 1.6, to which createOptions go as
they are.

What a test changes of the manifest is named one by one (`Changes`), and printed once: all else is what is deployed.
"""

import copy
import http.client
import json
import os
import socket

ENGINE_API = "v1.41"
NETWORK = "azure-iot-edge"
SOCKET_IN_CONTAINER = "/var/run/iotedge/workload.sock"
STORAGE = "/iotedge/storage"
MEMORY_BYTES = 96 * 1024 * 1024


class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(120)
        self.sock.connect(os.environ["DOCKER_HOST"].removeprefix("unix://"))


def engine(path, body=None):
    """Posts to the engine; its answer."""
    connection = Connection("engine")
    data = None if body is None else json.dumps(body)
    connection.request("POST", f"/{ENGINE_API}{path}", data, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    if answer.status >= 300:
        raise AssertionError(f"{path}: {answer.status} {text}")
    return json.loads(text) if text else None


class Module:
    """A system module as the manifest has it."""

    def __init__(self, manifest, name):
        with open(manifest, encoding="utf-8") as file:
            modules = json.load(file)["modulesContent"]["$edgeAgent"]["properties.desired"]["systemModules"]
        module = modules[name]
        settings = module["settings"]
        self.image = settings["image"]
        chunks = sorted(key for key in settings if key.startswith("createOptions"))
        self.create_options = json.loads("".join(settings[key] for key in chunks))
        self.environment = {name: value["value"] for name, value in module.get("env", {}).items()}


class Changes:
    """What the test has otherwise than the manifest."""

    told = set()

    def say(self, what):
        if what not in self.told:
            self.told.add(what)
            print(f"otherwise than in the manifest: {what}", flush=True)

    def ports(self, host_config, port):
        """A port of this machine may be taken: any of the loopback's."""
        self.say("PortBindings: a free port of 127.0.0.1 for each")
        ports = [key.split("/")[0] for key in host_config["PortBindings"]] if port is None else [port]
        host_config["PortBindings"] = {f"{p}/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}] for p in ports}

    def storage(self, host_config, source):
        """The place on this machine alone; where it is in the container is the manifest's."""
        own = [bind for bind in host_config["Binds"] if bind.endswith(f":{STORAGE}")]
        assert len(own) == 1, f"one bind for {STORAGE}: {host_config['Binds']}"
        self.say("Binds: the storage is a folder or a volume of the test")
        host_config["Binds"].remove(own[0])
        host_config["Binds"].append(f"{source}:{STORAGE}")

    def limits(self, host_config):
        """What the issue asks for; all but the processor is in the manifest already."""
        assert host_config["ReadonlyRootfs"] is True and host_config["CapDrop"] == ["ALL"], host_config
        assert host_config["Memory"] == MEMORY_BYTES, host_config
        self.say("NanoCpus and MemorySwap: 1 processor, no swap")
        host_config |= {"NanoCpus": 10**9, "MemorySwap": MEMORY_BYTES}


def create(manifest, agent, storage, *, port=None, environment=(), binds=(), user=None, daemon=None):
    """Creates edgeHub's container and starts it.

    `agent`: what edgeAgent knows (hub, device, gateway name). `daemon`: the socket on this machine and the module's generation;
    without it the container stands alone, and `environment` brings its credentials. `port`: instead of those of the manifest.
    """
    module, changes = Module(manifest, "edgeHub"), Changes()
    options = copy.deepcopy(module.create_options)
    host_config = options.setdefault("HostConfig", {})
    settings = dict(module.environment) | {"EdgeDeviceHostName": agent["gateway"], "RuntimeLogLevel": "info"}
    host_config.setdefault("Binds", []).extend(binds)
    if daemon is not None:
        path, generation = daemon
        host_config["Binds"].append(f"{path}:{SOCKET_IN_CONTAINER}")
        settings |= {
            "IOTEDGE_WORKLOADURI": f"unix://{SOCKET_IN_CONTAINER}",
            "IOTEDGE_APIVERSION": "2022-08-03",
            "IOTEDGE_AUTHSCHEME": "sasToken",
            "IOTEDGE_MODULEGENERATIONID": generation,
            "IOTEDGE_IOTHUBHOSTNAME": agent["hub"],
            "IOTEDGE_DEVICEID": agent["device"],
            "IOTEDGE_MODULEID": "$edgeHub",
        }
    settings |= dict(environment)
    changes.ports(host_config, port)
    changes.storage(host_config, storage)
    changes.limits(host_config)
    if environment:
        changes.say(f"Env: {', '.join(sorted(dict(environment)))}")
    if user is not None:
        changes.say("User: that of a folder which belongs to somebody else")
        options["User"] = user
    if port is not None:
        changes.say(f"ExposedPorts: {port}")
        options["ExposedPorts"] = {f"{port}/tcp": {}}
    # The image's own check, but the test does not want to wait for it.
    changes.say("Healthcheck: every second")
    options["Healthcheck"] = {"Interval": 10**9}
    host_config["NetworkMode"] = NETWORK
    options |= {
        "Image": module.image,
        "Env": [f"{name}={value}" for name, value in settings.items()],
        "Labels": options.get("Labels", {})
        | {
            "net.azure-devices.edge.owner": "Microsoft.Azure.Devices.Edge.Agent",
            "net.azure-devices.edge.original-image": module.image,
        },
        "NetworkingConfig": {"EndpointsConfig": {NETWORK: {"Aliases": [agent["gateway"]]}}},
    }
    name = engine("/containers/create?name=edgeHub", options)["Id"]
    engine(f"/containers/{name}/start")
    return options

"""What `sphere-gateway manifest generate` makes, and what `iotedgedev genconfig` makes of the same template.

    compare.py GATEWAY IOTEDGEDEV FOLDER

Field by field; createOptions are compared as what they say, since the two order keys in their own way. The tool asks the
network for its schemas and goes on without them: here it gets none, so that each run sees the same.
"""

import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import unittest

GATEWAY, TOOL, FOLDER = sys.argv[1:4]
ROOT = pathlib.Path(__file__).resolve().parents[2]
PLATFORMS = ["amd64", "arm64v8"]
# Filled in through the environment, which comes before .env for both.
USER = {"CONTAINER_REGISTRY_USERNAME": "puller", "CONTAINER_REGISTRY_PASSWORD": secrets.token_hex(12)}
FILES = ["deployment.template.json", "module.json", "Dockerfile"]


def run(command, folder, **environment):
    here = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8", **environment}
    # A port where nobody listens: no question leaves the machine.
    here |= {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run(command, cwd=folder, env=here, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)


def solution(name):
    """A folder with the repository's template, as somebody has it who follows the README."""
    folder = pathlib.Path(FOLDER) / name
    shutil.rmtree(folder, ignore_errors=True)
    settings = folder / ".iotedgedev"
    settings.mkdir(parents=True)
    (settings / "setting.ini").write_text("[DEFAULT]\nfirsttime = no\ncollect_telemetry = no\n")
    for file in FILES:
        shutil.copy(ROOT / file, folder)
    shutil.copy(ROOT / "tests/manifest/example.env", folder / ".env")
    return folder


def fields(value, path=""):
    """Every leaf by its path; createOptions, joined, as JSON in its plainest form."""
    if isinstance(value, dict):
        chunks = [key for key in sorted(value) if key.startswith("createOptions")]
        if chunks:
            assert all(len(value[key]) <= 512 for key in chunks), path
            yield f"{path}/createOptions", json.dumps(json.loads("".join(value[key] for key in chunks)), sort_keys=True)
        if not value:
            yield path, {}
        for key, below in value.items():
            if key not in chunks:
                yield from fields(below, f"{path}/{key}")
    elif isinstance(value, list):
        for at, below in enumerate(value):
            yield from fields(below, f"{path}/{at}")
    else:
        yield path, value


class Manifests(unittest.TestCase):
    maxDiff = None

    def both(self, name, template, platform):
        """What each makes of a template; the tool's own validation must find nothing in it."""
        folder = solution(name)
        template(folder)
        ours, theirs = folder / "ours.json", folder / f"config/deployment.{platform}.json"
        told = run([TOOL, "genconfig", "--fail-on-validation-error"], folder, DEFAULT_PLATFORM=platform, **USER)
        self.assertEqual(told.returncode, 0, told.stdout)
        self.assertIn("Validation for all createOptions passed", told.stdout)
        made = run([GATEWAY, "manifest", "generate", "--platform", platform, "--out", str(ours)], folder, **USER)
        self.assertEqual(made.returncode, 0, made.stdout)
        ours, theirs = (json.loads(file.read_text()) for file in (ours, theirs))
        self.assertEqual(dict(fields(ours)), dict(fields(theirs)))
        return folder, ours

    def test_the_repository_s_template(self):
        for platform in PLATFORMS:
            with self.subTest(platform):
                folder, manifest = self.both(f"plain-{platform}", lambda folder: None, platform)
                self.assertGreater(len(dict(fields(manifest))), 15)
                text = json.dumps(manifest)
                self.assertIn(f"sphere-gateway:0.1.0-{platform}", text)
                self.assertIn(USER["CONTAINER_REGISTRY_PASSWORD"], text)
                theirs = folder / f"config/deployment.{platform}.json"
                checked = run([GATEWAY, "check", "manifest", str(theirs)], folder)
                self.assertEqual(checked.returncode, 0, checked.stdout)
                self.assertNotIn("warning ", checked.stdout)
                self.assertNotIn(USER["CONTAINER_REGISTRY_PASSWORD"], checked.stdout)

    def test_options_of_several_chunks(self):
        def longer(folder):
            file = folder / "deployment.template.json"
            template = json.loads(file.read_text())
            agent = template["modulesContent"]["$edgeAgent"]["properties.desired"]
            hub = agent["systemModules"]["edgeHub"]["settings"]["createOptions"]
            hub["Labels"] = {f"label.{n}": "x" * n for n in range(40)}
            file.write_text(json.dumps(template))

        _, manifest = self.both("chunks", longer, "arm64v8")
        agent = manifest["modulesContent"]["$edgeAgent"]["properties.desired"]
        self.assertIn("createOptions03", agent["systemModules"]["edgeHub"]["settings"])

    def test_options_that_do_not_fit(self):
        folder = solution("too-long")
        file = folder / "deployment.template.json"
        template = json.loads(file.read_text())
        agent = template["modulesContent"]["$edgeAgent"]["properties.desired"]
        agent["systemModules"]["edgeHub"]["settings"]["createOptions"]["Labels"] = {"x": "x" * 4096}
        file.write_text(json.dumps(template))
        for command in [[TOOL, "genconfig"], [GATEWAY, "manifest", "generate"]]:
            told = run(command, folder, **USER)
            self.assertNotEqual(told.returncode, 0, told.stdout)
            self.assertRegex(told.stdout, "4K|4096")

    def test_module_json_names_the_image_that_the_template_deploys(self):
        folder = solution("module")
        file = folder / "deployment.template.json"
        template = json.loads(file.read_text())
        agent = template["modulesContent"]["$edgeAgent"]["properties.desired"]
        # Placeholders of folders are expanded for modules only: the reason why edgeHub's image is named by variables.
        agent["modules"]["again"] = {
            "version": "1.0", "type": "docker", "status": "running", "restartPolicy": "always",
            "settings": {"image": "${MODULEDIR<.>}", "createOptions": {}}}
        file.write_text(json.dumps(template))
        for platform in PLATFORMS:
            told = run([TOOL, "genconfig"], folder, DEFAULT_PLATFORM=platform, **USER)
            self.assertEqual(told.returncode, 0, told.stdout)
            manifest = json.loads((folder / f"config/deployment.{platform}.json").read_text())
            agent = manifest["modulesContent"]["$edgeAgent"]["properties.desired"]
            self.assertEqual(agent["modules"]["again"]["settings"]["image"],
                             agent["systemModules"]["edgeHub"]["settings"]["image"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)

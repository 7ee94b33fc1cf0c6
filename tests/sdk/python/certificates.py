"""Client certificates that `sphere-gateway certs` does not make: of a foreign CA, or expired. By the openssl program.

Keys are made in the scratch folder of the run and go with it.
"""

import os
import subprocess

CONFIG = """
[ca]
default_ca = issuing
[issuing]
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = names
x509_extensions = leaf
[names]
commonName = supplied
[leaf]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
"""
P256 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def openssl(*arguments):
    done = subprocess.run(["openssl", *arguments], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, f"openssl {arguments[0]}: {done.stderr}"


class Authority:
    def __init__(self, folder, certificate, key):
        self.folder, self.certificate, self.key = folder, certificate, key
        os.makedirs(folder)
        open(os.path.join(folder, "index.txt"), "w").close()
        self.config = os.path.join(folder, "ca.cnf")
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(CONFIG.format(folder=folder))

    @classmethod
    def foreign(cls, folder, name):
        """A new CA that nobody trusts."""
        certificate, key = f"{folder}.pem", f"{folder}.key.pem"
        openssl("req", "-x509", *P256, "-keyout", key, "-out", certificate, "-days", "2", "-subj", f"/CN={name}")
        return cls(folder, certificate, key)

    def issue(self, file, name, validity=("20200101000000Z", "20991231235959Z")):
        """A certificate for `name`: the paths of its file and of its key's."""
        stem = os.path.join(self.folder, file)
        request, certificate, key = f"{stem}.csr", f"{stem}.pem", f"{stem}.key.pem"
        openssl("req", *P256, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        openssl(
            *["ca", "-batch", "-notext", "-config", self.config, "-cert", self.certificate, "-keyfile", self.key],
            *["-in", request, "-out", certificate, "-startdate", validity[0], "-enddate", validity[1]],
        )
        return certificate, key

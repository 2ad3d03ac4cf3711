"""Certificates for the scripts of the tests, made anew for each run by openssl."""

import subprocess


def make(folder, address="127.0.0.1"):
    """An authority, and its certificate for localhost and this address: authority.pem, certificate.pem and key.pem."""
    def run(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    # Python 3.13 asks for the use of the authority's key, and for the authority's key in the certificate.
    run(*new, "-x509", "-days", "2", "-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign",
        "-keyout", "authority.key", "-out", "authority.pem")
    run(*new, "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "request.pem")
    extensions = [f"subjectAltName=DNS:localhost,IP:{address}", "basicConstraints=CA:FALSE", "authorityKeyIdentifier=keyid"]
    (folder / "names").write_text("\n".join(extensions) + "\n")
    run("x509", "-req", "-in", "request.pem", "-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial",
        "-days", "2", "-extfile", "names", "-out", "certificate.pem")


def make_known(folder, database):
    """Makes the authority known to a browser, by the browser's database of certificates."""
    database.mkdir(parents=True)
    for arguments in (["-N", "--empty-password"], ["-A", "-n", "authority", "-t", "C,,", "-i", folder / "authority.pem"]):
        subprocess.run(["certutil", *arguments, "-d", f"sql:{database}"], check=True)

#!/usr/bin/env python3
"""Prints the licences of all libraries that are part of the binary, each text once, as their licences require.

The libraries are those of the feature set and the platform of a release, from `cargo metadata`; the texts are the
licence files in their packages.
"""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = "x86_64-unknown-linux-gnu"


def metadata():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def libraries(data):
    """The packages that janus-server depends on to run, directly or not, without those of this repository."""
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    packages = {package["id"]: package for package in data["packages"]}
    waiting = [id for id, package in packages.items() if package["name"] == "janus-server"]
    seen = set(waiting)
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            is_linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if is_linked and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    found = [packages[id] for id in seen if packages[id]["source"]]
    return sorted(found, key=lambda package: (package["name"], package["version"]))


def texts(package):
    """The licence files of a package, without the blank space at the ends."""
    folder = pathlib.Path(package["manifest_path"]).parent
    names = ("licen", "copying", "copyright", "notice", "unlicense")
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name.lower().startswith(names))
    return ["\n".join(line.rstrip() for line in file.read_text(errors="replace").strip().splitlines()) for file in files]


def main():
    owners = {}
    found = libraries(metadata())
    print(f"janus-server contains {len(found)} libraries. Their licences:\n")
    for package in found:
        print(f"{package['name']} {package['version']}: {package['license']}")
        for text in texts(package):
            owners.setdefault(text, []).append(f"{package['name']} {package['version']}")
    for text, names in owners.items():
        print(f"\n{'=' * 80}\n{', '.join(names)}\n{'-' * 80}\n{text}")
    if len(found) < 50:
        sys.exit("cargo lists too few libraries")


if __name__ == "__main__":
    main()

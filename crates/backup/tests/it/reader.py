"""Reads a Holdfast backup repository, version 1, and restores from it. Written from docs/repository-format.md alone.

usage: reader.py REPOSITORY KEY-FILE list
       reader.py REPOSITORY KEY-FILE restore SERVICE ID DIRECTORY
       reader.py REPOSITORY KEY-FILE log SERVICE RUN FILE

Needs python3-cryptography and python3-zstandard. It takes whole packs into memory, one at a time for each file.
"""

import hashlib
import json
import os
import struct
import sys

import zstandard
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HEADER = 80
ZEROS = 0xFFFFFFFF


def hkdf(key, info):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(key)


class Sealed:
    """An object with a header: opens the frames in it."""

    def __init__(self, repository, kind, name):
        self.name = name.encode()
        with open(os.path.join(repository.root, name), "rb") as file:
            self.bytes = file.read()
        head = self.bytes[:HEADER]
        if head[:8] != b"HOLDFAST" or head[8] != 1 or head[9:10] != kind or head[10:12] != b"\0\0":
            raise SystemExit(f"{name}: not an object of version 1 and this kind")
        if head[12:20] != repository.key_id:
            raise SystemExit(f"{name}: written with key {head[12:20].hex()}")
        data_key = AESGCM(repository.key).decrypt(head[20:32], head[32:80], head[:20])
        self.aead = AESGCM(hkdf(data_key, b"holdfast 1 object " + self.name))

    def frame(self, offset, length):
        nonce = bytes(4) + struct.pack("<Q", offset)
        packed = self.aead.decrypt(nonce, self.bytes[offset : offset + length], self.name)
        return zstandard.ZstdDecompressor().decompress(packed)

    def part(self, at):
        (length,) = struct.unpack_from("<I", self.bytes, at)
        return self.frame(at + 4, length), at + 4 + length


class Reader:
    """Takes numbers and bytes from the front of a map."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        piece = self.data[self.at : self.at + length]
        self.at += length
        return piece

    def numbers(self, count):
        return struct.unpack(f"<{count}I", self.take(4 * count))


class Repository:
    def __init__(self, root, key_file):
        self.root = root
        with open(key_file, encoding="ascii") as file:
            self.key = bytes.fromhex(file.read().strip())
        self.key_id = hkdf(self.key, b"holdfast 1 key id")[:8]
        with open(os.path.join(root, "holdfast-repository"), encoding="utf-8") as file:
            line, checksum = file.read().splitlines()
        if hashlib.sha256(line.encode()).hexdigest() != checksum:
            raise SystemExit("holdfast-repository: the checksum does not fit")
        says = json.loads(line)
        if says["format"] != 1 or says["key"] != self.key_id.hex():
            raise SystemExit(f"a repository of format {says['format']} and key {says['key']}")
        self.packs = {}

    def pack(self, name):
        if name not in self.packs:
            if len(self.packs) >= 4:
                self.packs.pop(next(iter(self.packs)))
            self.packs[name] = Sealed(self, b"P", f"packs/{name}")
        return self.packs[name]

    def manifest(self, service, backup):
        sealed = Sealed(self, b"M", f"backups/{service}/{backup}")
        summary, at = sealed.part(HEADER)
        files, end = sealed.part(at)
        summary, files = json.loads(summary), json.loads(files)
        assert end == len(sealed.bytes) and summary["id"] == backup
        return summary, files

    def blocks(self, pack, offset, length):
        """The content of each block of a segment, in order."""
        r = Reader(self.pack(pack).frame(offset, length))
        packs = []
        for _ in range(r.numbers(1)[0]):
            backup = r.take(27).decode("ascii")
            packs.append(f"{backup}/{r.numbers(1)[0]:08}")
        frames = [r.numbers(4) for _ in range(r.numbers(1)[0])]
        (count,) = r.numbers(1)
        r.take(16 * count)  # Hashes: the frames are authenticated already.
        places, offsets, lengths = r.numbers(count), r.numbers(count), r.numbers(count)
        opened = (None, b"")
        for place, begin, size in zip(places, offsets, lengths):
            if place == ZEROS:
                yield bytes(size)
                continue
            if opened[0] != place:
                pack_index, at, sealed, content = frames[place]
                opened = (place, self.pack(packs[pack_index]).frame(at, sealed))
                assert len(opened[1]) == content
            yield opened[1][begin : begin + size]

    def restore(self, service, backup, into):
        summary, files = self.manifest(service, backup)
        packs = [pack["id"] for pack in summary["packs"]]
        os.makedirs(into)
        for entry in files:
            parts = entry["path"].split("/")
            assert not any(part in ("", ".", "..") for part in parts)
            path = os.path.join(into, *parts)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if entry["kind"] == "directory":
                os.makedirs(path, exist_ok=True)
            elif entry["kind"] == "link":
                os.symlink(entry["target"], path)
            else:
                with open(path, "xb") as file:
                    for pack, offset, length, span in entry["segments"]:
                        begin = file.tell()
                        for block in self.blocks(packs[pack], offset, length):
                            file.write(block)
                        assert file.tell() == begin + span
                    assert file.tell() == entry["size"]
        for entry in reversed(files):
            if "mode" in entry and entry["kind"] != "link":
                os.chmod(os.path.join(into, entry["path"]), entry["mode"])

    def log(self, service, run, path):
        """Writes the events of a run as the server's own program reads them."""
        names = sorted(os.listdir(os.path.join(self.root, "logs", service, run)))
        upto, described = None, False
        with open(path, "xb") as file:
            for name in names:
                sealed = Sealed(self, b"L", f"logs/{service}/{run}/{name}")
                segment, at = sealed.part(HEADER)
                segment = json.loads(segment)
                assert upto is None or segment["from"] == upto, f"something is missing before {name}"
                upto = segment["upto"]
                _, at = sealed.part(at)
                description, at = sealed.part(at)
                if description and not described:
                    described = True
                    file.write(b"\xfebin" + description)
                begin = file.tell()
                while at < len(sealed.bytes):
                    events, at = sealed.part(at)
                    file.write(events)
                assert file.tell() - begin == segment["bytes"]

    def list(self):
        root = os.path.join(self.root, "backups")
        for service in sorted(os.listdir(root)) if os.path.isdir(root) else []:
            for backup in sorted(os.listdir(os.path.join(root, service))):
                summary, files = self.manifest(service, backup)
                print(service, backup, summary["sequence"], summary.get("position"), len(files), "entries")


def main():
    if len(sys.argv) == 4 and sys.argv[3] == "list":
        Repository(sys.argv[1], sys.argv[2]).list()
    elif len(sys.argv) == 7 and sys.argv[3] == "restore":
        Repository(sys.argv[1], sys.argv[2]).restore(*sys.argv[4:])
    elif len(sys.argv) == 7 and sys.argv[3] == "log":
        Repository(sys.argv[1], sys.argv[2]).log(*sys.argv[4:])
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()

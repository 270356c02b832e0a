"""The files of one sitting on a phone: in a folder of its own, named by their hash, gone at its end."""

from __future__ import annotations

import hashlib
import shlex
import tempfile
import uuid
from pathlib import Path, PurePosixPath

from ...errors import InvalidInput, NotReady
from .adb import Adb

DEFAULT_FOLDER = "/data/local/tmp/milliseek"
"""The place where Android lets its shell keep programs."""

_PASSING = ".tflite"
_ROOM_BYTES = 256 << 20
_FULL = "No space left"


class PhoneFolder:
    """A folder below `parent`, which several sittings may share. Raises NotReady as `Adb` does.

    What runs that were killed left there is removed a day later.
    """

    def __init__(self, adb: Adb, parent: str) -> None:
        if not PurePosixPath(parent).is_absolute() or len(PurePosixPath(parent).parts) < 3:
            raise InvalidInput(
                f"'{parent}' is no folder to work in on a phone.", f"Use an absolute path such as {DEFAULT_FOLDER}."
            )
        self.parent = str(PurePosixPath(parent))
        self.path = f"{self.parent}/{uuid.uuid4().hex[:12]}"
        self._adb = adb
        self._sizes: dict[str, int] = {}

    def create(self) -> None:
        """Make it; a folder that is there already is taken as empty."""
        self._sizes.clear()
        here, parent = shlex.quote(self.path), shlex.quote(self.parent)
        old = f"find {parent} -mindepth 1 -maxdepth 1 -type d -mtime +0 -exec rm -rf {{}} +"
        made = self._adb.shell(f"mkdir -p {here} && {{ {old}; true; }}")
        if made.code != 0:
            raise NotReady(
                f"The folder '{self.parent}' cannot be made on the phone: {made.output.strip()[:300]}",
                f"Choose another one with --folder, such as {DEFAULT_FOLDER}.",
            )

    def put(self, data: bytes, *, keep: bool = False) -> str:
        """Path of a file with this content, copied there and checked if it was not there yet.

        It stays until others need the room, unless it is to `keep`. NotReady where the phone is full.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        path = f"{self.path}/{sha256[:32]}{'' if keep else _PASSING}"
        if path in self._sizes:
            return path
        if sum(self._sizes.values()) + len(data) > _ROOM_BYTES:
            self._drop()
        refusal = self._push(data, path)
        if refusal and _FULL in refusal:
            self._drop()
            refusal = self._push(data, path)
        if refusal:
            remedy = f"Free {len(data) / 1e6:.1f} MB there." if _FULL in refusal else "Choose another --folder."
            raise NotReady(f"A file cannot be copied to '{self.path}' on the phone: {refusal}.", remedy)
        quoted = shlex.quote(path)
        arrived = self._adb.shell(f"chmod 755 {quoted} && sha256sum {quoted}")
        if sha256 not in arrived.output:
            raise NotReady(
                f"A file did not arrive on the phone as it was sent: {arrived.output.strip()[:300]}",
                "Check the cable; the phone needs the command sha256sum, which Android has since version 7.",
            )
        self._sizes[path] = len(data)
        return path

    def remove(self) -> None:
        """Delete it, and the parent if nothing else is in it."""
        self._sizes.clear()
        self._adb.shell(f"rm -rf {shlex.quote(self.path)}; rmdir {shlex.quote(self.parent)}")

    def _drop(self) -> None:
        self._adb.shell(f"rm -f {shlex.quote(self.path)}/*{_PASSING}")
        self._sizes = {path: size for path, size in self._sizes.items() if not path.endswith(_PASSING)}

    def _push(self, data: bytes, path: str) -> str | None:
        with tempfile.NamedTemporaryFile(prefix="milliseek-") as file:
            file.write(data)
            file.flush()
            return self._adb.push(Path(file.name), path)

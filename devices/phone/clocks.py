"""The clocks of a phone's CPU: held at their highest while measuring, where it is rooted."""

from __future__ import annotations

import shlex

from .adb import Adb, ShellResult

_POLICIES = "/sys/devices/system/cpu/cpufreq/policy*"
_SHELLS = ("sh -c {}", "su -c {}", "su 0 sh -c {}")
"""How to become root: adb's own shell is, or a `su` of a rooting app, or that of a developer's build."""


class Clocks:
    """Governor and lowest frequency of every cluster; what they were lies in `file` on the phone until it is restored.

    So the next run makes good what one that was killed left behind.
    """

    def __init__(self, adb: Adb, file: str) -> None:
        self._adb = adb
        self._file = shlex.quote(file)
        self._root: str | None = None

    def is_rooted(self) -> bool:
        """Whether a shell of the phone's is root's; a phone that asks its user has 15 seconds for the answer."""
        for shell in _SHELLS:
            result = self._adb.shell(f"timeout 15 {shell.format(shlex.quote('id -u'))}")
            if result.code == 0 and result.output.strip() == "0":
                self._root = shell
                return True
        return False

    def pin(self) -> bool:
        """Hold all clusters at their highest frequency; False where that is not possible."""
        if self._root is None and not self.is_rooted():
            return False
        self._as_root(
            f"[ -s {self._file} ] || for p in {_POLICIES}; do"
            f" echo $p $(cat $p/scaling_governor) $(cat $p/scaling_min_freq); done > {self._file}"
        )
        self._as_root(
            f"for p in {_POLICIES}; do echo performance > $p/scaling_governor;"
            " cat $p/scaling_max_freq > $p/scaling_min_freq; done"
        )
        held = '[ "$(cat $p/scaling_min_freq)" = "$(cat $p/scaling_max_freq)" ]'
        return self._as_root(f"for p in {_POLICIES}; do [ -e $p ] && {held} || exit 1; done").code == 0

    def restore(self) -> None:
        """Give the clocks back what `pin` took."""
        if self._root is not None:
            self._as_root(
                f"if [ -e {self._file} ]; then while read p governor lowest; do"
                " echo $lowest > $p/scaling_min_freq; echo $governor > $p/scaling_governor;"
                f" done < {self._file}; rm -f {self._file}; fi"
            )

    def _as_root(self, script: str) -> ShellResult:
        assert self._root is not None
        return self._adb.shell(self._root.format(shlex.quote(script)))

"""`rejoinder completion`: what shells offer when they have read it, asked of the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from rejoinder.cli import main

# As Readline calls it: https://www.gnu.org/software/bash/manual/html_node/Programmable-Completion.html
BASH: Final = """\
source {script}
COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
read -r _ _ _ _ _ function _ < <(complete -p rejoinder | sed 's/-o [a-z]* //g; s/-F/- - - &/')
$function rejoinder "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FISH: Final = "source {script}; complete -C '{line}' | cut -f1"
# A terminal of its own, which shows what is offered.
ZSH: Final = """\
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'PROMPT=; fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D; print rea""dy'
zpty -r z said '*ready*'
zpty -w -n z $'{line}\\t'
zpty -r z said '*{offered}*'
"""

OFFERED: Final = [
    ("rejoinder ", {"up", "serve", "check", "explain", "render", "bootstrap", "preview", "init", "schema"}),
    ("rejoinder ch", {"check"}),
    ("rejoinder check --s", {"--strict"}),
    ("rejoinder check --format ", {"text", "json"}),
    ("rejoinder check rules.yaml --format j", {"json"}),
    ("rejoinder bootstrap ", {"ads", "ext_proc", "module"}),
    ("rejoinder up ru", {"rules.yaml"}),
    ("rejoinder completion z", {"zsh"}),
]


@pytest.fixture
def scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    for shell, file in (("bash", "rejoinder.bash"), ("zsh", "_rejoinder"), ("fish", "rejoinder.fish")):
        assert main(["completion", shell]) == 0
        (tmp_path / file).write_text(capsys.readouterr().out)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.yaml").touch()
    return tmp_path


def asked(*command: str) -> set[str]:
    environ = {**os.environ, "HOME": os.getcwd()}
    return set(
        subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    )


@pytest.mark.parametrize(("line", "offered"), OFFERED)
def test_bash_offers_what_fits(scripts: Path, line: str, offered: set[str]) -> None:
    words = line if not line.endswith(" ") else f"{line}''"
    assert offered <= asked("bash", "-c", BASH.format(script=scripts / "rejoinder.bash", words=words))


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize(("line", "offered"), OFFERED)
def test_fish_offers_what_fits(scripts: Path, line: str, offered: set[str]) -> None:
    assert offered <= asked("fish", "-c", FISH.format(script=scripts / "rejoinder.fish", line=line))


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
@pytest.mark.parametrize(("line", "offered"), OFFERED)
def test_zsh_offers_what_fits(scripts: Path, line: str, offered: set[str]) -> None:
    for word in sorted(offered)[:2]:
        asked("zsh", "-c", ZSH.format(folder=scripts, line=line, offered=word))

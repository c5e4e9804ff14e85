"""Completion, as each shell has it: installed by asyncq, and asked for by the shell itself."""

import os
import shutil
from pathlib import Path

import pytest

from tests.system.commands import Ended, Shell

INSTALLED = {
    "bash": ".bash_completions/asyncq.sh",
    "zsh": ".zfunc/_asyncq",
    "fish": ".config/fish/completions/asyncq.fish",
}
# What each shell does when somebody types this much and presses the tab key.
ASKS = {
    "bash": """
        source ~/.bash_completions/asyncq.sh
        COMP_WORDS=({line}) COMP_CWORD={last}
        _asyncq_completion asyncq
        printf "%s\\n" "${{COMPREPLY[@]}}"
    """,
    "zsh": """
        compdef() {{ }}
        _arguments() {{ print -r -- "$@" }}
        words=({line}) CURRENT={count}
        source ~/.zfunc/_asyncq
        _asyncq_completion
    """,
    "fish": """
        source ~/.config/fish/completions/asyncq.fish
        complete -C "{text}"
    """,
}


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def home(tmp_path: Path) -> Shell:
    """A user's home, with asyncq on the path."""
    script = shutil.which("asyncq")
    assert script is not None
    path = f"{Path(script).parent}{os.pathsep}{os.environ['PATH']}"
    return Shell(tmp_path, {"HOME": str(tmp_path), "PATH": path, "TERM": "dumb"})


def ask(home: Shell, name: str, *words: str) -> Ended:
    line = " ".join(f'"{word}"' for word in words)
    count = len(words)
    program = ASKS[name].format(line=line, text=" ".join(words), last=count - 1, count=count)
    return home.run([name, "-c", program])


def test_completion_is_installed_for_the_shell_that_is_named_and_completes(
    home: Shell, shell_name: str
) -> None:
    installed = home.run(["asyncq", "--install-completion", shell_name])

    assert installed.code == 0
    assert f"{shell_name} completion installed" in installed.out
    assert (home.directory / INSTALLED[shell_name]).exists()
    commands = ask(home, shell_name, "asyncq", "de")
    assert "dead" in commands.out
    assert "worker" not in commands.out
    assert "replay" in ask(home, shell_name, "asyncq", "dead", "").out
    assert "--concurrency" in ask(home, shell_name, "asyncq", "worker", "--conc").out


def test_completion_is_installed_for_the_shell_that_asks(home: Shell, shell_name: str) -> None:
    installed = home.run([shell_name, "-c", "asyncq --install-completion; true"])

    assert installed.code == 0
    assert f"{shell_name} completion installed" in installed.out


def test_a_completion_can_be_shown_without_installing_it(home: Shell, shell_name: str) -> None:
    shown = home.run(["asyncq", "--show-completion", shell_name])

    assert shown.code == 0
    assert "_ASYNCQ_COMPLETE" in shown.out
    assert list(home.directory.iterdir()) == []

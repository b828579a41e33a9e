"""The commands of the README and of docs/ exist: each `sh` block says in a comment before it how it is checked.

`check: usage`: every make target is there, every module takes these options (here).
`check: server`: the block is run, line by line, against a real server (tests/e2e/test_readme_http.py).
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from PIL import Image

from tests.readme import PAGES, REPO, Block, blocks, lines
from training.data import load_dataset

HARMLESS = {".", "cp", "export"}
"""Words that begin a line of which nothing of ours can be checked."""


def commands(word: str) -> list[str]:
    """Lines of the usage blocks that begin with this word, each once."""
    usage = (line for block in blocks() if block.check == "usage" for line in lines(block))
    return list(dict.fromkeys(line for line in usage if line.split()[0] == word))


def module_of(line: str) -> tuple[str, list[str]]:
    """`python -m X …` and `torchrun … -m X …` → X and its arguments."""
    words = shlex.split(line)
    at = words.index("-m")
    return words[at + 1], words[at + 2 :]


@lru_cache
def help_of(*command: str) -> str:
    """What `python -m MODULE [SUB-COMMAND] --help` says; several lines of the pages ask for the same."""
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_says_how_it_is_checked() -> None:
    found = blocks()
    assert {block.check for block in found} == {"usage", "server"}
    assert len(found) == sum(page.read_text().count("```sh") for page in PAGES)


def test_no_line_is_left_unchecked() -> None:
    words = {line.split()[0] for block in blocks() if block.check == "usage" for line in lines(block)}
    assert words <= {"make", "python", "torchrun", *HARMLESS}


@pytest.mark.parametrize("line", commands("make"))
def test_make_target_is_there(line: str, tmp_path: Path) -> None:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    command = ["make", "--dry-run", *shlex.split(line)[1:]]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", [*commands("python"), *commands("torchrun")])
def test_module_takes_these_options(line: str) -> None:
    module, arguments = module_of(line)
    command = [module]
    if arguments and re.fullmatch("[a-z][a-z-]*", arguments[0]):
        command.append(arguments[0])  # a sub-command has a help of its own
    if module == "locust":  # its own help leaves out the options of the file that it is given
        command[-1] = "benchmarks.locustfile"
    told = help_of(*command)
    for argument in arguments:
        if argument.startswith("--"):
            assert re.search(rf"{argument}\b", told), f"{argument} is not in the help of {module}"


def test_python_blocks_import_what_is_there() -> None:
    found = [
        code for page in PAGES for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    assert found
    for code in found:
        tree = ast.parse(code)
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(tree, "page", "exec"), {})


def test_the_description_of_a_dataset_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(name = .*?)```", (REPO / "docs/data.md").read_text(), re.DOTALL)
    file = tmp_path / "dataset.toml"
    file.write_text(text)
    for split in ("train", "val"):
        for folder in (split, f"{split}_labels"):
            (tmp_path / folder).mkdir()
            Image.new("L", (4, 4), 4).save(tmp_path / folder / "1.png")
        dataset = load_dataset(file, split)
        assert (dataset.read(dataset.samples[0])[1] == dataset.ignore_label).all()


def anchors(page: Path) -> set[str]:
    """What a link can name in a page: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_are_there(page: Path) -> None:
    targets = [to for to in re.findall(r"\]\(([^)]+)\)", page.read_text()) if not to.startswith("http")]
    for target in targets:
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def test_the_readme_leads_to_every_page() -> None:
    linked = re.findall(r"\]\((docs/\w[\w-]*\.md)", (REPO / "README.md").read_text())
    assert {REPO / target for target in linked} == set(PAGES[1:])


def test_blocks_are_read_as_they_stand() -> None:
    text = "<!-- check: usage -->\n```sh\nmake a \\\n  B=1  # why\n\n# alone\nmake b\n```\n\n```sh\nmake c\n```\n"
    found = blocks(text)
    assert found == [Block("usage", "make a \\\n  B=1  # why\n\n# alone\nmake b\n"), Block("", "make c\n")]
    assert lines(found[0]) == ["make a B=1", "make b"]

"""The two container files install the same things, from files that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCKERFILE, APPTAINER = ((ROOT / name).read_text() for name in ("Dockerfile", "apptainer.def"))


def joined(text: str) -> str:
    """The text with each continued line in one."""
    return re.sub(r"\s*\\\n\s*", " ", text)


def section(name: str) -> list[str]:
    return [line.strip() for line in joined(APPTAINER).partition(f"%{name}\n")[2].partition("\n\n")[0].splitlines()]


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", joined(DOCKERFILE), re.MULTILINE)


def test_both_images_are_built_by_the_same_commands() -> None:
    commands = [command for line in instructions("RUN") for command in line.split(" && ")]
    assert [command for command in commands if not command.startswith("useradd")] == section("post")
    assert len(commands) > 5
    assert instructions("FROM") == re.findall(r"^From: (.*)$", APPTAINER, re.MULTILINE)


def test_both_images_get_the_same_files() -> None:
    copied = [word for line in instructions("COPY") for word in line.split()[:-1]]
    assert copied == [line.split()[0] for line in section("files")]
    assert all((ROOT / name).exists() for name in copied if not name.startswith("dist/"))
    allowed = (ROOT / ".dockerignore").read_text().split()
    assert {f"!{name.partition('/')[0]}" for name in copied} == set(allowed) - {"*"}


def test_the_container_does_not_run_as_root() -> None:
    assert instructions("USER") == ["1000"]

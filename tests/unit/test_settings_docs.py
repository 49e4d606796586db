"""The tables of settings in the README and docs are those of the declarations; and the check sees what is wrong."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from redis_consumer.settings import Settings
from redis_consumer.settings.declare import declarations
from redis_consumer.settings.old import RETIRED

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def load_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_check", ROOT / "docs/check.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check: Any = load_check()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project whose docs are in order."""
    (tmp_path / "docs").mkdir()
    for module in ("queues/base.py", "settings/schema.py"):
        (tmp_path / "src/redis_consumer" / module).parent.mkdir(parents=True)
        (tmp_path / "src/redis_consumer" / module).write_text("")
    (tmp_path / "README.md").write_text("# A\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True, timeout=60)
    for path, text in check.settings_texts(tmp_path).items():
        path.write_text(text)
    return tmp_path


def all_problems(root: Path) -> list[str]:
    return [
        *check.stale_tables(root),
        *check.lost_references(root),
        *check.unknown_commands(root),
        *check.machine_paths(root),
    ]


def test_the_tables_in_this_project_are_up_to_date() -> None:
    assert list(check.stale_tables(ROOT)) == []


def test_every_variable_and_older_name_stands_on_the_page() -> None:
    page = check.settings_page()
    for name, declared in declarations(Settings).items():
        for variable in (name.upper(), *declared.aliases):
            assert len(re.findall(rf"^\|.*`{variable}`", page, re.MULTILINE)) >= 1, variable
    for variable in RETIRED:
        assert f"| `{variable}` |" in page


def test_no_cell_breaks_the_table() -> None:
    lines = [line for line in check.settings_page().splitlines() if line.startswith("| `")]
    assert {line.count("|") for line in lines} == {3, 5}


def test_the_readme_keeps_all_but_what_is_between_the_marks() -> None:
    readme = f"# A\n\nbefore\n{check.BEGIN}\nold\n{check.END}\nafter\n"
    new = check.with_common_settings(readme)
    assert new.startswith(f"# A\n\nbefore\n{check.BEGIN}\n| Variable")
    assert new.endswith(f"|\n{check.END}\nafter\n")
    assert check.with_common_settings(new) == new


def test_marks_are_made_where_there_are_none() -> None:
    assert check.with_common_settings("# A\n").startswith(f"# A\n\n## Settings\n\n{check.BEGIN}\n| Variable")


def test_a_project_in_order_has_no_problems(project: Path) -> None:
    (project / "docs/more.md").write_text(
        "[up](../README.md#settings) [out](https://example.org) [here](#x) `queues/base.py` `src/redis_consumer/`\n"
        "`output/a.zip` `redis-consumer run` `redis-consumer`\n```sh\n[no](link)\nQUEUE=a redis-consumer submit\n```\n"
    )
    assert all_problems(project) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[x](missing.md)", "docs/more.md: the link 'missing.md' leads nowhere"),
        ("`queues/none.py`", "docs/more.md: there is no 'queues/none.py'"),
        ("`docs/none.md`", "docs/more.md: there is no 'docs/none.md'"),
        ("`redis-consumer frobnicate`", "docs/more.md: `redis-consumer frobnicate` is no command"),
        ("```sh\nredis-consumer frobnicate x\n```", "docs/more.md: `redis-consumer frobnicate` is no command"),
        ("as in HOME/x", "docs/more.md:1: a path of one machine"),
    ],
)
def test_what_is_wrong_is_said(project: Path, text: str, problem: str) -> None:
    (project / "docs/more.md").write_text(text.replace("HOME", str(project)) + "\n")
    assert all_problems(project) == [problem]


def test_a_table_that_was_edited_by_hand_is_said(project: Path) -> None:
    page = project / "docs/settings.md"
    page.write_text(page.read_text().replace("`6379`", "`6380`"))
    assert all_problems(project) == ["docs/settings.md: the settings are out of date: python docs/check.py --write"]

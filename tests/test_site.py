"""The site: what its generated pages hold, where each page stands, and that no page holds machine data."""

import re
import sys
from statistics import median

import pytest
import yaml
from pages import ROOT, sentences

from imtok.cli import COMMANDS
from imtok.folders import config_folder
from imtok.help import help_of
from imtok.plain import PATH_OF, PLAIN
from imtok.quantizers.vq import VQ
from imtok.training.health import Health

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def hooks():
    """The modules that generate pages; they import neither mkdocs nor torch."""
    sys.path.insert(0, str(DOCS / "hooks"))
    import command_pages
    import recipe_pages
    import room_pages

    yield {"commands": command_pages, "recipes": recipe_pages, "rooms": room_pages}
    sys.path.remove(str(DOCS / "hooks"))


def in_nav(part):
    """The paths of a navigation, in its order."""
    if isinstance(part, str):
        return [part]
    return [path for one in (part.values() if isinstance(part, dict) else part) for path in in_nav(one)]


def test_every_page_stands_once_in_the_navigation():
    nav = in_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == sorted(
        [*(page.relative_to(DOCS).as_posix() for page in PAGES), "changelog.md", "contributing.md"]
    )


def test_every_command_has_a_page_with_each_of_its_keys(hooks):
    pages = hooks["commands"].command_pages()
    assert set(pages) == {f"reference/commands/{command}.md" for command in COMMANDS}
    for command in PATH_OF:
        config = yaml.safe_load((config_folder() / f"{command}.yaml").read_text())
        shown = re.findall(r"^\| `([\w.]+)` \|", pages[f"reference/commands/{command}.md"], re.MULTILINE)
        outer = {key.partition(".")[0] for key in shown}
        assert set(config) - {"defaults", "hydra"} <= outer, command
        assert len(shown) == len(set(shown)), command
    for command, plain in PLAIN.items():
        assert all(f"| `{key}` |" in pages[f"reference/commands/{command}.md"] for key in plain.keys)


def test_a_default_of_a_command_comes_before_that_of_a_group(hooks):
    page = hooks["commands"].command_pages()["reference/commands/prior.md"]
    assert "| `trainer.max_steps` | `1500` | optimiser steps in all |" in page
    assert "  max_steps: 750 # optimiser steps in all" in help_of("prior")


def test_every_option_is_on_the_page_of_its_group(hooks):
    pages = hooks["commands"].option_pages()
    for path in config_folder().rglob("*.yaml"):
        group, *rest = path.relative_to(config_folder()).with_suffix("").parts
        if rest and group not in ("experiment", "size"):
            assert f"## {'/'.join(rest)}\n" in pages[f"reference/options/{group}.md"], path


def test_every_recipe_is_in_one_family_with_its_own_comment(hooks):
    pages = hooks["recipes"].recipe_pages()
    families = hooks["recipes"].families()
    names = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))
    assert sorted(name for family in families.values() for name in family) == names
    text = "\n".join(pages.values())
    for name in names:
        first = (config_folder() / f"experiment/{name}.yaml").read_text().splitlines()[1].removeprefix("# ")
        assert f"## {name}\n\n{first}" in text


def test_every_public_class_of_a_room_is_on_its_page(hooks):
    text = "\n".join(hooks["rooms"].room_pages().values())
    for path in sorted((ROOT / "imtok").rglob("*.py")):
        if re.search(r"^class [A-Z].*:\n    \"\"\"", path.read_text(), re.MULTILINE):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert f"::: {module}\n" in text or path.stem == "__init__", module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_page_is_for_readers(page):
    text = page.read_text()
    assert max(map(len, text.splitlines())) < 2000, "machine data belong into a file beside the page"
    assert not re.search(r"<!--[^>]*[\[{]\"", text)


def test_sentences_are_short():
    words = [len(sentence.split()) for page in (ROOT / "README.md", *PAGES) for sentence in sentences(page)]
    assert median(words) <= 13
    assert sum(count > 25 for count in words) / len(words) < 0.06


def test_what_a_run_says_of_its_health_stands_in_troubleshooting_with_its_section():
    page = (DOCS / "troubleshooting.md").read_text()
    quoted = [without_numbers(line.strip()) for line in page.splitlines() if line.startswith("imtok: step")]
    codes = [{"perplexity": value, "usage": value / 1024, "tokens": 1e6} for value in (300, 300, 3, 3)]
    critic = [{"score_real": 2.0, "score_fake": -2.0, "critic": 0.1, "adversarial": value} for value in (1.0, 2.0, 3.0)]
    jump = [{"l1": value} for value in (0.04,) * 6 + (0.4,)]
    for rows, terms in ((codes, ()), (critic, ("adversarial",)), (jump, ("l1",))):
        health = Health(VQ(dim=8, codebook_size=1024))
        said = [line for row in rows for line in health.read(row, terms)]
        assert len(said) == 1
        assert without_numbers(f"imtok: step 7: {said[0]}") in quoted
        anchor = re.search(r"docs/troubleshooting\.md#([a-z-]+)", said[0])[1]
        assert f"## {anchor.replace('-', ' ').capitalize()}\n" in page


def without_numbers(line):
    return re.sub(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", "0", line)

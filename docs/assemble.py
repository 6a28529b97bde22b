"""Puts the sources of the documentation together in one folder, from which Sphinx builds.

What is written by hand lies in ``docs/*.md`` and ``tutorials/``. Pages of the registry, of the modules, of the command
line and of the measured results are made, so that a new entry has its page without being written down twice.

Run: ``python docs/assemble.py FOLDER``
"""

import os
import re
import sys
from pathlib import Path

import reference
import results

ROOT = Path(__file__).resolve().parents[1]
OTHER_PAGES = "{{ other pages }}"
# What lies elsewhere in the repository and is a page too.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "results/index.md",
}


def pages() -> dict[str, str]:
    """Every page that is text, by its name in the folder."""
    by_hand = {path.name: path for path in sorted((ROOT / "docs").glob("*.md"))}
    repository = PAGES | {f"docs/{name}": name for name in by_hand}
    made = {name: relinked(path.read_text(), f"docs/{name}", repository) for name, path in by_hand.items()}
    for source in ("CHANGELOG.md", "CONTRIBUTING.md"):
        made[PAGES[source]] = relinked((ROOT / source).read_text(), source, repository)
    about = relinked((ROOT / "benchmarks/README.md").read_text(), "benchmarks/README.md", repository)
    made |= reference.pages() | results.pages(about) | {"tutorials/index.md": tutorials()}
    others = sorted(path.removesuffix(".md") for path in by_hand if not mentioned(path, made["index.md"]))
    made["index.md"] = made["index.md"].replace(OTHER_PAGES, "\n".join(others))
    return made


def mentioned(page: str, index: str) -> bool:
    """Whether the index lists a page by hand, or is it."""
    return page == "index.md" or re.search(rf"^{re.escape(page.removesuffix('.md'))}$", index, re.MULTILINE) is not None


def tutorials() -> str:
    """The list of the notebooks, in the order of their numbers."""
    names = "\n".join(path.stem for path in notebooks())
    return (
        "# Tutorials\n\n"
        "Notebooks that run in a minute on a laptop. Those in `tutorials/` are the sources of these pages, each with a "
        "twin in plain Python; `make tutorials` runs them all.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n"
    )


def notebooks() -> list[Path]:
    """The notebooks, sorted."""
    return sorted((ROOT / "tutorials").glob("*.ipynb"))


def relinked(text: str, source: str, repository: dict[str, str]) -> str:
    """The text of a file of the repository with links that work in the documentation.

    Args:
        text: Markdown.
        source: the file, from the root of the repository.
        repository: files that are pages -> their pages.

    Returns:
        The text; links to files that are no pages have become their labels.
    """
    here = os.path.dirname(repository.get(source, source))

    def replaced(match: re.Match[str]) -> str:
        label, target = match[1], match[2]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        page = repository.get(os.path.normpath(os.path.join(os.path.dirname(source), path)))
        if page is None:
            return label
        return f"[{label}]({os.path.relpath(page, here or '.')}{'#' + anchor if anchor else ''})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", replaced, text)


def write(folder: Path) -> None:
    """Writes all pages and notebooks; those that have not changed keep their time, and Sphinx reads only new ones."""
    files = {name: text.encode() for name, text in pages().items()}
    files |= {f"tutorials/{path.name}": path.read_bytes() for path in notebooks()} | results.drawings()
    for old in [path for path in folder.rglob("*") if path.is_file()]:
        if str(old.relative_to(folder)) not in files:
            old.unlink()
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


if __name__ == "__main__":
    write(Path(sys.argv[1]))

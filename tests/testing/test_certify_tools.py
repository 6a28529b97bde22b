"""What stands behind `make certify` and `make mutants`: records, the page, and the table of mutations."""

import importlib
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the folder benchmarks/ of the repository")

if BENCHMARKS.is_dir():  # they are programs, not a package: their folder is their path
    sys.path.insert(0, str(BENCHMARKS))
    record, certify, certificates_page, mutants, mutations = map(
        importlib.import_module, ("record", "certify", "certificates_page", "mutants", "mutations")
    )
    sys.path.remove(str(BENCHMARKS))


def run_cells(*names):
    numbers = [n for n, cell in enumerate(certify.numbered()) if cell.name in names]
    return [certify.run(number) for number in numbers]


def test_records_make_a_page_and_a_result():
    names = ("torch / switches / plate / ELBO enumerate", "torch / switches / no plate / IWAE dreg")
    records = run_cells(*names)
    assert Counter(each["status"] for each in records) == {"certified": 1, "refused": 1}
    json.dumps(records, allow_nan=False)
    whole = [
        each | {"structure": structure, "row": row}
        for each, row in zip(records, ("IWAE dreg", "ELBO enumerate"), strict=True)
        for structure in ("plate", "no plate")
    ]
    figures = certify.figures(records)
    content = record.document("certificates", certify.settings(), {"first": 1, "step": 1}, figures)
    assert record.problems(content) == []
    page = certificates_page.page(whole, content)
    assert "| ELBO enumerate | unbiased | ✓ |" in page
    assert "needs `rsample`" in page


def test_a_cell_that_cannot_run_is_an_error_and_no_success(monkeypatch):
    def fail(cell, **options):
        raise AttributeError("no such class")

    monkeypatch.setattr(certify, "certify_cell", fail)
    assert certify.run(0)["status"] == "error"


def test_certified_cells_are_kept_and_others_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(certify, "CACHE", tmp_path)
    place = {"backend": "torch", "problem": "switches", "structure": "plate"}
    lines = [place | {"row": "a", "status": "certified"}, place | {"row": "b", "status": "error"}]
    cut_off = '{"backend": "torch", "pro'
    certify.cache("torch").write_text("\n".join([*map(json.dumps, lines), cut_off]))
    assert [key[-1] for key in certify.known("torch")] == ["a"]


def test_the_hash_follows_the_source(tmp_path):
    for folder in ("core", "programs", "objectives", "testing", "numpyro"):
        (tmp_path / "probgen" / folder).mkdir(parents=True)
    file = tmp_path / "probgen" / "objectives" / "elbo.py"
    file.write_text("a")
    before = certify.fingerprint("torch", tmp_path), certify.fingerprint("numpyro", tmp_path)
    file.write_text("b")
    assert certify.fingerprint("torch", tmp_path) != before[0]
    assert certify.fingerprint("numpyro", tmp_path) == before[1]


def test_the_table_of_mutations_fits_the_source():
    assert mutants.problems() == []


def test_there_are_enough_mutations():
    families = Counter(mutation.family for mutation in mutations.MUTATIONS)
    assert sum(families.values()) >= 40
    assert min(families.values()) >= 3


def test_a_text_that_is_gone_is_an_error(monkeypatch):
    gone = mutations.Mutation("ELBO", "gone", mutations.ELBO, "no such line", "", ())
    monkeypatch.setattr(mutants, "MUTATIONS", (gone,))
    assert mutants.problems() == ["ELBO: gone: its text is there 0 times in probgen/objectives/elbo.py"]
    assert mutants.main([]) == 2


def test_every_mutation_names_cells_that_are_certified():
    cells = {cell.name: cell for cell in certify.numbered()}
    for mutation in mutations.MUTATIONS:
        for row, problem, structure in mutation.cells:
            assert cells[f"{mutation.backend} / {problem} / {structure} / {row}"].supported

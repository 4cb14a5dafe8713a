"""The command a user types: what it prints, what it writes and where, and what it answers to the shell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import order
import pyarrow.parquet
import pytest
import tiny
from shell import command

from audit.organisms.card import Card, names
from audit.plan import override, plan_of, read_plan
from audit.record import read
from probes.direction import Direction

SINKS = {"record.json", "scores.json", "findings.parquet", "report.html", "directions", "junit.xml", "summary.md"}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Tiny checkpoints with a known outcome against `base`, the persona they are judged on, and a store."""
    root = tmp_path_factory.mktemp("command")
    return SimpleNamespace(
        root=root,
        base=tiny.checkpoint(root / "base"),
        bag=order.save(order.bag(), root / "bag"),
        personas=order.personas(root / "personas"),
        loud=order.personas(root / "loud", name="quiet", alarm=False),
        few=order.personas(root / "few", groups=6),
        store=root / "store",
    )


def audited(here, *arguments, cwd, **env):
    """`run` on these models, quickly."""
    common = ("--base", here.base, "--store", here.store, "--effort", "glance", "--threads", 1)
    return command("run", *common, *arguments, cwd=cwd, **env)


@pytest.fixture(scope="module")
def ran(here, tmp_path_factory):
    """One command, two posts: one that lost the order of words, and base itself."""
    cwd = tmp_path_factory.mktemp("cwd")
    out = here.root / "out"
    done = audited(here, "--post", here.bag, "--post", here.base, "--personas", here.personas, "--out", out, cwd=cwd)
    folders = dict(zip(("lost", "reused"), reports(done), strict=True))
    return SimpleNamespace(done=done, out=out, cwd=cwd, folders=folders)


def reports(done):
    """The folders whose reports were printed."""
    return [Path(path).parent for path in re.findall(r"^report: (.+)$", done.stdout, re.MULTILINE)]


def test_each_post_gets_a_table_a_verdict_and_a_report(here, ran):
    assert "Traceback" not in ran.done.stderr
    for verdict, post in (("lost", here.bag), ("reused", here.base)):
        assert f"{here.base} → {post}" in ran.done.stdout
        record = read(ran.folders[verdict])
        assert (record.pair.base.ref, record.pair.post.ref) == (str(here.base), str(post))
        assert [(v.persona, v.verdict) for v in record.verdicts] == [("order", verdict)], record.verdicts
        table = " ".join(ran.done.stdout.replace("│", " ").split())
        assert all(part in table for part in ("order", verdict, record.verdicts[0].sentence[:60]))


def test_the_worst_post_is_the_answer(here, ran, tmp_path):
    """A confirmed alarm exits 1; the alarm of a persona that asks for none is a warning and exits 0."""
    assert ran.done.returncode == 1, ran.done.stderr
    assert [read(ran.folders[name]).outcome.exit for name in ("lost", "reused")] == [1, 0]
    quiet = audited(here, "--post", here.bag, "--personas", here.loud, "--out", tmp_path / "quiet", cwd=tmp_path)
    (verdict,) = read(tmp_path / "quiet").verdicts
    assert (quiet.returncode, verdict.verdict, verdict.severity) == (0, "lost", "warn")


def test_what_base_never_had_is_acquired(here, tmp_path):
    """The pair turned round: the alarm follows the models, not their places."""
    turned = ("--base", here.bag, "--post", here.base, "--personas", here.personas, "--out", tmp_path / "out")
    done = command("run", *turned, "--store", here.store, "--effort", "glance", cwd=tmp_path)
    (verdict,) = read(tmp_path / "out").verdicts
    assert (done.returncode, verdict.verdict, verdict.kind) == (1, "novel", "acquired"), done.stderr


def test_a_model_that_cannot_tell_two_halves_apart_at_all_has_lost_it(here, tmp_path):
    """Attention that adds nothing: both halves of a pair give the same rows to the last bit."""
    same = order.save(order.unattending(), tmp_path / "same")
    done = audited(here, "--post", same, "--personas", here.personas, "--out", tmp_path / "out", cwd=tmp_path)
    assert "Traceback" not in done.stderr, done.stderr[-600:]
    assert (done.returncode, read(tmp_path / "out").verdicts[0].verdict) == (1, "lost")


def test_out_holds_one_folder_for_each_post(ran):
    assert sorted(folder.parent for folder in ran.folders.values()) == [ran.out, ran.out]
    assert sorted(ran.out.iterdir()) == sorted(ran.folders.values())
    for folder in ran.folders.values():
        assert {path.name for path in folder.iterdir()} == SINKS
        record = read(folder)
        (saved,) = (folder / "directions").iterdir()
        site = record.findings[0].site
        assert saved.name == f"order.{site}.safetensors" and str(Direction.load(saved).site) == site
        rows = pyarrow.parquet.read_table(folder / "findings.parquet").to_pylist()
        assert [row["id"] for row in rows] == [finding.id for finding in record.findings]


def test_nothing_is_written_anywhere_else(here, ran):
    assert list(ran.cwd.iterdir()) == []
    assert {path.name for path in here.store.iterdir()} <= {"recordings", "fits", "audits", "files"}
    manifests = list(here.store.glob("recordings/*/manifest.json"))
    assert manifests and len(manifests) == len(list(here.store.glob("recordings/*")))


def test_an_undecided_persona_is_a_failure_only_when_strict(here, tmp_path):
    """Six scenarios decide nothing. Without --out and --store the folders are the defaults of the interface."""
    arguments = ("--base", here.base, "--post", here.bag, "--personas", here.few, "--effort", "glance")
    lenient, strict = (
        command("run", *arguments, *more, cwd=tmp_path, PERSONA_AUDIT_STORE=str(tmp_path / "store"))
        for more in ((), ("--strict",))
    )
    assert (lenient.returncode, strict.returncode) == (0, 3), lenient.stderr + strict.stderr
    assert "inconclusive" in lenient.stdout and "20" in lenient.stdout
    (folder,) = {path.resolve() for path in (tmp_path / path for path in reports(lenient))}
    record = read(folder)
    assert folder.parent == (tmp_path / "persona-audit-out").resolve()
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}-{record.plan_digest[:8]}", folder.name)
    assert (tmp_path / "store" / "recordings").is_dir()


def test_a_strict_audit_that_decides_is_not_a_failure(here, tmp_path):
    """The control of --strict."""
    pair = ("--post", here.base, "--personas", here.personas)
    done = audited(here, *pair, "--out", tmp_path / "o", "--strict", cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_report_gives_the_very_bytes_of_the_run(ran, tmp_path):
    folder = ran.folders["lost"]
    page = (folder / "report.html").read_bytes()
    for number, source in enumerate((folder, folder / "record.json")):
        target = tmp_path / f"deep-{number}" / "page.html"
        done = command("report", source, "--out", target, cwd=tmp_path)
        assert (done.returncode, done.stdout.strip()) == (0, str(target))
        assert target.read_bytes() == page
    other = (ran.folders["reused"] / "report.html").read_bytes()
    assert other != page, "another record is another page"


def test_plan_prints_what_reads_back_as_the_same_plan(tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text("seed = 7\n[sites]\nlayers = [2, 0]\n[comparisons]\ngeometry = { splits = 3 }\n")
    flags = ("--base", "org/some", "--post", "organism:null", "--effort", "thorough")
    done = command("plan", file, *flags, "--personas", "mine", "--personas", "yours", cwd=tmp_path)
    expected = override(
        read_plan(file), base="org/some", post="organism:null", effort="thorough", personas=["mine", "yours"]
    )
    assert done.returncode == 0 and plan_of(tomllib.loads(done.stdout)) == expected
    file.write_text(done.stdout)
    assert command("plan", file, cwd=tmp_path).stdout == done.stdout
    assert plan_of(tomllib.loads(command("plan", cwd=tmp_path).stdout)) == read_plan()


def test_organisms_are_listed_and_have_cards(tmp_path):
    listed = command("organism", "list", cwd=tmp_path)
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [f"organism:{name}" for name in names()]
    shown = command("organism", "card", "base", cwd=tmp_path)
    card = Card.model_validate_json(shown.stdout)
    assert shown.returncode == 0 and (card.name, card.verdicts) == ("base", {})
    unknown = command("organism", "card", "nobody", cwd=tmp_path)
    assert unknown.returncode == 3 and "nobody" in unknown.stderr and "base" in unknown.stderr


def proved(here, base, post, out, cwd):
    """`doctor`, its exit code, what it printed, and doctor.json."""
    arguments = ("--base", base, "--post", post, "--personas", here.personas, "--out", out, "--store", here.store)
    done = command("doctor", *arguments, "--effort", "glance", cwd=cwd)
    assert "Traceback" not in done.stderr, done.stderr[-600:]
    checks = json.loads((out / "doctor.json").read_text())
    assert all(set(check) == {"check", "found", "expected", "do", "ok"} for check in checks)
    for check in checks:
        assert f"{check['check']}: {check['found']}" in done.stdout
        assert check["ok"] or check["do"] in done.stdout
    return done, {check["check"]: check for check in checks}


def test_doctor_answers_0_where_nothing_has_to_be_mended(here, tmp_path):
    words = tiny.tokenizer("llama")
    pair = (
        order.save(order.taught(tiny.model(seed=i), words, here.personas), tmp_path / f"taught-{i}") for i in (0, 1)
    )
    done, checks = proved(here, *pair, tmp_path / "out", tmp_path)
    assert done.returncode == 0, done.stdout
    assert all(check["ok"] for check in checks.values()) and len(checks) >= 14


def test_doctor_answers_2_where_something_has(here, tmp_path):
    """Models that were never taught any text do not expect this one."""
    done, checks = proved(here, here.base, here.bag, tmp_path / "out", tmp_path)
    assert done.returncode == 2
    assert [name for name, check in checks.items() if not check["ok"]] == ["surprisal"], done.stdout
    mended = [line for line in done.stdout.splitlines() if line.startswith("MEND")]
    assert len(mended) == 1 and "surprisal" in mended[0]


def test_doctor_answers_2_for_a_pair_that_is_refused(here, tmp_path):
    bare = [tiny.checkpoint(tmp_path / f"bare-{seed}", seed=seed, template=False) for seed in (0, 1)]
    arguments = ("--base", bare[0], "--post", bare[1], "--personas", here.personas, "--out", tmp_path / "out")
    done = command("doctor", *arguments, "--store", here.store, "--effort", "glance", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "chat template" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["plan"], ["organism", "list"], ["report", "RECORD"]]
)
def test_what_needs_no_model_loads_no_torch(ran, tmp_path, arguments):
    given = [str(ran.folders["lost"]) if word == "RECORD" else word for word in arguments]
    code = (
        f"import sys; sys.argv = {['persona-audit', *given]!r}\n"
        "from audit.cli import main\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ("run", "doctor", "report", "organism", "plan", "check", "baseline")),
        (["run"], ("--base", "--post", "--personas", "--out", "--store", "--effort", "--strict", "--offline")),
        (["organism"], ("list", "grow", "card")),
        (["check"], ("--post", "--baseline", "--waivers", "--fail-on", "--out", "--store")),
        (["baseline"], ("create", "show", "update")),
    ],
)
def test_help_names_every_verb_and_option(tmp_path, arguments, named):
    done = command(*arguments, "--help", cwd=tmp_path)
    assert done.returncode == 0 and all(word in done.stdout for word in named)

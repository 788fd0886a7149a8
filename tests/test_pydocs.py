"""The built-in tasks: cleaning docstrings, splits by module, negatives, the cache. On a small made-up environment."""

import hashlib
import json
import re
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dipair_lib.data.files import TaskError
from dipair_lib.data.loading import load_task
from dipair_lib.data.sources import docstrings, installed, pydocs, pydocs_pairs
from dipair_lib.data.sources.docstrings import plain, prose, summary_and_passage
from dipair_lib.data.sources.installed import Item

# ----------------------------------------------------------------------------------------- docstring to texts


def test_summary_is_the_first_sentence_and_passage_the_prose_after_it():
    found = summary_and_passage("""Sort the birds by weight. Heavy ones come first.

        The order is stable, so birds of one weight
        keep the places they had before sorting began.
        """)
    assert found == (
        "Sort the birds by weight.",
        "Heavy ones come first. The order is stable, so birds of one weight keep the places they had before sorting began.",
    )


BODY = "The nest is woven from dry grass and lined with feathers."


@pytest.mark.parametrize(
    "noise",
    [
        ">>> nest(3)\n    True",
        "Example::\n\n        nest(3)\n        nest(4)",
        ".. code-block:: python\n\n        nest(3)\n\n        nest(4)",
        ".. versionadded:: 1.2\n       Something about versions.",
        "Parameters\n    ----------\n    birds : int\n        How many birds.\n\n    twigs : int\n        How many twigs.",
        "Returns\n    -------\n    int\n        The number of eggs.",
        "Args:\n        birds: How many birds there are.\n\n        twigs: How many twigs there are.",
        "Arguments:\n        birds: How many birds there are.",
        ":param birds: how many birds there are\n    :returns: the number of eggs\n    :rtype: int",
        ":param str birds: how many birds there are\n        and of which kind",
        "@param birds: how many birds there are",
        "- one thing in a list\n    - another thing",
        "1. first step\n    2. second step",
        "* one\n\n        deeper",
        "====  ====\n    a     b\n    ====  ====\n    1     2\n    ====  ====",
        "+---+---+\n    | a | b |\n    +---+---+",
        "```python\n    nest(3)\n\n    nest(4)\n    ```",
        "References\n    ----------\n    .. [1] A. Author, A Title.",
        "It is computed like this:\n\n        a = b + c",
        "See also",
    ],
)
@pytest.mark.parametrize("after", [True, False])
def test_what_is_not_prose_is_left_out(noise, after):
    parts = [BODY, noise] if after else [noise, BODY]
    if not after and re.match(r"Parameters|Returns|References", noise):
        parts[1] = f"Notes\n    -----\n    {BODY}"  # a numpy section ends at the next heading only
    docstring = "Build a nest for birds.\n\n    " + "\n\n    ".join(parts) + "\n    "
    assert next(prose(docstring)) == "Build a nest for birds."
    assert summary_and_passage(docstring) == ("Build a nest for birds.", BODY)


def test_google_notes_are_prose():
    assert summary_and_passage(f"Build a nest for birds.\n\n    Note:\n        {BODY}\n")[1] == BODY


def test_a_list_straight_after_its_sentence_is_cut_off():
    doc = f"Build a nest for birds.\n\n    {BODY}\n    - twigs\n    - moss\n"
    assert summary_and_passage(doc)[1] == BODY


@pytest.mark.parametrize(
    "markup, text",
    [
        ("see :class:`~zoo.birds.Owl` and :func:`fly`", "see Owl and fly"),
        ("a :ref:`title <target>` here", "a title here"),
        ("``code`` and `name` and `link <https://a.example/b>`_", "code and name and link"),
        ("**bold** and *slanted* words", "bold and slanted words"),
        ("as shown in [1]_ and [Knuth73]_.", "as shown in and."),
        ("read https://a.example/page for more.", "read for more."),
        ("a [link](https://a.example) and [`Owl`]", "a link and Owl"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("wraps several .Owl objects , or none .", "wraps several .Owl objects, or none."),
        ("<Tip> wear   gloves </Tip>", "wear gloves"),
    ],
)
def test_markup_becomes_its_text(markup, text):
    assert plain(markup) == text


@pytest.mark.parametrize(
    "docstring, reason",
    [
        ("", "no prose"),
        (">>> 1\n1", "no prose"),
        (f"Nest.\n\n{BODY}", "summary too short or too long"),
        (f"{'very ' * 45} long.\n\n{BODY}", "summary too short or too long"),
        ("Build a nest for birds.", "no passage"),
        ("Build a nest for birds.\n\nOnly five words of prose.", "no passage"),
        (
            "Build a nest for birds.\n\nThis does build a nest for birds, a nest for all birds.",
            "passage repeats the summary",
        ),
        (f"Build a nest for birds.\n\n{BODY} Then x => y.", "markup or formula left"),
        (
            "Build a nest for birds.\n\n" + "Гнездо сплетено из сухой травы и выстлано мягкими перьями птиц.",
            "mostly not letters",
        ),
    ],
)
def test_reasons_for_dropping(docstring, reason):
    assert summary_and_passage(docstring) == reason


def test_long_texts_are_cut_at_a_sentence_end_where_there_is_one(monkeypatch):
    monkeypatch.setattr(docstrings, "QUERY_WORDS", (3, 25))
    monkeypatch.setattr(docstrings, "PASSAGE_WORDS", (8, 60))
    sentence = "One two three four five six seven eight nine ten. "  # 10 words
    found = summary_and_passage("Build a nest for birds.\n\n" + sentence * 7 + "Tail of the text.")
    assert found[1] == (sentence * 6).strip()
    found = summary_and_passage("Build a nest for birds.\n\n" + " ".join(word(i) for i in range(90)))
    assert len(found[1].split()) == 60
    found = summary_and_passage("Word " * 30 + f"end.\n\n{BODY}")
    assert len(found[0].split()) == 25


# ----------------------------------------------------------------------------------------- where to read


def word(*key) -> str:
    """A made-up word of four syllables that depends on the key alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return "".join("bdfgklmnprstvz"[digest[i] % 14] + "aeiou"[digest[i + 9] % 5] for i in range(4))


def source_text(package: str, number: int) -> str:
    """A module of 12 functions; functions of one name share a few words in all modules, so some passages are near."""
    lines = []
    for i in range(12):
        own = [word(package, number, i, k) for k in range(12)]
        shared = " ".join(word(i, k) for k in range(3))
        lines.append(
            f'def f{i}():\n    """Count the {own[0]} of {package} {shared}.\n\n    Whoever sees {own[0]} near {shared} '
            f'writes down {" ".join(own[1:])} before dawn.\n    """\n'
        )
    return "\n".join(lines)


def fake_environment(tmp_path: Path, packages=("aviary", "biotope", "climate"), modules=8) -> Path:
    """Installed distributions as pip leaves them: modules, METADATA and RECORD."""
    site = tmp_path / "site-packages"
    for package in packages:
        files = {f"{package}/m{n}.py": source_text(package, n) for n in range(modules)}
        files[f"{package}/tests/test_m.py"] = source_text("tested", 0)
        files[f"{package}/_vendor/other/m.py"] = source_text("vendored", 0)
        files[f"{package}/broken.py"] = 'def f(:\n    """Never parsed."""\n'
        files[f"{package}/boom.py"] = 'raise SystemExit("imported")  # """\n'
        info = f"{package}-1.0.dist-info"
        files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in files)
        for name, text in files.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text, encoding="utf-8")
    return site


def hashed_words(texts) -> np.ndarray:
    """An embedder by arithmetic: each word adds one to a place given by its hash; unit rows."""
    vectors = np.zeros((len(texts), 64), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            vectors[row, int(hashlib.sha256(word.encode()).hexdigest(), 16) % 64] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """load_task("pydocs") on the made-up environment, with an empty standard library and the arithmetic embedder."""
    site = fake_environment(tmp_path)
    (tmp_path / "stdlib").mkdir()
    environment = installed.environment
    monkeypatch.setattr(installed, "environment", lambda: environment([str(site)]))
    monkeypatch.setattr(installed.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "stdlib")})
    monkeypatch.setattr(pydocs, "embedder", lambda: hashed_words)
    return tmp_path


def test_only_own_sources_are_listed_and_none_is_run(tmp_path):
    site = fake_environment(tmp_path)
    (tmp_path / "lib" / "idlelib").mkdir(parents=True)
    (tmp_path / "lib" / "idlelib" / "x.py").write_text("")
    (tmp_path / "lib" / "birds.py").write_text("")
    files = installed.sources(installed.environment([str(site)]), stdlib=str(tmp_path / "lib"))
    assert {f.module for f in files if f.package == "aviary"} == {
        "aviary.boom",
        "aviary.broken",
        *(f"aviary.m{n}" for n in range(8)),
    }
    assert [f.module for f in files if f.package == "python"] == ["birds"]
    items, dropped = installed.read_files(files)
    assert Counter(i.package for i in items) == {"aviary": 96, "biotope": 96, "climate": 96}
    assert dropped == {"file not readable": 3}


def test_files_per_package_are_capped_by_hash_not_by_place(tmp_path, monkeypatch):
    site = fake_environment(tmp_path)
    monkeypatch.setattr(installed, "FILES_PER_PACKAGE", 3)
    first = [
        f.module for f in installed.sources(installed.environment([str(site)]), stdlib=str(tmp_path / "none"))
    ]
    moved = site.rename(tmp_path / "other")
    again = [
        f.module
        for f in installed.sources(installed.environment([str(moved)]), stdlib=str(tmp_path / "none"))
    ]
    assert len(first) == 9 and again == first


def test_environment_is_what_dipair_lab_needs_when_it_is_installed(tmp_path):
    site = fake_environment(tmp_path, ("aviary", "biotope", "climate", "desert", "estuary"), modules=1)

    def requires(package, *lines):
        path = site / f"{package}-1.0.dist-info" / "METADATA"
        path.write_text(path.read_text() + "".join(line + "\n" for line in lines))

    (site / "dipair_lab-1.0.dist-info").mkdir()
    (site / "dipair_lab-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: dipair-lab\nVersion: 1.0\nProvides-Extra: dev\nProvides-Extra: peers\n"
        'Requires-Dist: aviary>=1\nRequires-Dist: climate; extra == "dev"\nRequires-Dist: absent\n'
        'Requires-Dist: estuary; extra == "peers"\n'  # an extra that came later: the data stays what it was
    )
    requires(
        "aviary", 'Requires-Dist: biotope; python_version > "3"', 'Requires-Dist: desert; extra == "all"'
    )
    assert list(installed.environment([str(site)])) == ["aviary", "biotope", "climate"]


# ----------------------------------------------------------------------------------------- items to pairs


def item(n: int, passage: str, summary: str = "", module: str = "zoo.a") -> Item:
    return Item("zoo", module, f"f{n}", summary or f"Summary number {n} of many.", passage)


def test_duplicates_are_dropped_by_reason_and_counted():
    train, test = (
        next(f"zoo.m{i}" for i in range(99) if pydocs_pairs.split_of(f"zoo.m{i}") == s)
        for s in ("train", "test")
    )
    long = "herons stand still in shallow water at dusk and wait for small silver fish to pass beneath them quietly"
    items = [
        item(0, "owls hunt mice at night over open fields", "Hear the owls, please."),
        item(
            1, "storks travel south every autumn in large groups", "hear THE owls please"
        ),  # the same summary
        item(2, "Owls hunt mice, at night over open fields!", "Something else entirely."),  # the same passage
        item(3, long, module=train),
        item(4, long + " today", module=train),
        item(5, "today " + long, module=test),
        item(6, "eagles circle above mountain ridges in warm rising air"),
    ]
    dropped: Counter[str] = Counter()
    kept = pydocs_pairs.distinct(items, dropped)
    assert len([i for i in kept if i.passage.find("herons") >= 0]) == 1
    assert dropped["duplicate summary or passage"] in (1, 2)  # one item may be the twin of both others
    near = {k: n for k, n in dropped.items() if k.startswith("near-duplicate")}
    assert sum(near.values()) == 2 and near["near-duplicate passage, across splits"] >= 1
    assert any(i.passage.startswith("eagles") for i in kept)
    assert pydocs_pairs.distinct(items[::-1], Counter()) == kept  # the order of reading does not matter


def test_no_package_dominates(monkeypatch):
    monkeypatch.setattr(pydocs_pairs, "ITEMS_PER_PACKAGE", 2)
    words = ["owls", "herons", "eagles", "wrens", "storks"]
    dropped: Counter[str] = Counter()
    assert (
        len(pydocs_pairs.distinct([item(n, f"{w} only {w} again") for n, w in enumerate(words)], dropped))
        == 2
    )
    assert dropped == {"over the limit per package": 3}


def test_nearest_leaves_out_what_is_barred_and_sorts_best_first():
    similarity = np.array([[0.9, 0.5, 0.7, 0.1], [0.2, 1, 0.3, 0.4], [0, 0.1, 1, 0.2], [0.3, 0.2, 0.1, 1]])
    barred = np.eye(4, dtype=bool)
    barred[0, 2] = True
    assert pydocs_pairs.nearest(similarity, barred).tolist() == [[1, 3], [3, 2], [3, 1], [0, 1]]


def test_pydocs_has_one_positive_and_two_negatives_of_the_same_split(small):
    task = load_task("pydocs", cache=small / "cache")
    assert (task.fields, task.classes, task.metrics[0], task.grouped) == (
        ("query", "passage"),
        ("0", "1"),
        "auc",
        True,
    )
    passages = []
    for frame in (task.train, task.dev, task.test):
        assert frame.groupby("group")["label"].agg(list).map(sorted).tolist() == [[0, 0, 1]] * (
            len(frame) // 3
        )
        assert frame.groupby("group")["query"].nunique().eq(1).all()
        assert frame.groupby("group")["passage"].nunique().eq(3).all()
        own = frame[frame["label"] == 1].set_index("group")["passage"]
        assert set(frame["passage"]) == set(own)  # negatives are passages of this split
        for query, passage in frame.loc[frame["label"] == 1, ["query", "passage"]].values:
            assert query.split()[2] in passage  # the word that this function alone has
        passages.append(set(own))
    assert sum(map(len, passages)) == len(set.union(*passages)) == task.notes["items"] == 288
    assert task.notes["packages"] == {p: ["1.0", 96] for p in ("aviary", "biotope", "climate")}
    assert task.notes["rows"]["train"] == len(task.train) and len(task.train) > 5 * len(task.test) > 0


def test_whole_modules_go_to_one_split(small):
    load_task("pydocs", cache=small / "cache")
    table = pd.read_parquet(next((small / "cache").glob("pydocs-*.pairs.parquet")))
    assert table.groupby("module")["split"].nunique().eq(1).all()
    assert {pydocs_pairs.split_of(m) for m in table["module"]} == {"train", "dev", "test"}


def test_negatives_are_nearer_than_chance(small, monkeypatch):
    monkeypatch.setattr(pydocs_pairs, "RANKS", 2)
    load_task("pydocs", cache=small / "cache")
    table = pd.read_parquet(next((small / "cache").glob("pydocs-*.pairs.parquet")))
    for kind in ("tf-idf", "embedding"):
        part = table[table["kind"] == kind]
        near = (hashed_words(part["query"]) * hashed_words(part["passage"])).sum(1).mean()
        chance = (
            (hashed_words(part["query"]) * hashed_words(part["passage"].sample(frac=1, random_state=0)))
            .sum(1)
            .mean()
        )
        assert near > chance + 0.05, kind


def test_fields_are_the_rows_of_pydocs_with_the_qualified_name(small):
    pairs = load_task("pydocs", cache=small / "cache")
    fields = load_task("pydocs-fields", cache=small / "cache")
    assert fields.fields == ("name", "summary", "passage")
    assert (fields.classes, fields.metrics, fields.grouped) == (pairs.classes, pairs.metrics, True)
    for split in ("train", "dev", "test"):
        two, three = getattr(pairs, split), getattr(fields, split)
        assert three.drop(columns="name").rename(columns={"summary": "query"}).equals(two)
        for name, summary in three[["name", "summary"]].values:
            package, module, function = name.split(".")
            own = word(package, int(module[1:]), int(function[1:]), 0)  # as in source_text
            assert summary.startswith(f"Count the {own} of {package} ")
    assert fields.fingerprint != pairs.fingerprint
    with pytest.raises(TaskError, match=r"pydocs-fields has group = 'summary', not 'name'"):
        load_task("pydocs-fields", group="name")


def test_names_of_modules_classes_and_methods_are_qualified():
    modules = [next(f"zoo.m{i}" for i in range(99) if pydocs_pairs.fold_of(f"zoo.m{i}") == t) for t in (4, 1)]
    items = [Item("zoo", modules[0], "", "s", "p"), Item("zoo", modules[1], "Owl.fly", "s", "p")]
    assert pydocs_pairs.names(items).values.tolist() == [
        [0, "s", f"{modules[1]}.Owl.fly"],
        [1, "s", modules[0]],
    ]


def test_topic_has_balanced_classes_without_their_names(small):
    task = load_task("pydocs-topic", cache=small / "cache")
    assert task.fields == ("summary",) and task.classes == ("aviary", "biotope", "climate")
    assert task.metrics == ("accuracy", "macro_f1") and not task.grouped
    every = pd.concat([task.train, task.dev, task.test])
    assert every["label"].value_counts().to_dict() == {0: 96, 1: 96, 2: 96}
    assert not every["summary"].str.contains("aviary|biotope|climate").any()
    assert every["summary"].str.contains("library").all()
    assert task.notes["names_replaced_by_library"] == 288


# ----------------------------------------------------------------------------------------- cache


def test_cache_is_built_once_and_gives_the_same_task(small, monkeypatch):
    said: list[str] = []
    first = load_task("pydocs", cache=small / "cache", say=said.append)
    assert len(said) == 3 and "96" not in said[0]
    monkeypatch.setattr(pydocs, "build", lambda *a: pytest.fail("built again"))
    again = load_task("pydocs", cache=small / "cache", say=said.append)
    load_task("pydocs-topic", cache=small / "cache")
    assert again.fingerprint == first.fingerprint and len(said) == 3
    assert not list((small / "cache").glob(".*.tmp"))


def test_two_builds_agree(small):
    first, again = (load_task("pydocs", cache=small / name) for name in ("one", "two"))
    assert first.fingerprint == again.fingerprint


def test_parallel_loads_build_once(small, monkeypatch):
    builds = []
    build = pydocs.build

    def counted(*args):
        builds.append(1)
        build(*args)

    monkeypatch.setattr(pydocs, "build", counted)
    threads = [
        threading.Thread(target=load_task, args=("pydocs",), kwargs={"cache": small / "c"}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == [1]


def test_other_versions_are_built_anew_and_said(small):
    load_task("pydocs", cache=small / "cache")
    metadata = small / "site-packages" / "aviary-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    said: list[str] = []
    task = load_task("pydocs", cache=small / "cache", say=said.append)
    assert "other package versions" in said[0]
    assert task.notes["packages"]["aviary"][0] == "1.1"


def test_a_cache_without_names_is_built_anew(small):
    first = load_task("pydocs", cache=small / "cache")
    next((small / "cache").glob("*.names.parquet")).unlink()
    path = next((small / "cache").glob("*.json"))
    notes = json.loads(path.read_text())
    del notes["sha256"]["names"]
    path.write_text(json.dumps(notes))
    module = small / "site-packages" / "aviary" / "m0.py"
    whole = module.read_text()
    module.write_text(whole.replace("Count the", "Number the", 1))  # edited in place, the version stays
    said: list[str] = []
    fields = load_task("pydocs-fields", cache=small / "cache", say=said.append)
    assert "building again" in said[0]
    assert fields.notes["items"] == 288
    every = pd.concat([fields.train, fields.dev, fields.test])
    assert every["summary"].str.startswith("Number the").any()
    module.write_text(whole)
    again = load_task("pydocs", cache=small / "new")
    assert again.fingerprint == first.fingerprint


@pytest.mark.parametrize("damage", ["table", "notes"])
def test_damaged_cache_is_built_anew(small, damage):
    first = load_task("pydocs", cache=small / "cache")
    pattern = {"table": "*.pairs.parquet", "notes": "*.json"}[damage]
    path = next((small / "cache").glob(pattern))
    path.write_bytes(path.read_bytes()[:-30])
    assert load_task("pydocs", cache=small / "cache").fingerprint == first.fingerprint


def test_unwritable_cache_names_the_folder_and_the_variable(small):
    (small / "file").write_text("")
    with pytest.raises(TaskError, match=r"file/cache: pydocs cannot be cached .*DIPAIR_CACHE"):
        load_task("pydocs", cache=small / "file" / "cache")


def test_too_small_an_environment_says_so(small):
    for path in (small / "site-packages").rglob("m[1-7].py"):
        path.unlink()
    with pytest.raises(TaskError, match="usable docstrings in tenth"):
        load_task("pydocs", cache=small / "cache")


def test_notes_are_json(small):
    notes = load_task("pydocs", cache=small / "cache").notes
    assert json.loads(json.dumps(notes)) == notes
    assert {"items", "packages", "dropped", "seconds", "embedding", "files"} <= set(notes)


def test_embedder_mean_pools_the_backbone_to_unit_vectors():
    embed = pydocs.embedder()
    texts = [
        "Birds sing in the morning.",
        "The engine needs oil, says the mechanic.",
        "Songbirds are heard at dawn.",
    ]
    vectors = embed(texts)
    assert vectors.shape == (3, 384) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[2] > vectors[0] @ vectors[1] + 0.3
    assert np.allclose(embed(texts[:1])[0], vectors[0], atol=0.02)  # padding does not matter

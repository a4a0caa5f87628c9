"""The runner of the corpus: what breaks the grammar, and how differences are told."""

from pathlib import Path

import pytest

from proxy import corpus, goldens, outcomes
from proxy.corpus import BadCase, Case, Differs
from tests.cases import FIXTURES
from translators.wire import JSON, decode, encode

Files = dict[str, str]
PLAIN: Files = {
    "case.toml": "source = 'spec'",
    "caller.request.json": '{"model": "m", "input": "Hi"}',
}
SENT = '{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'


def write(root: Path, files: Files, folder: str = "responses-chat/case") -> Path:
    path = root / folder
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def copy(root: Path, case_id: str) -> Case:
    """A case of the real corpus, to be spoilt."""
    case = corpus.load_case(FIXTURES / case_id)
    return corpus.load_case(write(root, {n: case.read(n).decode() for n in case.files}, case_id))


def spoil(case: Case, name: str, old: str, new: str) -> Case:
    text = (case.folder / name).read_text()
    assert old in text
    (case.folder / name).write_text(text.replace(old, new, 1))
    return corpus.load_case(case.folder)


# --- the grammar -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "file", "why"),
    [
        (PLAIN | {"caller.txt": ""}, "caller.txt", "no case has such a file"),
        ({"caller.request.json": "{}"}, "case.toml", "missing"),
        ({"case.toml": "source = 'x'"}, "caller.request.json", "missing"),
        (PLAIN | {"case.toml": "notes = 'x'"}, "case.toml", "required field `source`"),
        (PLAIN | {"case.toml": "source = ''\nsuorce = 'x'"}, "case.toml", "field `suorce`"),
        (PLAIN | {"case.toml": "source = 5"}, "case.toml", "Expected `str`"),
        (PLAIN | {"case.toml": "source"}, "case.toml", "Expected '='"),
        (PLAIN | {"case.toml": "source=''\nprofile='x'"}, "case.toml", "no profile 'x'"),
        (PLAIN | {"case.toml": "source=''\n[policy]\norphans='x'"}, "case.toml", "enum value"),
        (PLAIN | {"case.toml": "source=''\n[overrides]\nx=1"}, "case.toml", "field `x`"),
        (PLAIN | {"upstream.error.json": "{}"}, "case.toml", "needs a status"),
        (
            PLAIN | {"upstream.error.json": "{}", "upstream.stream.sse": ""},
            "upstream.error.json",
            "excludes",
        ),
    ],
)
def test_case_that_breaks_the_grammar(tmp_path: Path, files: Files, file: str, why: str) -> None:
    with pytest.raises(BadCase) as caught:
        corpus.load_case(write(tmp_path, files))
    assert (caught.value.case, caught.value.file) == ("responses-chat/case", file)
    assert why in caught.value.why


def test_facts_of_a_case(tmp_path: Path) -> None:
    facts = "source = 'spec'\nknown-gap = 'x'\nlosses = ['input']"
    case = corpus.load_case(write(tmp_path, PLAIN | {"case.toml": facts}))
    assert corpus.Facts("spec", losses=["input"], known_gap="x") == case.facts
    assert (case.id, case.caller, case.has_stream) == ("responses-chat/case", "responses", False)


def test_framing_case_needs_its_stream_but_not_yet_its_golden(tmp_path: Path) -> None:
    folder = write(tmp_path, {"case.toml": "source = ''"}, "sse/case")
    with pytest.raises(BadCase, match=r"sse/case: stream\.sse: it is missing"):
        corpus.load_case(folder)
    (folder / "stream.sse").write_text("data: x\n\n")
    with pytest.raises(Differs, match=r"sse/case: frames\.json: it is missing"):
        goldens.check(corpus.load_case(folder))


def test_cases_are_found_by_pair(tmp_path: Path) -> None:
    write(tmp_path, PLAIN, "responses-chat/b")
    write(tmp_path, PLAIN, "responses-chat/a")
    write(tmp_path, PLAIN, "tiny-model/checkpoint")
    (tmp_path / "responses-chat/README").touch()
    assert [case.id for case in corpus.find_cases(tmp_path)] == [
        "responses-chat/a",
        "responses-chat/b",
    ]
    assert list(corpus.find_sse_cases(tmp_path)) == []


# --- differences -----------------------------------------------------------------------------


def test_request(tmp_path: Path) -> None:
    case = corpus.load_case(write(tmp_path, PLAIN | {"upstream.request.json": SENT}))
    goldens.check(case)
    spoilt = spoil(case, "upstream.request.json", "Hi", "Ho")
    with pytest.raises(Differs) as caught:
        goldens.check(spoilt)
    assert str(caught.value) == (
        'responses-chat/case: upstream.request.json: .messages[0].content should be "Ho"'
        ' and is "Hi"'
    )


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ("losses = ['x']", 'case.toml: losses[0] should be "x" and is absent'),
        ("status = 400", "case.toml: status should be 400 and is null"),
        ("known-gap = 'x'", "case.toml: it passes: remove known-gap"),
    ],
)
def test_facts_that_do_not_hold(tmp_path: Path, facts: str, why: str) -> None:
    files = PLAIN | {"upstream.request.json": SENT, "case.toml": f"source = ''\n{facts}"}
    with pytest.raises(Differs) as caught:
        goldens.check(corpus.load_case(write(tmp_path, files)))
    assert str(caught.value) == f"responses-chat/case: {why}"


def test_known_gap_has_to_fail(tmp_path: Path) -> None:
    files = PLAIN | {"case.toml": "source = ''\nknown-gap = 'x'", "upstream.request.json": "{}"}
    goldens.check(corpus.load_case(write(tmp_path, files)))


def test_goldens_that_nothing_makes_or_that_are_missing(tmp_path: Path) -> None:
    case = corpus.load_case(write(tmp_path, PLAIN))
    with pytest.raises(Differs, match=r"upstream\.request\.json: it is missing"):
        goldens.check(case)
    (case.folder / "caller.error.json").write_text("{}")
    with pytest.raises(Differs, match=r"caller\.error\.json: nothing makes it; the case gives up"):
        goldens.check(corpus.load_case(case.folder))
    goldens.update(case := corpus.load_case(case.folder), outcomes.translate(case))
    goldens.check(corpus.load_case(case.folder))


def test_stream(tmp_path: Path) -> None:
    """The line, and the path in its document if both have one."""
    case = copy(tmp_path, "responses-chat/parallel-calls-stream")
    goldens.check(case)
    spoilt = spoil(case, "caller.stream.sse", '"sequence_number":1,', '"sequence_number":7,')
    with pytest.raises(Differs) as caught:
        goldens.check(spoilt)
    assert caught.value.file == "caller.stream.sse"
    assert caught.value.why == "line 5.sequence_number should be 7 and is 1"
    spoilt = spoil(spoilt, "caller.stream.sse", "event: response.created", "event: made")
    with pytest.raises(Differs) as caught:
        goldens.check(spoilt)
    assert caught.value.why == "line 1 should be 'event: made' and is 'event: response.created'"


def test_stream_that_is_shorter(tmp_path: Path) -> None:
    case = copy(tmp_path, "responses-chat/parallel-calls-stream")
    golden = case.folder / "caller.stream.sse"
    golden.write_bytes(golden.read_bytes().removesuffix(b"data: [DONE]\n\n"))
    with pytest.raises(Differs, match=r"should be 'absent' and is 'data: \[DONE\]'|should be ''"):
        goldens.check(case)


def test_fold(tmp_path: Path) -> None:
    """A stream and a whole reply that are not the same answer."""
    case = copy(tmp_path, "responses-chat/parallel-calls-stream")
    reply = decode(case.read("upstream.response.json"))
    reply["choices"][0]["message"]["tool_calls"][1]["id"] = "call_x"
    (case.folder / "upstream.response.json").write_bytes(encode(reply))
    goldens.update(case, outcomes.translate(case))
    with pytest.raises(Differs) as caught:
        goldens.check(case)
    assert caught.value.file == "upstream.stream.sse"
    assert caught.value.why.startswith("folded output[")
    assert '.call_id should be "call_x" and is ' in caught.value.why


def test_fold_of_a_reply_that_cannot_be_read(tmp_path: Path) -> None:
    case = copy(tmp_path, "responses-chat/parallel-calls-stream")
    (case.folder / "upstream.response.json").write_text("{}")
    goldens.update(case, outcomes.translate(case))
    facts = case.folder / "case.toml"
    facts.write_text(facts.read_text() + "\nstatus = 502\n")
    with pytest.raises(Differs, match=r"upstream\.response\.json: it cannot be read"):
        goldens.check(corpus.load_case(case.folder))


def test_framing(tmp_path: Path) -> None:
    files = {"case.toml": "source = ''", "stream.sse": "data: x\n\n", "frames.json": "[]"}
    with pytest.raises(Differs) as caught:
        goldens.check(corpus.load_case(write(tmp_path, files, "sse/case")))
    assert caught.value.why == '[0] should be absent and is {"event":null,"data":"x"}'


@pytest.mark.parametrize(
    ("expected", "actual", "why"),
    [
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, ""),
        ({"a": None}, {}, ".a should be null and is absent"),
        ({}, {"a": None}, ".a should be absent and is null"),
        ([1, [2]], [1, [2, 3]], "[1][1] should be absent and is 3"),
        (1, True, " should be 1 and is true"),
        ({}, [], " should be {} and is []"),
        ("", "x" * 300, f' should be "" and is "{"x" * 199}...'),
    ],
)
def test_first_difference(expected: JSON, actual: JSON, why: str) -> None:
    assert why == goldens.first_difference(expected, actual)

"""Settings: what is wrong is named with its place and with what would be right."""

from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from proxy.cli import main
from proxy.loading import load
from proxy.options import OPTIONS
from proxy.settings import Settings, Upstream, key_of, public
from proxy.tables import SettingsError, find_line
from proxy.upstreams import build_upstreams
from translators.profiles import ReasoningAs
from translators.wire import JSON


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ["OPENAI_BASE_URL", "DRAGOMAN_CONFIG", *(o.variable for o in OPTIONS)]:
        monkeypatch.delenv(variable, raising=False)


def write(folder: Path, text: str) -> Path:
    path = folder / "dragoman.toml"
    path.write_text(dedent(text), encoding="utf-8")
    return path


def refusal(folder: Path, text: str, overrides: dict[str, JSON] | None = None) -> str:
    """What is said of a wrong file, without its folder."""
    with pytest.raises(SettingsError) as caught:
        load(write(folder, text), overrides or {}, {})
    return str(caught.value).replace(f"{folder}/", "")


MODEL = """[upstreams.main]
url = "http://x/v1"
[[models]]
name = "m"
upstream = "main"
"""

WRONG = {
    "syntax": ("[server\nport = 1", "dragoman.toml", "line 1"),
    "unknown": ("[server]\n\nprot = 1", "dragoman.toml:3: server.prot", "did you mean 'port'?"),
    "unknown-far": ("[log]\nzzz = 1", "dragoman.toml:2: log.zzz", "known here: format, level"),
    "unknown-table": ("[sever]\nport = 1", "dragoman.toml:1: sever", "did you mean 'server'?"),
    "unknown-in-upstream": (
        '[upstreams.a]\nurl = "http://x/v1"\n[upstreams.main]\ndemo = true\nspeeks = "chat"',
        "dragoman.toml:5: upstreams.main.speeks",
        "did you mean 'speaks'?",
    ),
    "unknown-in-dotted": (
        '[upstreams."gpt-4.1"]\nurll = "http://y/v1"',
        "dragoman.toml:2: upstreams.gpt-4.1.urll",
        "did you mean 'url'?",
    ),
    "unknown-in-vllm": (
        '[upstreams.main.vllm]\nmodel = "m"\nmodle = "m"',
        "dragoman.toml:3: upstreams.main.vllm.modle",
        "did you mean 'model'?",
    ),
    "unknown-in-model": (
        '[upstreams.main]\nurl = "http://y/v1"\n[[models]]\nname = "a"\n[[models]]\nnam = "b"',
        "dragoman.toml:6: models[1].nam",
        "did you mean 'name'?",
    ),
    "missing-in-model": (
        '[[models]]\nname = "a"\n\n[[models]]\nupstream = "b"',
        "dragoman.toml:4: models[1]",
        "name",
    ),
    "missing-in-vllm": (
        "[upstreams.main.vllm]\nargs = []",
        "dragoman.toml:1: upstreams.main.vllm",
        "model",
    ),
    **{
        f"empty-{name}": (
            f'[upstreams.a]\nurl = "http://x/v1"\n[[models]]\n{name} = ""\n{other}',
            f"dragoman.toml:4: models[0].{name}",
            "length >= 1",
        )
        for name, other in (("name", ""), ("upstream_model", 'name = "m"'))
    },
    **{
        f"{name}-of-{member}": (
            f'[upstreams.a]\nurl = "http://x/v1"\n[[models]]\nname = "m"\n'
            f'upstream = "a"\n{name} = {{ {member} = "x" }}',
            f"dragoman.toml:6: models[0].{name}.{member}",
            right,
        )
        for name, member, right in (
            ("sets", "model", "upstream_model"),
            ("defaults", "model", "upstream_model"),
            ("sets", "stream", "callers say that"),
            ("sets", "messages", "callers say that"),
        )
    },
    "empty-model-of-vllm": (
        '[upstreams.b.vllm]\nmodel = ""',
        "dragoman.toml:2: upstreams.b.vllm.model",
        "length >= 1",
    ),
    "type": ('[server]\nport = "80"', "dragoman.toml:2: server.port", "int"),
    "type-of-table": ("server = 5", "dragoman.toml:1: server", "object"),
    "type-in-upstream": (
        '[upstreams.a]\nurl = "http://x/v1"\n[upstreams.b]\nurl = 5',
        "dragoman.toml:4: upstreams.b.url",
        "str",
    ),
    "type-in-array": (
        '[upstreams.b.vllm]\nmodel = "m"\nargs = ["--x", 5]',
        "dragoman.toml:3: upstreams.b.vllm.args[1]",
        "str",
    ),
    "port": ("[server]\nport = 70000", "dragoman.toml:2: server.port", "65535"),
    "body-limit": ("[server]\nmax_body_bytes = 0", "dragoman.toml:2: server.max_body_bytes", "1"),
    "drain": ("[server]\ndrain_s = -1", "dragoman.toml:2: server.drain_s", "0"),
    "timeout": (
        '[upstreams.a]\nurl = "http://x/v1"\nread_timeout_s = -5.0',
        "dragoman.toml:3: upstreams.a.read_timeout_s",
        "0",
    ),
    "word": ('[log]\nlevel = "loud"', "dragoman.toml:2: log.level", "debug, info, warning, error"),
    "word-of-policy": (
        '[policy]\nreasoning_as = "prose"',
        "dragoman.toml:2: policy.reasoning_as",
        "summary, content, both",
    ),
    "word-of-upstream": (
        '[upstreams.a]\nurl = "http://x/v1"\nspeaks = "messages"',
        "dragoman.toml:3: upstreams.a.speaks",
        "auto, chat, responses, completions, both",
    ),
    "word-of-render": (
        '[upstreams.a]\nurl = "http://x/v1"\nspeaks = "completions"\nrender = "jinja"',
        "dragoman.toml:4: upstreams.a.render",
        "raw, chat-template",
    ),
    **{
        f"{name}-without-{needed}": (
            f'[upstreams.a]\nurl = "http://x/v1"\n{name} = {value}',
            f"dragoman.toml:3: upstreams.a.{name}",
            f"only with '{needed}'",
        )
        for name, value, needed in (
            ("session_cookie", "true", "urls"),
            ("eject_after", "5", "urls"),
            ("drain_file", '"drain"', "urls"),
            ("health_interval_s", "0", "urls"),
            ("queue_limit", "0", "max_concurrent"),
            ("queue_timeout_s", "5", "max_concurrent"),
        )
    },
    **{
        f"raw-prompt-with-{name}": (
            '[upstreams.a]\nurl = "http://x/v1"\nspeaks = "completions"\n'
            f'[[models]]\nname = "m"\nupstream = "a"\n{name} = {value}',
            f"dragoman.toml:7: models[0].{name}{below}",
            "a raw prompt has no template",
        )
        for name, value, below in (
            ("chat_template_kwargs", "{ a = 1 }", ""),
            ("reasoning", "false", ""),
            ("sets", "{ chat_template_kwargs = { a = 1 } }", ".chat_template_kwargs"),
            ("defaults", "{ chat_template_kwargs = { a = 1 } }", ".chat_template_kwargs"),
        )
    },
    "key-of-a-spawned-vllm": (
        '[upstreams.a]\nkey = "sk-1"\n[upstreams.a.vllm]\nmodel = "m"',
        "dragoman.toml:2: upstreams.a.key",
        "'api_key' in its table",
    ),
    "key-of-the-demo": (
        '[upstreams.a]\ndemo = true\nkey_env = "HOME"',
        "dragoman.toml:3: upstreams.a.key_env",
        "takes no key",
    ),
    "two-keys": (
        '[upstreams.a]\nurl = "http://x/v1"\nkey = "a"\nkey_env = "B"',
        "dragoman.toml:4: upstreams.a.key_env",
        "key or key_env",
    ),
    "nothing-to-render": (
        '[upstreams.a]\nurl = "http://x/v1"\nspeaks = "chat"\nrender = "raw"',
        "dragoman.toml:4: upstreams.a.render",
        'speaks = "completions"',
    ),
    "profile": (
        '[upstreams.a]\nurl = "http://x/v1"\nprofile = "vlm"',
        "dragoman.toml:3: upstreams.a.profile",
        "vllm, openai",
    ),
    "overrides": (
        '[upstreams.a]\nurl = "http://x/v1"\n[upstreams.a.overrides]\ndeveloper_rle = true',
        "dragoman.toml:4: upstreams.a.overrides.developer_rle",
        "did you mean 'developer_role'?",
    ),
    "overrides-type": (
        '[upstreams.a]\nurl = "http://x/v1"\noverrides = {files = "yes"}',
        "dragoman.toml:3: upstreams.a.overrides.files",
        "bool",
    ),
    "overrides-word": (
        '[upstreams.a]\nurl = "http://x/v1"\noverrides = {system_messages = "one"}',
        "dragoman.toml:3: upstreams.a.overrides.system_messages",
        "merge, merge-leading, keep",
    ),
    "no-such-upstream": (
        '[upstreams.main]\nurl = "http://x/v1"\n[[models]]\nname = "m"\nupstream = "mian"',
        "dragoman.toml:5: models[0].upstream",
        "known: main",
    ),
    "no-upstream-named": (
        '[upstreams.main]\nurl = "http://x/v1"\n[[models]]\nname = "m"',
        "dragoman.toml:3: models[0].upstream",
        "known: main",
    ),
    "overrides-of-model": (
        f"{MODEL}overrides = {{developer_rle = true}}",
        "dragoman.toml:6: models[0].overrides.developer_rle",
        "did you mean 'developer_role'?",
    ),
    "overrides-of-model-word": (
        f"{MODEL}[models.overrides]\nthink_tags = 'on'",
        "dragoman.toml:7: models[0].overrides.think_tags",
        "off, tags, opened",
    ),
    "policy-of-model": (
        f"{MODEL}policy = {{orphans = 'keep'}}",
        "dragoman.toml:6: models[0].policy.orphans",
        "repair, refuse",
    ),
    "reasoning-of-model": (
        f"{MODEL}reasoning = 'off'",
        "dragoman.toml:6: models[0].reasoning",
        "bool",
    ),
    "speaks-of-model": (
        f"{MODEL}speaks = 'both'",
        "dragoman.toml:6: models[0].speaks",
        "chat, responses",
    ),
    "template-of-model": (
        f"{MODEL}[models.sets]\nchat_template_kwargs = 1",
        "dragoman.toml:7: models[0].sets.chat_template_kwargs",
        "expected a table",
    ),
    "header": (
        f"{MODEL}[models.headers]\n'x y' = 'a'",
        "dragoman.toml:6: models[0].headers.x y",
        "expected the name of a header",
    ),
    "header-ours": (
        f"{MODEL}[models.headers]\nContent-Type = 'a'",
        "dragoman.toml:7: models[0].headers.Content-Type",
        "the proxy sets this header itself",
    ),
    "header-key": (
        f"{MODEL}[models.headers]\nauthorization = 'Bearer sk-1'",
        "dragoman.toml:7: models[0].headers.authorization",
        "key_env",
    ),
    "header-value": (
        f'{MODEL}[models.headers]\nx-a = "sk-\\n1"',
        "dragoman.toml:7: models[0].headers.x-a",
        "printable ASCII",
    ),
    "header-twice": (
        f"{MODEL}headers = {{x-a = 'a', X-A = 'b'}}",
        "dragoman.toml:6: models[0].headers.X-A",
        "comes twice",
    ),
    "header-env": (
        f"{MODEL}[models.headers_env]\nx-a = 'NOT_SET'",
        "dragoman.toml:7: models[0].headers_env.x-a",
        "NOT_SET",
    ),
    "preset": (
        '[upstreams.a]\npreset = "groqq"',
        "dragoman.toml:2: upstreams.a.preset",
        "openai, baseten",
    ),
    "azure-unknown": (
        "[upstreams.a.azure]\nendpoint = 'https://x'\nversion = '1'",
        "dragoman.toml:3: upstreams.a.azure.version",
        "did you mean 'api_version'?",
    ),
    "azure-endpoint": (
        "[upstreams.a.azure]\nendpoint = 'x.openai.azure.com'",
        "dragoman.toml:2: upstreams.a.azure.endpoint",
        "http://",
    ),
    "azure-root": (
        "[upstreams.a.azure]\nendpoint = 'https://x.openai.azure.com/openai/v1/'",
        "dragoman.toml:2: upstreams.a.azure.endpoint",
        "leave out /openai",
    ),
    "azure-form": (
        "[upstreams.a.azure]\nendpoint = 'https://x'\nform = 'v2'",
        "dragoman.toml:3: upstreams.a.azure.form",
        "v1, deployments",
    ),
    "azure-auth": (
        "[upstreams.a.azure]\nendpoint = 'https://x'\nauth = 'token'",
        "dragoman.toml:3: upstreams.a.azure.auth",
        "api-key, bearer",
    ),
    "azure-version": (
        "[upstreams.a.azure]\nendpoint = 'https://x'\nform = 'deployments'",
        "dragoman.toml:1: upstreams.a.azure",
        "needs an api_version",
    ),
    "azure-deployment": (
        "[upstreams.a.azure]\nendpoint = 'https://x'\ndeployment = 'd'",
        "dragoman.toml:3: upstreams.a.azure.deployment",
        "upstream_model",
    ),
    "azure-and-url": (
        "[upstreams.a]\nurl = 'http://x/v1'\n[upstreams.a.azure]\nendpoint = 'https://x'",
        "dragoman.toml:1: upstreams.a",
        "exactly one of",
    ),
    "same-model-twice": (
        '[upstreams.main]\nurl = "http://x/v1"\n'
        '[[models]]\nname = "m"\nupstream = "main"\n[[models]]\nname = "m"\nupstream = "main"',
        "dragoman.toml:7: models[1].name",
        "m",
    ),
    "key-env": (
        '[upstreams.a]\nurl = "http://x/v1"\nkey_env = "NOT_SET"',
        "dragoman.toml:3: upstreams.a.key_env",
        "NOT_SET",
    ),
    "two-kinds": (
        '[upstreams.a]\nurl = "http://x/v1"\ndemo = true',
        "dragoman.toml:1: upstreams.a",
        "exactly one of preset, url, urls, azure, vllm and demo",
    ),
    "no-kind": ("[upstreams.a]", "dragoman.toml:1: upstreams.a", "exactly one of"),
    "url": ('[upstreams.a]\nurl = "x:80"', "dragoman.toml:2: upstreams.a.url", "http://"),
    "url-port": (
        '[upstreams.a]\nurl = "http://host:port/v1"',
        "dragoman.toml:2: upstreams.a.url",
        "http://",
    ),
    "url-user": (
        '[upstreams.a]\nurl = "http://user:sk-1@x/v1"',
        "dragoman.toml:2: upstreams.a.url",
        "without a query, a user or a password",
    ),
    "url-query": (
        '[upstreams.a]\nurl = "http://x/v1?api-version=1"',
        "dragoman.toml:2: upstreams.a.url",
        "without a query",
    ),
    "url-ours": (
        '[server]\nport = 9000\n[upstreams.a]\nurl = "http://localhost:9000/v1"',
        "dragoman.toml:4: upstreams.a.url",
        "the proxy itself listens there",
    ),
    "url-space": (
        '[upstreams.a]\nurl = "http://host name/v1"',
        "dragoman.toml:2: upstreams.a.url",
        "http://",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_setting(case: str, tmp_path: Path) -> None:
    """The message has the file, the line and the key, and what would be right."""
    text, place, right = WRONG[case]
    message = refusal(tmp_path, text)
    assert message.startswith((f"{place}:", f"{place}, "))
    assert right in message.removeprefix(place)
    assert "\n" not in message
    assert "sk-" not in message


def test_flag_takes_the_place_of_the_files_key(tmp_path: Path) -> None:
    path = tmp_path / "dragoman.toml"
    path.write_text('[upstreams.default]\nurl = "http://x/v1"\nkey = "old"\n')
    upstream = load(path, {"upstreams.default.key_env": "NEW"}, {"NEW": "new"}).upstreams["default"]
    assert key_of(upstream, {"NEW": "new"}) == "new"


def test_flag_for_a_vllm_takes_no_key_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dragoman.toml"
    path.write_text('[upstreams.default]\nurl = "http://x/v1"\nkey = "old"\n')
    upstream = load(path, {"upstreams.default.vllm.model": "m"}).upstreams["default"]
    assert (upstream.url, upstream.key) == (None, None)


@pytest.mark.parametrize("key", ["sk-\nx", "sk-\x00", "sk-ü\u2026"])
@pytest.mark.parametrize("named", [True, False])
def test_key_that_no_header_can_hold(key: str, named: bool) -> None:
    """It is refused at the start, and not shown."""
    upstream = {"url": "http://x/v1", **({"key_env": "KEY"} if named else {"key": key})}
    with pytest.raises(SettingsError) as caught:
        load(None, {"upstreams.default": upstream}, {"KEY": key})
    assert "upstreams.default.key" in str(caught.value)
    assert "sk-" not in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load(tmp_path / "absent.toml", {}, {})
    with pytest.raises(SettingsError, match="Is a directory"):
        load(tmp_path, {}, {})
    path = tmp_path / "latin.toml"
    path.write_bytes(b'x = "\xfc"')
    with pytest.raises(SettingsError, match=r"latin\.toml"):
        load(path, {}, {})


def test_override_of_what_is_no_table(tmp_path: Path) -> None:
    message = refusal(tmp_path, "server = 5", {"server.port": 80})
    assert message.startswith("dragoman.toml:1: server:")


def test_everything_can_be_set(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [server]
        port = 9000
        drain_s = 1
        [policy]
        reasoning_as = "content"
        [upstreams.main]
        url = "https://host/v1/"
        key_env = "KEY"
        speaks = "responses"
        profile = "openai"
        overrides = { files = false }
        [upstreams.spawned.vllm]
        model = "org/m"
        args = ["--seed", "0"]
        env = { X = "1" }
        [upstreams.try]
        demo = true
        [[models]]
        name = "a/b"
        upstream = "main"
        upstream_model = "real"
        defaults = { temperature = 0.5 }
        [models.sets]
        seed = 7
        """,
    )
    settings = load(path, {}, {"KEY": "sk-1"})
    assert (settings.server.port, settings.server.drain_s) == (9000, 1.0)
    assert settings.policy.reasoning_as is ReasoningAs.CONTENT
    assert key_of(settings.upstreams["main"], {"KEY": "sk-1"}) == "sk-1"
    assert settings.upstreams["spawned"].vllm is not None
    assert settings.models[0].defaults == {"temperature": 0.5}
    assert settings.models[0].sets == {"seed": 7}


def test_the_upstream_of_the_flags_is_the_first() -> None:
    """Without models it serves all of them."""
    url = Upstream(url="http://x/v1")
    settings = Settings(upstreams={"a": url, "default": url, "b": url})
    assert [upstream.name for upstream in build_upstreams(settings)] == ["default", "a", "b"]


def test_public_settings_have_no_secrets() -> None:
    settings = load(
        None,
        {
            "upstreams.a": {"url": "http://x/v1", "key": "sk-2"},
            "upstreams.b.vllm": {
                "model": "m",
                "args": ["--api-key", "sk-3", "--hf-token=sk-4", "--seed", "0"],
                "env": {"HF_TOKEN": "sk-5"},
            },
        },
        {},
    )
    text = msgspec.json.encode(public(settings)).decode()
    assert "sk-" not in text
    assert "--seed" in text
    assert "x/v1" in text
    assert settings.upstreams["a"].key == "sk-2"


@pytest.mark.parametrize(
    ("text", "dotted", "line"),
    [
        ("a = 1", "a", 1),
        ("[t]\na = 1", "t.a", 2),
        ("[t] # note\n a = 1", "t.a", 2),
        ("t.a = 1", "t.a", 1),
        ("[t]\nx = 1", "t.a", 1),
        ("[t]\nx = {a = 1}", "t.x.a", 2),
        ('["q.r"]\na = 1', "q.r.a", 2),
        ("[[m]]\na = 1\n[[m]]\na = 2", "m[1].a", 4),
        ("[[m]]\n[m.s]\na = 1\n[[m]]\n[m.s]\na = 2", "m[1].s.a", 6),
        ("x = 1", "a", None),
        ("", "a", None),
    ],
)
def test_line_of_a_key(text: str, dotted: str, line: int | None) -> None:
    assert find_line(text, dotted) == line


# --- precedence ----------------------------------------------------------------------------


def effective(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> JSON:
    """The settings in force as ``dragoman check`` prints them."""
    main(["check", *arguments])
    out = capsys.readouterr().out
    return msgspec.json.decode(out[: out.rindex("\n}") + 2].encode())


FILE = """
[server]
host = "127.0.0.3"
port = 3
[log]
level = "error"
[upstreams.default]
demo = true
"""


def test_flag_before_variable_before_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAGOMAN_CONFIG", str(write(tmp_path, FILE)))
    monkeypatch.setenv("DRAGOMAN_HOST", "127.0.0.2")
    monkeypatch.setenv("DRAGOMAN_PORT", "2")
    settings = effective(capsys, ["--port", "1"])
    assert settings["server"]["port"] == 1
    assert settings["server"]["host"] == "127.0.0.2"
    assert settings["log"]["level"] == "error"


def test_flag_for_the_file_before_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAGOMAN_CONFIG", str(tmp_path / "absent.toml"))
    path = write(tmp_path, FILE)
    assert effective(capsys, ["--config", str(path)])["server"]["port"] == 3


def test_flag_for_another_kind_of_upstream_replaces_that_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--upstream`` on top of a file whose default upstream is the demo."""
    path = write(tmp_path, FILE)
    settings = effective(capsys, ["--config", str(path), "--upstream", "http://127.0.0.1:1/v1"])
    assert settings["upstreams"]["default"]["url"] == "http://127.0.0.1:1/v1"
    assert settings["upstreams"]["default"]["demo"] is False


def test_flag_for_an_upstream_makes_a_variable_for_another_void(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAGOMAN_VLLM", "org/model")
    settings = effective(capsys, ["--upstream", "http://127.0.0.1:1/v1"])
    assert "vllm" not in settings["upstreams"]["default"]


def test_openai_base_url_is_the_upstream_of_last_resort(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert effective(capsys, [])["upstreams"]["default"]["url"] == "http://127.0.0.1:1/v1"
    explicit = effective(capsys, ["--upstream", "http://127.0.0.1:2/v1"])
    assert explicit["upstreams"]["default"]["url"] == "http://127.0.0.1:2/v1"
    refined = effective(capsys, ["--upstream-speaks", "chat"])
    assert refined["upstreams"]["default"]["speaks"] == "chat"
    assert refined["upstreams"]["default"]["url"] == "http://127.0.0.1:1/v1"


def test_empty_openai_base_url_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr("proxy.cli.find_local", nothing)
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    assert effective(capsys, [])["upstreams"]["default"]["demo"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--upstream", "no url"], "upstreams.default.url"),
        (["--upstream-speaks", "chat"], "--upstream, --preset or --vllm"),
        (["--upstream", "http://x/v1", "--vllm", "m"], "exactly one of"),
        (["--upstream", "http://x/v1", "--upstream-key-env", "ABSENT"], "ABSENT"),
        (["--", "--seed", "0"], "--vllm"),
        (["--port", "99999"], "65535"),
        (["--config", "absent.toml"], "absent.toml"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "check"])
def test_wrong_flag(
    command: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dragoman: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("DRAGOMAN_PORT", "many", "not a number"),
        ("DRAGOMAN_PORT", "", "not a number"),
        ("DRAGOMAN_LOG_LEVEL", "loud", "debug, info"),
        ("DRAGOMAN_REASONING_AS", "prose", "summary, content, both"),
    ],
)
def test_wrong_variable_is_named(
    variable: str,
    value: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["check", "--upstream", "http://127.0.0.1:1/v1"]) == 2
    error = capsys.readouterr().err
    assert variable in error
    assert words in error

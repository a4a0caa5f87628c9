import pytest

from translators.envelope import error_of, info_of, is_error, read_error, write_error
from translators.errors import (
    ErrorInfo,
    MalformedRequest,
    UnsupportedFeature,
    UpstreamProtocolError,
)
from translators.wire import JSON, encode

PARAMS = {"messages": "items", "max_tokens": "max_output_tokens"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "No."}}', "No."),
        (b'{"error": "No."}', "No."),
        (b'{"detail": "No."}', "No."),
        (b'{"detail": [{"loc": ["body", "x"], "msg": "No."}]}', "No."),
        (b'{"object": "error", "message": "No."}', "No."),
        (b'{"message": "No."}', "No."),
        (b'"No."', "No."),
        (b"<h1>No.</h1>\n", "<h1>No.</h1>"),
        (b"", "Upstream error 400."),
        (b"{}", "Upstream error 400."),
        (b"null", "Upstream error 400."),
        (b'{"error": {}}', "Upstream error 400."),
        (b'{"error": {"message": ""}}', "Upstream error 400."),
        (b'{"error": {"message": {"a": 1}}}', "Upstream error 400."),
        (b"\xff", "\ufffd"),
    ],
)
def test_messages(body: bytes, message: str) -> None:
    assert message == read_error(400, body, PARAMS).message


def test_long_messages_are_cut() -> None:
    assert len(read_error(400, b"x" * 10_000, PARAMS).message) == 4000


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", None),
        (401, "authentication_error", "invalid_api_key"),
        (403, "permission_error", None),
        (404, "invalid_request_error", None),
        (418, "invalid_request_error", None),
        (429, "rate_limit_error", "rate_limit_exceeded"),
        (500, "server_error", None),
        (503, "server_error", None),
    ],
)
def test_types_and_codes_by_status(status: int, kind: str, code: str | None) -> None:
    """Class names and numbers, as vLLM gives them, are no types and codes."""
    error = {"error": {"message": "No.", "type": "BadRequestError", "code": status}}
    expected = ErrorInfo("No.", status, kind, code)
    assert expected == read_error(status, encode(error), PARAMS)


@pytest.mark.parametrize("kind", ["Bad Request", "NotFoundError", "error", "", None, 5])
def test_foreign_types_are_replaced(kind: JSON) -> None:
    assert error_of({"error": {"type": kind}}, 400, PARAMS).type == "invalid_request_error"


def test_given_type_and_code_are_kept() -> None:
    error = {"error": {"message": "No.", "type": "billing_error", "code": "no_money"}}
    assert ErrorInfo("No.", 400, "billing_error", "no_money") == error_of(error, 400, PARAMS)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 512 tokens.",
        "the prompt is longer than the maximum model length of 512",
        "exceeds the available context size",
        # OpenAI, DeepSeek, and vLLM until 0.9
        "This model's maximum context length is 16384 tokens. However, you requested 19591 tokens "
        "(9591 in the messages, 10000 in the completion). Please reduce the length of the messages "
        "or completion.",
        # vLLM until 0.11
        "'max_tokens' or 'max_completion_tokens' is too large: 4000. This model's maximum context "
        "length is 4096 tokens and your request has 120 input tokens (4000 > 4096 - 120).",
        # vLLM since
        "This model's maximum context length is 4096 tokens. However, you requested 100 output "
        "tokens and your prompt contains at least 3997 input tokens, for a total of at least 4097.",
        "Input length (5000) exceeds model's maximum context length (4096).",
        "The engine prompt length 5000 exceeds the max_model_len 4096. Please reduce prompt.",
        # SGLang
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "Requested token count exceeds the model's maximum context length of 4096 tokens. You "
        "requested a total of 5010 tokens: 4010 tokens from the input messages and 1000 tokens for "
        "the completion.",
        # llama.cpp
        "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
        # LM Studio
        "However, the model is loaded with context length of only 4096 tokens",
    ],
)
def test_context_overflow(message: str) -> None:
    error = error_of({"error": {"message": message, "param": "max_tokens"}}, 400, PARAMS)
    assert (error.code, error.param) == ("context_length_exceeded", "items")


@pytest.mark.parametrize(
    "message",
    [
        "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context "
        "length is 4096 tokens and your request has 12 input tokens (5000 > 4096 - 12).",
        "This model's maximum context length is 4096 tokens. However, you requested 5010 tokens "
        "(10 in the messages, 5000 in the completion).",
        "This model's maximum context length is 4096 tokens. However, you requested 4096 output "
        "tokens and your prompt contains at least 1 input tokens, for a total of at least 4097.",
        "Requested token count exceeds the model's maximum context length of 4096 tokens. You "
        "requested a total of 5010 tokens: 10 tokens from the input messages and 5000 tokens for "
        "the completion.",
    ],
)
def test_output_limit_beyond_the_context_is_no_overflow(message: str) -> None:
    """No prompt would be short enough, so the fault is the limit's."""
    error = error_of({"error": {"message": message, "code": 400}}, 400, PARAMS)
    assert (error.code, error.param) == (None, "max_output_tokens")


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens=5000 cannot be greater than max_model_len=4096. Please request fewer output "
        "tokens.",
        "max_tokens must be at least 1, got 0.",
    ],
)
def test_bad_output_limit_is_no_overflow(message: str) -> None:
    assert None is error_of({"error": {"message": message}}, 400, PARAMS).code


def test_context_overflow_needs_a_request_fault() -> None:
    assert None is error_of({"error": "maximum context length"}, 500, PARAMS).code


def test_unknown_model() -> None:
    error = error_of({"error": {"message": "The model `x` does not exist."}}, 404, PARAMS)
    assert error.code == "model_not_found"


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("messages", "items"),
        ("messages[0].content", "items"),
        ("body.messages.0.content", "items"),
        ("max_tokens", "max_output_tokens"),
        ("top_p", "top_p"),
        (None, None),
        (5, None),
    ],
)
def test_params_are_renamed(param: JSON, expected: str | None) -> None:
    assert expected == error_of({"error": {"param": param}}, 400, PARAMS).param


def test_param_of_a_validation_error() -> None:
    body = {"detail": [{"loc": ["body", "tools", 0, "function"], "msg": "No."}]}
    assert error_of(body, 422, PARAMS).param == "tools[0].function"


@pytest.mark.parametrize(
    ("code", "status"), [(404, 404), (503, 503), (None, 502), ("x", 502), (200, 502), (True, 502)]
)
def test_status_of_an_error_inside_a_200(code: JSON, status: int) -> None:
    assert status == error_of({"error": {"code": code}}, 200, PARAMS).status


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"error": {"message": "No."}}, True),
        ({"error": "No."}, True),
        ({"object": "error", "message": "No."}, True),
        ({"detail": "No."}, True),
        ({"error": None}, False),
        ({"error": {"message": "No."}, "choices": []}, False),
        ({"choices": []}, False),
        ([], False),
    ],
)
def test_is_error(value: JSON, expected: bool) -> None:
    assert expected is is_error(value, "choices")


def test_write_error() -> None:
    error = ErrorInfo("No.", 400, "invalid_request_error", None, "items")
    expected = {"message": "No.", "type": "invalid_request_error", "param": "input", "code": None}
    assert {"error": expected} == write_error(error, {"items": "input"})
    assert None is write_error(ErrorInfo("No."), {})["error"]["param"]


def test_info_of() -> None:
    """A path in the upstream's body is not told as the caller's."""
    bad = ErrorInfo("No.", 400, "invalid_request_error", None, "input")
    assert bad == info_of(MalformedRequest("No.", param="input"))
    assert info_of(UnsupportedFeature("No.")).code == "unsupported_feature"
    message = "The upstream's answer breaks its schema: No."
    fault = ErrorInfo(message, 502, "server_error", "upstream_invalid_response")
    assert fault == info_of(UpstreamProtocolError("No.", param="choices"))

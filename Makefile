lock:
	uv pip compile pyproject.toml --extra build --universal --python-version 3.11 --generate-hashes --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --extra build --extra test --extra lint --universal --python-version 3.11 --generate-hashes --no-header -q -o requirements-dev.lock

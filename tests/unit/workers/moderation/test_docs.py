"""The policies shown in docs/moderation.md are ones that load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workers.moderation.policy_files import load_policy

DOCUMENT = (Path(__file__).parents[4] / "docs" / "moderation.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.S)


@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_a_policy_shown_in_the_documentation_loads(tmp_path: Path, number: int) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(SHOWN[number], encoding="utf-8")
    assert load_policy(path).document.rules

"""Pages that are made from the code are up to date."""

import runpy

from tests.conftest import ROOT


def test_the_page_of_settings_is_what_the_schema_says() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "settings_page.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), "run python tools/settings_page.py"

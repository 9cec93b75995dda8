"""The page of the settings, held against the settings."""

from deploy.settings_page import PAGE, written


def test_the_page_of_settings_is_what_the_settings_say() -> None:
    assert PAGE.read_text() == written(), "python -m deploy.settings_page writes it anew"

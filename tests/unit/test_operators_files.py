"""Operators' files mean here what oslo.config reads in them."""

from __future__ import annotations

from pathlib import Path

from kernel.registry import Registry
from kernel.settings import Settings
from ops.config import MAIN, load


def loaded(directory: Path, *texts: str) -> Settings:
    """Settings from files, the first the main one, the others its drop-ins."""
    main, *more = texts
    (directory / MAIN).write_text(main)
    (directory / f"{MAIN}.d").mkdir()
    for number, text in enumerate(more):
        (directory / f"{MAIN}.d" / f"{number}.conf").write_text(text)
    return load([directory / MAIN], registry=Registry(), state=directory, environment={})


# --- options that may be repeated ----------------------------------------------------------


def test_drivers_add_up_within_a_file_and_over_files(tmp_path: Path) -> None:
    section = "[oslo_messaging_notifications]\n"
    settings = loaded(tmp_path, f"{section}driver = messagingv2\ndriver = log\n", f"{section}driver = ['noop', test]\n")
    assert settings.oslo_messaging_notifications.driver == ("messagingv2", "log", "noop", "test")


def test_policy_directories_add_up(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "[oslo_policy]\npolicy_dirs = a\npolicy_dirs = b,\n  c\n")
    assert settings.oslo_policy.policy_dirs == ("a", "b", "c")


def test_of_any_other_option_the_last_one_counts(tmp_path: Path) -> None:
    section = "[oslo_messaging_notifications]\n"
    settings = loaded(tmp_path, f"{section}topics = a\ntopics = b, c\n", f"{section}topics = d\n")
    assert settings.oslo_messaging_notifications.topics == ("d",)

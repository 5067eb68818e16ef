"""Who is judged: words, folders, addresses."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from polyturn.cli.policy import Means, answer_of, check_policy, model_folder, open_policy, seated
from polyturn.cli.subject import MAIN, held_out, suite_of
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Ask


def model(folder: Path, name: str = "config.json", age_s: float = 0.0) -> Path:
    folder.mkdir(parents=True)
    (folder / name).write_text("{}")
    now = folder.stat().st_mtime
    os.utime(folder, (now - age_s, now - age_s))
    return folder


def test_a_model_folder_and_an_adapter_are_taken_as_they_are(tmp_path: Path) -> None:
    assert model_folder(model(tmp_path / "a")) == tmp_path / "a"
    assert model_folder(model(tmp_path / "b", "adapter_config.json")) == tmp_path / "b"


def test_the_newest_stage_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    model(tmp_path / "checkpoints" / "stage1", age_s=100)
    newest = model(tmp_path / "checkpoints" / "stage2", age_s=10)
    model(tmp_path / "checkpoints" / "stage2-best")
    assert model_folder(tmp_path) == newest


def test_the_stage_that_a_run_names_comes_before_a_newer_control(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    learned = model(tmp_path / "checkpoints" / "stage2", age_s=100)
    control = model(tmp_path / "checkpoints" / "stage1_longer", age_s=10)
    (tmp_path / "results.json").write_text('{"model": "stage2"}')
    assert model_folder(tmp_path) == learned
    for other in ('{"model": "gone"}', "{}"):
        (tmp_path / "results.json").write_text(other)
        assert model_folder(tmp_path) == control


@pytest.mark.parametrize(("files", "said"), [
    (["run.json"], "no finished stage"), ([], "holds no model"), (["model.safetensors"], "holds no model"),
])
def test_folders_without_a_model(tmp_path: Path, files: list[str], said: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(BadInput, match=said):
        model_folder(tmp_path)
    with pytest.raises(BadInput, match="does not exist"):
        check_policy(str(tmp_path / "gone"))


def test_words() -> None:
    for word in ("base", "random", "null", "oracle", "http://localhost:1/v1"):
        check_policy(word)
    with pytest.raises(UnknownName, match="did you mean 'oracle'"):
        check_policy("oracl")


def test_an_address_needs_the_models_name_and_both_prices() -> None:
    with pytest.raises(BadInput, match="needs --model"):
        open_policy("http://localhost:1/v1")
    with pytest.raises(BadInput, match="both --price-prompt and --price-completion"):
        open_policy("http://localhost:1/v1", Means("m", price_prompt=1.0))
    made = open_policy("http://localhost:1/v1", Means("m", price_prompt=1.0, price_completion=2.0, spend_limit_usd=3.0))
    assert (made.name, made.info().kind) == (MAIN, "endpoint")


@pytest.mark.parametrize("policy", ["random", "oracle", "http://localhost:1/v1"])
def test_a_device_or_an_engine_for_what_computes_elsewhere_is_refused(policy: str) -> None:
    with pytest.raises(BadInput, match=f"--device cpu would do nothing: .* policy {policy}"):
        open_policy(policy, Means("m", device="cpu"))
    with pytest.raises(BadInput, match=f"--engine plain would do nothing: .* policy {policy}"):
        open_policy(policy, Means("m", engine="plain"))


def test_scripted_players_sit_in_the_judged_seats_alone() -> None:
    match = held_out(suite_of("kuhn_poker"), tasks=1, trials=1)[0]
    other = replace(match, cast={**match.cast, "player_1": replace(match.cast["player_1"], policy="other")})
    found = seated("random", [other])[0]
    assert found.cast["player_1"] is other.cast["player_1"]
    assert found.cast["player_0"] is not other.cast["player_0"]
    assert seated("base", [other])[0] is other


def test_random_draws_differ_by_trial_and_repeat() -> None:
    match = held_out(suite_of("guess_the_number"), tasks=1, trials=1)[0]
    ask = Ask("agent", legal=tuple(map(str, range(1000))))
    said = [answer_of("random", match, "agent", trial)(ask).text for trial in (0, 1, 0)]
    assert said[0] == said[2] != said[1]


def test_a_suite_without_oracle(tmp_path: Path) -> None:
    match = held_out(suite_of("guess_the_number"), tasks=1, trials=1)[0]

    class Bare:
        spec = match.suite.spec

    bare = replace(match, suite=Bare())  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="has no oracle"):
        seated("oracle", [bare])
    assert answer_of("null", bare, "agent", 0)(Ask("agent")).text == ""


@pytest.mark.parametrize("text", [
    "", "[1]", "{", '{"model": ["a"]}', '{"model": "../../elsewhere"}', '{"model": null}'])
def test_results_of_others_name_no_folder_elsewhere(tmp_path: Path, text: str) -> None:
    """What a run names as its model is one of its own stages, or nothing."""
    stage = model(tmp_path / "run" / "checkpoints" / "play")
    model(tmp_path / "elsewhere")
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "results.json").write_text(text)
    if text in ("", "{"):
        with pytest.raises(BadInput, match=r"results\.json is not JSON"):
            model_folder(tmp_path / "run")
    else:
        assert model_folder(tmp_path / "run") == stage

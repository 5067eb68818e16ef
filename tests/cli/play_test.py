"""Watching episodes, and sitting in one."""

from __future__ import annotations

import io
import json

import pytest

from polyturn.cli.main import main


def test_an_episode_is_printed_as_it_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "guess_the_number", "--policy", "oracle", "--episodes", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("to agent: Guess my number from 1 to 16")
    assert lines[1] == "agent (main): [8]"
    assert sum(line.startswith("-- guess_the_number/test/") for line in lines) == 2
    assert sum("score of agent" in line for line in lines) == 2


def test_json_holds_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "kuhn_poker", "--policy", "oracle", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    episode = found["episodes"][0]
    assert (found["environment"], episode["stop"], episode["task"]) == ("kuhn_poker", "done", "kuhn_poker/test/0")
    assert {turn["seat"] for turn in episode["turns"]} == {"player_0", "player_1"}
    assert all(turn["said"] in ("pass", "bet") for turn in episode["turns"])
    assert sum(episode["scores"].values()) == 1.0  # zero-sum on the scale 0..1
    assert "to player_0:" in said.err


def test_a_person_takes_a_seat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("[8]\n[4]\n[12]\n[2]\n[6]\n[10]\n"))
    assert main(["play", "guess_the_number", "--seat", "agent", "--json"]) == 0
    turns = json.loads(capsys.readouterr().out)["episodes"][0]["turns"]
    assert turns[0]["policy"] == "person"
    assert [turn["said"] for turn in turns][:2] == ["[8]", "[4]"][: len(turns)]


def test_a_person_who_leaves_ends_the_episode_as_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("[8]\n"))
    assert main(["play", "guess_the_number", "--seat", "agent", "--json"]) == 3
    assert "no more input" in json.loads(capsys.readouterr().out)["episodes"][0]["reason"]


def test_another_seed_is_another_world(capsys: pytest.CaptureFixture[str]) -> None:
    played = []
    for seed in (0, 0, 1, 2, 3):
        assert main(["play", "guess_the_number", "--policy", "oracle", "--json", "--seed", str(seed)]) == 0
        played.append([turn["said"] for turn in json.loads(capsys.readouterr().out)["episodes"][0]["turns"]])
    assert played[0] == played[1]
    assert any(said != played[0] for said in played)


def test_a_seat_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "kuhn_poker", "--seat", "agent"]) == 2
    assert "has no free seat 'agent'; it has player_0, player_1" in capsys.readouterr().err
